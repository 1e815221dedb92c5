//! A stage's part of a model: (embedding) + layers + (head).

use super::families::bert::BertStage;
use super::families::llama::LlamaStage;
use super::load::{Loader, TensorSource};
use super::step::Step;
use super::{KvCache, KvShape, LayerRange, ModelSpec};
use candle_core::{Device, Result as CandleResult, Tensor};
use stageline_base::Fault;
use stageline_core::Member;
use stageline_ops::Ops;

/// A range of a model's layers, of whichever family.
#[derive(Debug)]
pub enum StageModel {
    /// Of a Llama-type decoder, with its keys and values.
    Llama(Box<LlamaStage>, KvCache),
    /// Of a BERT-type encoder.
    Bert(BertStage),
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

impl StageModel {
    /// Loads layers `range` of `spec` from `source` to `device`, with a KV cache of `shape` if it is a decoder.
    ///
    /// # Errors
    /// Whatever `source` says; `InvalidRequest` if a tensor is not what `spec` asks for or the range is not in the model;
    /// `DeviceFailed` if the device has not the memory.
    pub fn load(
        source: &dyn TensorSource,
        spec: &ModelSpec,
        range: LayerRange,
        shape: KvShape,
        (ops, device): (Ops, &Device),
    ) -> Result<Self, Fault> {
        if range.is_empty() || range.end > spec.layers() {
            return Err(Fault::invalid(format!("a model of {} layers has no layers {range:?}", spec.layers())));
        }
        let loader = Loader { source, device };
        Ok(match spec {
            ModelSpec::Llama(spec) => {
                let cache = KvCache::new(shape, range.len(), LlamaStage::kv_width(spec), device)?;
                Self::Llama(Box::new(LlamaStage::load(loader, spec, range, ops)?), cache)
            }
            ModelSpec::Bert(spec) => Self::Bert(BertStage::load(loader, spec, range, ops)?),
        })
    }

    /// The KV cache's shape; an encoder has none.
    pub fn kv(&self) -> Option<KvShape> {
        match self {
            Self::Llama(_, cache) => Some(cache.shape),
            Self::Bert(_) => None,
        }
    }

    /// Bytes of one block of it, in all layers.
    pub fn kv_block_bytes(&self) -> Option<usize> {
        match self {
            Self::Llama(_, cache) => Some(KvShape { blocks: 1, ..cache.shape }.bytes(cache.layers.len(), cache.width)),
            Self::Bert(_) => None,
        }
    }

    /// Gives it another number of blocks. What they held is lost.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn resize_kv(&mut self, blocks: usize, device: &Device) -> Result<(), Fault> {
        if let Self::Llama(_, cache) = self {
            let (layers, width) = (cache.layers.len(), cache.width);
            let shape = KvShape { blocks, ..cache.shape };
            // The old one's memory first: there may not be room for both.
            cache.layers.clear();
            *cache = KvCache::new(shape, layers, width, device)?;
        }
        Ok(())
    }

    /// Lays a batch out: see [`Step::decode`] and [`Step::encode`].
    ///
    /// # Errors
    /// As these.
    pub fn step(&self, members: &[Member], max_positions: usize, device: &Device) -> Result<Step, Fault> {
        match self {
            Self::Llama(_, cache) => Step::decode(members, cache.shape, max_positions, device),
            Self::Bert(_) => Step::encode(members, max_positions, device),
        }
    }

    /// Runs the layers on `input`: token ids (`u32`, `[rows]`) if the range begins the model, else activations
    /// `[rows, hidden]`; and the head if the range ends it (`last`).
    ///
    /// # Errors
    /// If the device fails, or the step does not fit the input.
    pub fn run(&self, input: &Tensor, step: &Step, last: bool) -> CandleResult<Made> {
        match self {
            Self::Llama(stage, cache) => {
                let x = stage.forward(input, step, cache)?;
                if last { stage.logits(&x, step).map(Made::Logits) } else { Ok(Made::Activations(x)) }
            }
            Self::Bert(stage) => {
                let x = stage.forward(input, step)?;
                if last { stage.vectors(&x, step).map(Made::Vectors) } else { Ok(Made::Activations(x)) }
            }
        }
    }
}
