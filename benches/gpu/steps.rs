//! Decode steps and prefills of a model full of noise, through the executor that a server runs.

use crate::clock::waited;
use crate::device::Device;
use crate::model::{Model, Noise};
use crate::plan::Plan;
use crate::report::{Part, Report};
use stageline_base::{Fault, ReplicaId, SequenceId, Task, Tensors, Trace};
use stageline_core::{BatchId, Member, Microbatch, Opening, Output, Sampling, Ticket, Work};
use stageline_cuda::{StepTraffic, step_traffic};
use stageline_engine::{DeviceChoice, Executor, Numbers, Runner, Setup};
use stageline_model::KvShape;
use stageline_ops::Threads;
use stageline_server::load_executor;
use std::ops::Range;
use std::sync::Arc;

pub const BLOCK_SIZE: usize = 16;
/// What a stage takes beside weights and cache, and a little more: results of a step of the most rows, cuBLASLt's scratch.
const ROOM_BYTES: u64 = 3 << 29;

pub const DECODE: Part = Part {
    name: "decode",
    says: "Weights of noise, in bf16, through the executor that serves: upload and wait included. floor_us: the weights, keys \
           and values once, at the rate of copies within the device; of_floor: that over us; moved: what the kernels' formulas \
           say, over those bytes.",
};
const PREFILL: Part = Part {
    name: "prefill",
    says: "A prompt from its begin to its first token. of_products: tflop_per_s over that of all products of a layer together.",
};

/// So many sequences, each so long.
#[derive(Clone, Copy)]
struct Load {
    sequences: usize,
    length: usize,
}

impl Load {
    fn blocks(self) -> usize {
        self.sequences * self.length.div_ceil(BLOCK_SIZE)
    }

    fn what(self, model: &Model) -> String {
        format!("{}, batch {}, context {}", model.name, self.sequences, self.length)
    }
}

/// How the engine is set up for `model` on device 0.
pub fn setup(plan: &Plan, blocks: usize) -> Result<Setup, Fault> {
    Ok(Setup {
        device: DeviceChoice::Cuda(0),
        runner: Runner::Engine(Numbers::Bf16),
        threads: Threads::new(1)?,
        kv: KvShape { blocks, block_size: BLOCK_SIZE },
        least_blocks: blocks,
        to_come: 0,
        share: 1.0,
        max_model_len: blocks * BLOCK_SIZE,
        max_rows: plan.most_rows(),
        max_seqs: plan.batches.iter().copied().max().unwrap_or(1),
    })
}

/// Measures decode steps against the bytes that none can do without at the copy rate, and prefills against their
/// arithmetic at the rate of products: `rates` are both, in bytes and in operations a second.
pub fn measure(
    device: &Device,
    plan: &Plan,
    model: &Model,
    (copy_rate, product_rate): (f64, f64),
    report: &mut Report,
) -> Result<(), Fault> {
    let longest = plan.prefills.iter().map(|(rows, _)| *rows).max().unwrap_or(1);
    let prompt = Load { sequences: 1, length: longest };
    if let Some(why) = lacks(device, model, prompt)? {
        report.skip(&DECODE, model.name, &why);
        report.skip(&PREFILL, model.name, &why);
        return Ok(());
    }
    // Told before the stage has the memory, which they take for a moment.
    let mut steps = Vec::new();
    for &length in &plan.contexts {
        for &sequences in &plan.batches {
            let load = Load { sequences, length };
            if let Some(why) = lacks(device, model, load)? {
                report.skip(&DECODE, &load.what(model), &why);
                continue;
            }
            match step_traffic(0, &model.llama, BLOCK_SIZE, &vec![length; sequences]) {
                Ok(traffic) => steps.push((load, traffic)),
                Err(fault) => report.note(&DECODE, &load.what(model), Err(fault)),
            }
        }
    }
    let blocks = steps.iter().map(|(load, _)| load.blocks()).chain([prompt.blocks()]).max().unwrap_or(1);
    let mut stage = Stage::load(plan, model, blocks)?;
    for &length in &plan.contexts {
        let mut filled = 0;
        for (load, traffic) in steps.iter().filter(|(load, _)| load.length == length) {
            // The caches hold what real prompts leave there: no NaN, no zeros.
            for sequence in filled..load.sequences {
                stage.run(&Batch::prompt(model, sequence, (length, plan.most_rows())))?;
            }
            filled = load.sequences;
            let measured = decode(plan, model, &mut stage, (*load, traffic), copy_rate, report);
            report.note(&DECODE, &load.what(model), measured);
        }
    }
    for &(rows, chunk) in &plan.prefills {
        let chunks = Batch::prompt(model, 0, (rows, chunk));
        let times = waited(plan.rounds, 1, || stage.run(&chunks))?;
        let flops = model.prefill_flops(rows) / times.median;
        let rates = [
            ("tok_per_s", rows as f64 / times.median),
            ("tflop_per_s", flops / 1e12),
            ("of_products", flops / product_rate),
        ];
        let what = format!("{}, {rows} rows in chunks of {chunk}", model.name);
        report.line(&PREFILL, &what, &[&times.in_us()[..], &rates].concat())?;
    }
    Ok(())
}

