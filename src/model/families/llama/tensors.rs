//! Which tensors a Llama-type decoder needs. Names are those of the Hugging Face checkpoints.

use super::spec::LlamaSpec;
use crate::tensors::{LinearNeed, Needs, TensorNeed, Use};

/// The Llama-type decoder's embedding, which is also its head's matrix where the model ties them.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The Llama-type decoder's norm behind the last layer.
pub const NORM: &str = "model.norm.weight";
/// The Llama-type decoder's head where it is not tied.
pub const HEAD: &str = "lm_head.weight";

/// The tensors of a layer of a Llama-type decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlamaLayerNeeds {
    /// Name of the norm in front of the attention, `[hidden]`.
    pub attention_norm: String,
    /// Queries, keys, values.
    pub qkv: LinearNeed,
    /// Names of the norms of each head of queries, and of keys, `[head_dim]`.
    pub head_norms: Option<[String; 2]>,
    /// Of what the heads gave.
    pub out: LinearNeed,
    /// Name of the norm in front of the MLP, `[hidden]`.
    pub mlp_norm: String,
    /// Gate, up.
    pub gate_up: LinearNeed,
    /// Of what was gated.
    pub down: LinearNeed,
}

impl LlamaSpec {
    /// The tensors of layer `number`.
    pub fn layer_needs(&self, number: usize) -> LlamaLayerNeeds {
        let named = |name: &str| format!("model.layers.{number}.{name}");
        let linear = |parts: &[(&str, usize)], depth: usize, bias: bool| {
            let parts = parts.iter().map(|(name, columns)| (named(name), *columns)).collect();
            LinearNeed { parts, depth, bias }
        };
        let (hidden, mlp) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let qkv = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        let head_norms = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];
        LlamaLayerNeeds {
            attention_norm: named("input_layernorm.weight"),
            qkv: linear(&qkv, hidden, self.qkv_bias),
            head_norms: self.head_norms.then(|| head_norms.map(named)),
            out: linear(&[("self_attn.o_proj", hidden)], q, self.out_bias),
            mlp_norm: named("post_attention_layernorm.weight"),
            gate_up: linear(&[("mlp.gate_proj", mlp), ("mlp.up_proj", mlp)], hidden, self.mlp_bias),
            down: linear(&[("mlp.down_proj", hidden)], mlp, self.mlp_bias),
        }
    }
}

/// Every tensor, in the order of use.
pub(crate) fn tensors(spec: &LlamaSpec) -> Vec<TensorNeed> {
    let hidden = spec.hidden;
    let mut needs = Needs { list: Vec::new(), unit: 0, used: Use::EveryRow };
    needs.add_table(EMBEDDING, &[spec.vocab, hidden]);
    for layer in 0..spec.layers {
        needs.unit = layer;
        let layer = spec.layer_needs(layer);
        needs.add(layer.attention_norm, &[hidden]);
        needs.add_linears(&layer.qkv);
        for norm in layer.head_norms.into_iter().flatten() {
            needs.add(norm, &[spec.head_dim]);
        }
        needs.add_linears(&layer.out);
        needs.add(layer.mlp_norm, &[hidden]);
        needs.add_linears(&layer.gate_up);
        needs.add_linears(&layer.down);
    }
    needs.used = Use::EmittingRows;
    needs.add(NORM, &[hidden]);
    needs.add(if spec.tied { EMBEDDING } else { HEAD }, &[spec.vocab, hidden]);
    needs.list
}
