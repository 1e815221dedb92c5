//! What a family says of one of its models.

use super::llama::LlamaSpec;
use crate::kv_cache::KvShape;
use crate::load::Loader;
use crate::stage_model::StageModel;
use crate::tensors::{TensorNames, TensorNeed};
use crate::units::UnitSpec;
use serde_json::{Map, Value};
use stageline_base::{Border, Fault, Task, TokenId};
use stageline_ops::Ops;
use stageline_shard::Files;
use std::fmt::Debug;
use std::ops::Range;

/// Layers `start..end` of a model, which are its units. A range that starts at 0 also embeds; one that ends at the last layer
/// also holds the head (decoder: final norm and logits; encoder: pooling; others: whatever makes the answer).
pub type LayerRange = Range<usize>;

/// A model, as its family knows it: what it does, what it needs, and how it runs. Nothing outside of a family's folder asks which
/// family it is.
pub trait Family: Debug + Send + Sync {
    /// What it does with a request.
    fn task(&self) -> Task;

    /// Number of layers.
    fn layers(&self) -> usize;

    /// What crosses in front of layer `layer` (below [`Family::layers`]), and so of its unit; in front of layer 0, what a request brings.
    /// All of it is cut by rows unless a request is one step. An extent that may be any up to its most may be 0.
    fn border(&self, layer: usize) -> Border;

    /// What an answer is, where it is no tokens.
    fn answer(&self) -> Border {
        Border::tokens()
    }

    /// Longest sequence, in rows: tokens, where those are what it takes.
    fn max_positions(&self) -> usize;

    /// Size of the vocabulary; none where neither what it takes nor what it gives are tokens.
    fn vocab(&self) -> usize {
        0
    }

    /// What it may be cut into, in the order in which a row passes it: a stage is one or more of them.
    fn units(&self) -> Vec<UnitSpec>;

    /// `eos_token_id` of config.json; none where answers are no tokens.
    fn eos(&self) -> &[TokenId] {
        &[]
    }

    /// Every tensor that it needs, in the order of use. A tied one comes twice: where it is looked up and, under the same name,
    /// where it is the head.
    fn tensors(&self) -> Vec<TensorNeed>;

    /// The names of tensors that both ends need, since the model ties them.
    fn tied(&self) -> Vec<String> {
        Vec::new()
    }

    /// How folders may name its tensors.
    fn names(&self) -> TensorNames;

    /// The other name that a checkpoint may have for the tensor `name`.
    fn other_name(&self, name: &str) -> Option<String>;

    /// What other files of a model's folder say of it, as settings for a pipeline's config.json, whose names begin with
    /// [`super::PIPELINE_WORD`]. `own` is the folder of config.json, `around` the one that it may lie in.
    ///
    /// # Errors
    /// `InvalidRequest` if a file cannot be read or asks for what is not supported.
    fn settings_elsewhere(&self, _around: &Files, _own: &Files) -> Result<Map<String, Value>, Fault> {
        Ok(Map::new())
    }

    /// The decoder that the engine for GPUs runs; it runs no other kind of model.
    fn engine_decoder(&self) -> Option<&LlamaSpec> {
        None
    }

    /// Loads the layers `range`, which the model has, with a KV cache of `kv` if its task keeps one.
    ///
    /// # Errors
    /// Whatever the loader's source says; `InvalidRequest` if a tensor is not what the model asks for; `DeviceFailed` if the
    /// device has not the memory.
    fn load(&self, loader: Loader<'_>, range: LayerRange, kv: KvShape, ops: Ops) -> Result<Box<dyn StageModel>, Fault>;
}
