//! Stages driven one after the other, without a server: what a batch of sequences comes to.

use bytes::Bytes;
use stageline_base::{Fault, ReplicaId, SequenceId, Task, Tensors, Trace};
use stageline_core::{BatchId, Emission, Member, Microbatch, Observed, Opening, Output, Sampling, Ticket, Work};
use stageline_engine::{DeviceChoice, Executor, Runner, Setup};
use stageline_model::{KvShape, ModelSpec, TensorSource};
use stageline_ops::{Isa, Threads};
use std::sync::Arc;

// What makes an executor: candle's alone, or any, as the program does.
use super::load_executor;

pub const KV: KvShape = KvShape { blocks: 200, block_size: 16 };
pub const MAX_ROWS: usize = 1024;
const MAX_SEQS: usize = 64;
/// Rows of a batch of single rows.
const AT_ONCE: usize = 16;

/// How a pipeline is run.
#[derive(Clone, Copy)]
pub struct Variant {
    pub stages: usize,
    pub threads: usize,
    pub device: DeviceChoice,
    pub runner: Runner,
}

impl Variant {
    pub fn plain(stages: usize) -> Self {
        Self { stages, threads: 2, device: DeviceChoice::Cpu(Isa::available()[0]), runner: Runner::Candle }
    }
}

/// A sequence to generate: its prompt, and how many tokens at most (fewer if `stop` comes).
#[derive(Clone)]
pub struct Job {
    pub prompt: Vec<u32>,
    pub tokens: usize,
    pub stop: u32,
}

/// What a sequence gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub ids: Vec<u32>,
    pub observed: Vec<Observed>,
}

/// Consecutive stages of a model.
pub struct Pipeline(Vec<Box<dyn Executor>>);

impl Pipeline {
    /// `spec` cut into `variant.stages` stages of as equal numbers of layers as can be.
    pub fn load(weights: &dyn TensorSource, spec: &ModelSpec, variant: Variant) -> Self {
        let threads = Threads::new(variant.threads).expect("threads start");
        let (layers, stages) = (spec.layers(), variant.stages);
        let stage = |k: usize| {
            let range = k * layers / stages..(k + 1) * layers / stages;
            let (device, runner) = (variant.device, variant.runner);
            let setup = Setup {
                device,
                runner,
                threads: threads.clone(),
                kv: KV,
                least_blocks: KV.blocks,
                to_come: 0,
                share: 1.0,
                max_model_len: spec.max_positions(),
                max_rows: MAX_ROWS,
                max_seqs: MAX_SEQS,
            };
            load_executor(weights, spec, range, setup, &mut |_| {}).expect("the stage loads")
        };
        Self((0..stages).map(stage).collect())
    }

    /// Warms all stages up: on a GPU, steps of few rows are recorded ones from here on.
    #[allow(dead_code, reason = "on the CPU it changes nothing")]
    pub fn warm_up(&mut self) {
        for stage in &mut self.0 {
            let refused = stage.warm_up().expect("the stage warms up").refused_recordings;
            assert_eq!(refused, 0, "steps were to be recorded");
        }
    }

    /// Runs `batch` through all stages.
    pub fn run(&mut self, batch: &Microbatch, tokens: &[Tensors]) -> Result<Vec<Option<Emission>>, Fault> {
        let mut inputs = tokens.to_vec();
        for stage in &mut self.0 {
            match stage.run(batch, &inputs)? {
                Output::Emissions(emissions) => return Ok(emissions),
                Output::Sets(_) => panic!("rows of a text do not stay together"),
                Output::Rows(tensors) => {
                    let [bytes] = &tensors[..] else { panic!("{} tensors", tensors.len()) };
                    // At an odd address, since nothing promises alignment.
                    let mut moved = vec![0u8];
                    moved.extend_from_slice(bytes);
                    let bytes = Bytes::from(moved).slice(1..);
                    let rows = batch.rows();
                    let all = Tensors::hidden(rows, bytes).expect("whole rows");
                    let mut first = 0;
                    let cut = batch.members.iter().map(|member| {
                        first += member.rows as usize;
                        all.slice_rows(first - member.rows as usize, member.rows as usize)
                    });
                    inputs = cut.collect();
                }
            }
        }
        panic!("the last stage gave activations")
    }

    /// Runs `jobs` side by side, each step one member of each that is not done, of at most `chunk` rows of its prompt.
    pub fn generate(&mut self, jobs: &[Job], chunk: usize) -> Vec<Answer> {
        let mut answers = vec![Answer::default(); jobs.len()];
        let mut fed = vec![0usize; jobs.len()];
        let lives = |job: &Job, answer: &Answer| answer.ids.len() < job.tokens && answer.ids.last() != Some(&job.stop);
        loop {
            let live: Vec<usize> = (0..jobs.len()).filter(|i| lives(&jobs[*i], &answers[*i])).collect();
            if live.is_empty() {
                return answers;
            }
            let (mut members, mut inputs) = (Vec::new(), Vec::new());
            for &i in &live {
                let all: Vec<u32> = jobs[i].prompt.iter().chain(&answers[i].ids).copied().collect();
                let end = all.len().min(fed[i].saturating_add(chunk));
                members.push(member(i, fed[i]..end, end == all.len(), blocks_of(i, jobs.len())));
                inputs.push(Tensors::tokens(&all[fed[i]..end]));
                fed[i] = end;
            }
            let batch = Microbatch { id: BatchId(0), members };
            let emissions = self.run(&batch, &inputs).expect("the batch runs");
            for (i, emission) in live.into_iter().zip(emissions) {
                if let Some(Emission::Token { id, observed }) = emission {
                    answers[i].ids.push(id);
                    answers[i].observed.extend(observed);
                }
            }
        }
    }

