//! What every executor of a real model does alike: checking what comes in, the batches to warm up with, and making a token
//! of logits.

use bytes::BytesMut;
use stageline_base::{Border, Fault, ReplicaId, SequenceId, Tensors, Trace};
use stageline_core::batch::trailer_room;
use stageline_core::{BatchId, Emission, Member, Microbatch, Opening, Sampling, Ticket, Work};
use stageline_model::{KvShape, LayerRange, ModelSpec};
use stageline_ops::{observe, sample};
use std::sync::Arc;

/// The part of a model that a stage runs, and its limits.
#[derive(Clone, Copy, Debug)]
pub struct StagePart<'a> {
    /// The whole model.
    pub spec: &'a ModelSpec,
    /// The stage's layers.
    pub range: &'a LayerRange,
    /// What crosses in front of them.
    pub takes: &'a Border,
    /// Its KV cache.
    pub kv: KvShape,
    /// Most rows of a batch.
    pub max_rows: usize,
}

impl StagePart<'_> {
    /// Most rows that a batch of one sequence can have here.
    pub fn most_rows(&self) -> usize {
        let room = if self.spec.task().cached { self.kv.blocks * self.kv.block_size } else { usize::MAX };
        self.max_rows.min(room).min(self.spec.max_positions())
    }

    /// Checks that `inputs` are those of `batch`, in number, type, shape and bounds.
    ///
    /// # Errors
    /// `InvalidRequest` if a client asked for what the model does not do or has not; `Internal` if a stage sent what does
    /// not fit.
    pub fn check(&self, batch: &Microbatch, inputs: &[Tensors]) -> Result<(), Fault> {
        let rows = batch.rows();
        if rows == 0 || rows > self.max_rows {
            let message = format!("a batch of {rows} rows came, but this stage runs 1 to {}", self.max_rows);
            return Err(Fault::internal(message));
        }
        if let Some(member) = batch.members.iter().find(|member| !member.opening.work.is_of(self.spec.task())) {
            let message = format!("sequence {} asks for what this kind of model does not do", member.sequence);
            return Err(Fault::invalid(message));
        }
        if !self.are_inputs(batch, inputs) {
            return Err(Fault::internal(format!("what came for a batch of {rows} rows is not {}", self.takes)));
        }
        for input in inputs {
            let vocab = self.spec.vocab();
            let mut ids = input.iter().filter(|_| self.takes.is_tokens()).flat_map(|ids| ids.tensor.words());
            if let Some(id) = ids.find(|id| *id as usize >= vocab) {
                return Err(Fault::invalid(format!("the model of {vocab} tokens has no token {id}")));
            }
        }
        Ok(())
    }

    /// Whether these are what `batch` runs on: see [`crate::Executor::run`].
    fn are_inputs(&self, batch: &Microbatch, inputs: &[Tensors]) -> bool {
        if self.takes.is_by_rows() {
            let came: Option<u64> = inputs.iter().map(|input| self.takes.rows_of(input)).sum();
            return came == Some(batch.rows() as u64);
        }
        let fits = |(member, input): (&Member, &Tensors)| self.takes.admits(member.rows.into(), input);
        inputs.len() == batch.members.len() && batch.members.iter().zip(inputs).all(fits)
    }

    /// A batch of one sequence of `rows` rows in the first blocks, to run before any sequence lives there.
    ///
    /// # Errors
    /// `InvalidRequest` if more may cross in front of the stage than can be addressed.
    pub fn warm_up_batch(&self, rows: usize) -> Result<(Microbatch, Tensors), Fault> {
        let too_large = || Fault::invalid(format!("{rows} rows of {} are too large for this machine", self.takes));
        let input = self.takes.zeros(rows).ok_or_else(too_large)?;
        let work = Work::of(self.spec.task(), Sampling::GREEDY);
        let blocks = if work.cached { rows.div_ceil(self.kv.block_size) } else { 0 };
        let sequence = SequenceId { boot: 0, counter: 0 };
        let opening = Opening {
            sequence,
            attempt: 0,
            door: ReplicaId::new("warm-up", 0),
            path: Vec::new(),
            call_id: String::new(),
            trace: Trace::begun(1, 1),
            work,
            known: Vec::new(),
            capacity_tokens: rows as u32,
        };
        let member = Member {
            sequence,
            attempt: 0,
            start: 0,
            rows: rows as u32,
            emit: true,
            ticket: Ticket(0),
            ticket_row: 0,
            opening: Arc::new(opening),
            blocks: (0..blocks as u32).collect(),
            history: None,
        };
        Ok((Microbatch { id: BatchId(0), members: vec![member] }, input))
    }
}

/// Numbers as they travel, with room behind them for the trailer of a frame of `members` members.
pub fn packed(numbers: &[f32], members: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(numbers.len() * 4 + trailer_room(members));
    bytes.resize(numbers.len() * 4, 0);
    for (bytes, number) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
        *bytes = number.to_le_bytes();
    }
    bytes
}

/// What a member's logits come to (the penalty is written into them).
///
/// # Errors
/// `DeviceFailed` if none of them is a number above −∞.
pub fn token(member: &Member, logits: &mut [f32]) -> Result<Emission, Fault> {
    let sampling = sampling(member);
    if !logits.iter().any(|logit| *logit > f32::NEG_INFINITY) {
        return Err(no_number(member));
    }
    let observed = observe(logits, sampling.top_logits);
    let id = sample(logits, sampling, emitted_position(member), member.history.as_deref());
    Ok(Emission::Token { id, observed })
}

/// What a member's vector is.
///
/// # Errors
/// `DeviceFailed` if it is not of numbers.
pub fn vector(member: &Member, numbers: &[f32]) -> Result<Emission, Fault> {
    match numbers.iter().all(|number| number.is_finite()) {
        true => Ok(Emission::Tensors(Tensors::vector(numbers))),
        false => Err(no_number(member)),
    }
}

/// The fault of a model that gave a member no numbers. To choose the first token would look like an answer.
pub fn no_number(member: &Member) -> Fault {
    Fault::device(format!(
        "the model's numbers for sequence {} overflow at position {}: weights are damaged, or too large for f16 (--dtype bf16 \
         has room)",
        member.sequence,
        emitted_position(member) - 1
    ))
}

/// The ids that a member's logits are to be penalised for.
pub fn penalised(member: &Member) -> Option<&[u32]> {
    let ids = member.history.as_deref().filter(|ids| member.emit && !ids.is_empty());
    ids.filter(|_| sampling(member).repetition_penalty != 1.0)
}

/// How a member's sequence is sampled.
pub fn sampling(member: &Member) -> &Sampling {
    member.opening.work.sampling.as_ref().unwrap_or(&Sampling::GREEDY)
}

/// The position that a member's token takes.
pub fn emitted_position(member: &Member) -> u32 {
    member.start + member.rows
}
