//! BERT-type encoders.

mod config;
mod layers;
mod tensors;

use super::{Family, Kind, LayerRange};
use crate::kv_cache::KvShape;
use crate::load::Loader;
use crate::sentence;
use crate::stage_model::StageModel;
use crate::tensors::{TensorNames, TensorNeed};
use crate::units::{UnitSpec, stack_names};
pub use config::BertSpec;
use layers::BertStage;
use serde_json::{Map, Value};
use stageline_base::{Border, Fault, Task};
use stageline_ops::Ops;
use stageline_plan::Sight;
use stageline_shard::Files;
use std::sync::Arc;

/// Of `architectures` those whose encoder, and nothing else, is what is run.
pub(super) const KINDS: &[Kind] = &[Kind {
    model_type: "bert",
    architectures: &["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForNextSentencePrediction"],
    read: |settings| Arc::new(config::read(settings)),
}];

impl Family for BertSpec {
    fn task(&self) -> Task {
        Task::EMBED
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn border(&self, layer: usize) -> Border {
        if layer == 0 { Border::tokens() } else { Border::hidden(self.hidden) }
    }

    fn answer(&self) -> Border {
        Border::vector(self.hidden)
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn units(&self) -> Vec<UnitSpec> {
        let unit = |name| UnitSpec {
            name,
            kv_bytes_per_token: 0,
            // For the score and for the mix.
            position_flops: 4 * self.hidden as u64,
            sight: Sight::Whole,
        };
        stack_names(self.layers, ["embedding", "pooling"]).map(unit).collect()
    }

    fn tensors(&self) -> Vec<TensorNeed> {
        tensors::tensors(self)
    }

    fn names(&self) -> TensorNames {
        TensorNames {
            anchor: "embeddings.word_embeddings.weight",
            body: "",
            head: None,
            other_heads: &["pooler.", "cls.", "classifier.", "qa_outputs.", "lm_head."],
        }
    }

    /// The norms of encoders that were converted from TensorFlow have names of their own.
    fn other_name(&self, name: &str) -> Option<String> {
        let (norm, end) = name.rsplit_once('.').filter(|(norm, _)| norm.ends_with("LayerNorm"))?;
        Some(format!("{norm}.{}", if end == "weight" { "gamma" } else { "beta" }))
    }

    fn settings_elsewhere(&self, around: &Files, own: &Files) -> Result<Map<String, Value>, Fault> {
        let mut settings = Map::new();
        if !sentence::check(around, own, self.hidden)? {
            settings.insert(config::AS_IT_IS.into(), true.into());
        }
        Ok(settings)
    }

    fn load(&self, loader: Loader<'_>, range: LayerRange, _: KvShape, ops: Ops) -> Result<Box<dyn StageModel>, Fault> {
        Ok(Box::new(BertStage::load(loader, self, range, ops)?))
    }
}
