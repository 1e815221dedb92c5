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

    /// Lays a batch out: see [`Step::decode`] and [`Step::encode`].
    ///
    /// # Errors
    /// As these.
    fn step(&self, members: &[Member], device: &Device) -> Result<Step, Fault>;

    /// Runs the layers on `input`: token ids (`u32`, `[rows]`) if the range begins the model, else activations
    /// `[rows, hidden]`; and the head if the range ends it.
    ///
    /// # Errors
    /// If the device fails, or the step does not fit the input.
    fn run(&self, input: &Tensor, step: &Step) -> CandleResult<Made>;
}

/// What a [`StageModel`] makes of a batch.
#[derive(Debug)]
pub enum Made {
    /// Before the last stage: activations, `[rows, hidden]`.
    Activations(Tensor),
    /// At a decoder's last stage: the logits of each emitting member, `[emitting, vocab]`; `None` if none emits.
    Logits(Option<Tensor>),
    /// At an encoder's last stage: the vector of each member, `[members, hidden]`; `None` if there is none.
    Vectors(Option<Tensor>),
}