fn decode(
    plan: &Plan,
    model: &Model,
    stage: &mut Stage,
    (load, traffic): (Load, &StepTraffic),
    copy_rate: f64,
    report: &mut Report,
) -> Result<(), Fault> {
    let step = [Batch::decode(model, load)];
    let times = waited(plan.rounds, plan.steps, || stage.run(&step))?;
    let floor = traffic.least_bytes as f64 / copy_rate;
    let moved = traffic.step.read_bytes + traffic.step.written_bytes;
    let rates = [
        ("tok_per_s", load.sequences as f64 / times.median),
        ("steps_per_s", 1.0 / times.median),
        ("floor_us", floor * 1e6),
        ("of_floor", floor / times.median),
        // What the kernels' formulas say they move, over what no step can do without.
        ("moved", moved as f64 / traffic.least_bytes as f64),
    ];
    report.line(&DECODE, &load.what(model), &[&times.in_us()[..], &rates].concat())
}

/// What the device lacks for the model and such a load, if anything.
fn lacks(device: &Device, model: &Model, load: Load) -> Result<Option<String>, Fault> {
    let llama = &model.llama;
    let position = 2 * llama.layers * llama.kv_heads * llama.head_dim * 2;
    let needed = model.parameters() * 2 + (load.blocks() * BLOCK_SIZE * position) as u64 + ROOM_BYTES;
    let free = device.gpu.memory()?.0 as u64;
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let why = || format!("it takes {:.1} GB of device memory, {:.1} are free", gb(needed), gb(free));
    Ok((needed > free).then(why))
}

/// The whole model as one stage.
struct Stage(Box<dyn Executor>);

impl Stage {
    fn load(plan: &Plan, model: &Model, blocks: usize) -> Result<Self, Fault> {
        let layers = 0..model.llama.layers;
        let mut executor = load_executor(&Noise::of(model), &model.spec, layers, setup(plan, blocks)?, &mut |_| {})?;
        executor.warm_up()?;
        Ok(Self(executor))
    }

    /// Runs `batches`, one after the other.
    fn run(&mut self, batches: &[Batch]) -> Result<(), Fault> {
        for Batch { microbatch, inputs } in batches {
            let output = self.0.run(microbatch, inputs)?;
            let Output::Emissions(tokens) = output else { return Err(Fault::internal("no tokens came of a step")) };
            if tokens.iter().map(Option::is_some).ne(microbatch.members.iter().map(|member| member.emit)) {
                return Err(Fault::internal("other tokens came of a step than were asked for"));
            }
        }
        Ok(())
    }
}

/// Rows that run at once, and their token ids. Made before the clock runs.
struct Batch {
    microbatch: Microbatch,
    inputs: Vec<Tensors>,
}

impl Batch {
    fn new(model: &Model, members: Vec<Member>) -> Self {
        let id = |position: u32| position.wrapping_mul(7919) % model.llama.vocab as u32;
        let ids = |member: &Member| (member.start..member.start + member.rows).map(id).collect::<Vec<u32>>();
        let inputs = members.iter().map(|member| Tensors::tokens(&ids(member))).collect();
        Self { microbatch: Microbatch { id: BatchId(0), members }, inputs }
    }

    /// The last position of each sequence. Run again and again it is the same step: of the same length, to the same place.
    fn decode(model: &Model, Load { sequences, length }: Load) -> Self {
        let last = |sequence| member(sequence, length, length - 1..length);
        Self::new(model, (0..sequences).map(last).collect())
    }

    /// The prompt of sequence number `sequence`, `rows` long, in chunks.
    fn prompt(model: &Model, sequence: usize, (rows, chunk): (usize, usize)) -> Vec<Self> {
        let chunks = (0..rows).step_by(chunk).map(|first| first..rows.min(first + chunk));
        chunks.map(|chunk| Self::new(model, vec![member(sequence, rows, chunk)])).collect()
    }
}

/// Rows of a sequence that is `length` long; those before it are as long. Its last row emits.
fn member(sequence: usize, length: usize, rows: Range<usize>) -> Member {
    let blocks = length.div_ceil(BLOCK_SIZE) as u32;
    let first = sequence as u32 * blocks;
    let id = SequenceId { boot: 1, counter: sequence as u64 };
    let opening = Opening {
        sequence: id,
        attempt: 1,
        door: ReplicaId::new("bench", 1),
        path: Vec::new(),
        call_id: String::new(),
        trace: Trace::begun(1, 1),
        work: Work::of(Task::GENERATE, Sampling::GREEDY),
        known: Vec::new(),
        capacity_tokens: length as u32,
    };
    Member {
        sequence: id,
        attempt: 1,
        start: rows.start as u32,
        rows: rows.len() as u32,
        emit: rows.end == length,
        ticket: Ticket(sequence as u64),
        ticket_row: 0,
        opening: Arc::new(opening),
        blocks: (first..first + blocks).collect(),
        history: None,
    }
}
