//! A stage's part of a model: (embedding) + layers + (head).

use crate::kv_cache::KvShape;
use crate::step::Step;
use candle_core::{Device, Result as CandleResult, Tensor};
use stageline_base::Fault;
use stageline_core::Member;
use std::fmt::Debug;

/// A range of a model's layers, of whichever family, with their KV cache if they keep one.
pub trait StageModel: Debug + Send + Sync {
    /// The KV cache's shape.
    fn kv(&self) -> Option<KvShape> {
        None
    }

    /// Bytes of one block of it, in all layers.
    fn kv_block_bytes(&self) -> Option<usize> {
        None
    }

    /// Gives it another number of blocks. What they held is lost.
    ///
    /// # Errors
    /// As [`crate::KvCache::new`].
    fn resize_kv(&mut self, _blocks: usize) -> Result<(), Fault> {
        Ok(())
    }

    /// Lays a batch out, where layers must know where each row stands and what it sees: see [`Step::decode`] and
    /// [`Step::encode`].
    ///
    /// # Errors
    /// As these.
    fn step(&self, _members: &[Member], _device: &Device) -> Result<Step, Fault> {
        Ok(Step::default())
    }

    /// Runs the layers on what crosses in front of the range, and the head if the range ends the model.
    ///
    /// # Errors
    /// If the device fails, or the step does not fit what is given.
    fn run(&self, given: &Given, step: &Step) -> CandleResult<Made>;
}

/// What a [`StageModel`] is given of a batch: what crosses in front of its range. A bool is a byte.
#[derive(Debug)]
pub enum Given {
    /// Where that is cut by rows: each of its tensors, with the rows of all members one below the other.
    Rows(Vec<Tensor>),
    /// Where it is not: the tensors of each member.
    Sets(Vec<Vec<Tensor>>),
}

impl Given {
    /// The one tensor that crosses, by rows.
    ///
    /// # Errors
    /// If that is not what was given.
    pub fn rows(&self) -> CandleResult<&Tensor> {
        match self {
            Self::Rows(tensors) if tensors.len() == 1 => Ok(&tensors[0]),
            _ => candle_core::bail!("one tensor of rows was to be given"),
        }
    }
}

/// What a [`StageModel`] makes of a batch.
#[derive(Debug)]
pub enum Made {
    /// Before the last stage, where what crosses behind the range is cut by rows: each of its tensors, with the rows of all members.
    Rows(Vec<Tensor>),
    /// Where it is not, and at the last stage where the answer is tensors: those of each member.
    Sets(Vec<Vec<Tensor>>),
    /// At a decoder's last stage: the logits of each emitting member, `[emitting, vocab]`; `None` if none emits.
    Logits(Option<Tensor>),
    /// At an encoder's last stage: the vector of each member, `[members, hidden]`; `None` if there is none.
    Vectors(Option<Tensor>),
}