    /// The logits, of `vocab` numbers, after each position of `text` from `first` on: what is before it is fed as one piece,
    /// the rest row by row, [`AT_ONCE`] of them a batch.
    pub fn logits(&mut self, text: &[u32], first: usize, vocab: usize) -> Vec<Vec<f32>> {
        let mut rows = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let members: Vec<Member> = if at == 0 && first > 0 {
                vec![shown(0, 0..first + 1, vocab)]
            } else {
                (at..text.len().min(at + AT_ONCE)).map(|i| shown(0, i..i + 1, vocab)).collect()
            };
            let of = |m: &Member| Tensors::tokens(&text[m.start as usize..(m.start + m.rows) as usize]);
            let inputs: Vec<Tensors> = members.iter().map(of).collect();
            at += members.iter().map(|m| m.rows as usize).sum::<usize>();
            let emissions = self.run(&Microbatch { id: BatchId(0), members }, &inputs).expect("the batch runs");
            for emission in emissions {
                let (id, row) = told(emission, vocab);
                assert_eq!(id, best(&row), "a greedy token is the best of its logits");
                rows.push(row);
            }
        }
        rows
    }

    /// The vectors of sequences, encoded in one batch.
    pub fn embed(&mut self, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let one = |(i, ids): (usize, &Vec<u32>)| Member {
            opening: opening(i, Work::of(Task::EMBED, Sampling::GREEDY)),
            ..member(i, 0..ids.len(), true, Vec::new())
        };
        let batch = Microbatch { id: BatchId(0), members: sequences.iter().enumerate().map(one).collect() };
        let inputs: Vec<_> = sequences.iter().map(|ids| Tensors::tokens(ids)).collect();
        let emissions = self.run(&batch, &inputs).expect("the batch runs");
        let vector = |emission| match emission {
            Some(Emission::Tensors(answer)) => answer[0].tensor.to_f32().expect("numbers"),
            other => panic!("{other:?} is no vector"),
        };
        emissions.into_iter().map(vector).collect()
    }
}

/// Rows of sequence `i` of which the last shows all its logits.
pub fn shown(i: usize, rows: std::ops::Range<usize>, vocab: usize) -> Member {
    let plain = member(i, rows, true, blocks_of(i, 2));
    let sampling = Sampling { top_logits: vocab as u32, ..Sampling::GREEDY };
    let opening = Opening { work: Work::of(Task::GENERATE, sampling), ..(*plain.opening).clone() };
    Member { opening: Arc::new(opening), ..plain }
}

/// A token, and all the logits that came with it.
pub fn told(emission: Option<Emission>, vocab: usize) -> (u32, Vec<f32>) {
    let Some(Emission::Token { id, observed: Some(observed) }) = emission else { panic!("{emission:?}") };
    let mut row = vec![f32::NAN; vocab];
    observed.top.iter().for_each(|(id, logit)| row[*id as usize] = *logit);
    assert!(row.iter().all(|logit| logit.is_finite()));
    (id, row)
}

/// The first of the largest logits.
pub fn best(row: &[f32]) -> u32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|logit| *logit == largest).expect("a largest") as u32
}

/// Every `of`th block from the `i`th on, so that no sequence's blocks are neighbours.
pub fn blocks_of(i: usize, of: usize) -> Vec<u32> {
    (i as u32..KV.blocks as u32).step_by(of).collect()
}

/// Rows of the `i`th sequence, greedy and observed.
pub fn member(i: usize, rows: std::ops::Range<usize>, emit: bool, blocks: Vec<u32>) -> Member {
    let sampling = Sampling { top_logits: 5, ..Sampling::GREEDY };
    Member {
        sequence: SequenceId { boot: 1, counter: i as u64 },
        attempt: 1,
        start: rows.start as u32,
        rows: rows.len() as u32,
        emit,
        ticket: Ticket(i as u64),
        ticket_row: 0,
        opening: opening(i, Work::of(Task::GENERATE, sampling)),
        blocks: blocks.into(),
        history: None,
    }
}

fn opening(i: usize, work: Work) -> Arc<Opening> {
    Arc::new(Opening {
        sequence: SequenceId { boot: 1, counter: i as u64 },
        attempt: 1,
        door: ReplicaId::new("door", 1),
        path: Vec::new(),
        call_id: String::new(),
        trace: Trace::begun(1, 1),
        work,
        known: Vec::new(),
        capacity_tokens: 0,
    })
}
