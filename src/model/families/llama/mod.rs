//! Llama-type decoders: Llama, Mistral, Qwen2, Qwen3.

mod config;
mod layers;
mod relatives;
mod rope;
mod spec;
mod tensors;

use super::{Family, Kind, LayerRange};
use crate::kv_cache::KvShape;
use crate::load::Loader;
use crate::stage_model::StageModel;
use crate::tensors::{TensorNames, TensorNeed};
use crate::units::{UnitSpec, stack_names};
use layers::LlamaStage;
use relatives::Relative;
pub use spec::{LlamaSpec, RopeScaling, Sliding};
use stageline_base::{Border, Fault, Task, TokenId};
use stageline_ops::Ops;
use stageline_plan::Sight;
use std::sync::Arc;
pub use tensors::{EMBEDDING, HEAD, LlamaLayerNeeds, NORM};

/// Each relative's `model_type`; the first Llamas were written as `LLaMA`.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        model_type: "llama",
        architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
        read: |settings| Arc::new(config::read(settings, Relative::Llama)),
    },
    Kind {
        model_type: "mistral",
        architectures: &["MistralForCausalLM"],
        read: |settings| Arc::new(config::read(settings, Relative::Mistral)),
    },
    Kind {
        model_type: "qwen2",
        architectures: &["Qwen2ForCausalLM"],
        read: |settings| Arc::new(config::read(settings, Relative::Qwen2)),
    },
    Kind {
        model_type: "qwen3",
        architectures: &["Qwen3ForCausalLM"],
        read: |settings| Arc::new(config::read(settings, Relative::Qwen3)),
    },
];

impl Family for LlamaSpec {
    fn task(&self) -> Task {
        Task::GENERATE
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn border(&self, layer: usize) -> Border {
        if layer == 0 { Border::tokens() } else { Border::hidden(self.hidden) }
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn units(&self) -> Vec<UnitSpec> {
        let unit = |(layer, name)| UnitSpec {
            name,
            // Keys and values in f32.
            kv_bytes_per_token: 2 * 4 * self.kv_width() as u64,
            // Each head multiplies and adds its width twice: for the score, and for the mix.
            position_flops: 4 * (self.heads * self.head_dim) as u64,
            sight: self
                .window(layer)
                .map_or(Sight::Before, |window| Sight::Window(window.try_into().unwrap_or(u32::MAX))),
        };
        stack_names(self.layers, ["embedding", "head"]).enumerate().map(unit).collect()
    }

    fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    fn tensors(&self) -> Vec<TensorNeed> {
        tensors::tensors(self)
    }

    fn tied(&self) -> Vec<String> {
        if self.tied { vec![EMBEDDING.into()] } else { Vec::new() }
    }

    fn names(&self) -> TensorNames {
        TensorNames {
            anchor: "layers.0.input_layernorm.weight",
            body: "model.",
            head: Some(HEAD),
            other_heads: &["score.", "v_head.", "value_head.", "classifier.", "qa_outputs."],
        }
    }

    /// A tied matrix may go by either end's.
    fn other_name(&self, name: &str) -> Option<String> {
        (self.tied && name == EMBEDDING).then(|| HEAD.into())
    }

    fn engine_decoder(&self) -> Option<&LlamaSpec> {
        Some(self)
    }

    fn load(&self, loader: Loader<'_>, range: LayerRange, kv: KvShape, ops: Ops) -> Result<Box<dyn StageModel>, Fault> {
        Ok(Box::new(LlamaStage::load(loader, self, range, kv, ops)?))
    }
}
