//! What makes one Llama-type decoder another.

use std::collections::BTreeSet;

/// A Llama-type decoder: RMS norm, rotary embedding of halves, grouped-query attention, SiLU-gated MLP; and what its
/// relatives have besides.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaSpec {
    /// `num_hidden_layers`.
    pub layers: usize,
    /// `hidden_size`.
    pub hidden: usize,
    /// `intermediate_size`.
    pub intermediate: usize,
    /// `num_attention_heads`.
    pub heads: usize,
    /// `num_key_value_heads`, a divisor of `heads`.
    pub kv_heads: usize,
    /// `head_dim`, even.
    pub head_dim: usize,
    /// `vocab_size`.
    pub vocab: usize,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// `rms_norm_eps`.
    pub norm_eps: f32,
    /// `rope_theta`.
    pub rope_theta: f64,
    /// `rope_scaling`, if any.
    pub rope_scaling: Option<RopeScaling>,
    /// `tie_word_embeddings`: the head is the embedding.
    pub tied: bool,
    /// q, k and v projections have a bias: `attention_bias`, and always in Qwen2.
    pub qkv_bias: bool,
    /// The o projection has a bias: `attention_bias`.
    pub out_bias: bool,
    /// `mlp_bias`.
    pub mlp_bias: bool,
    /// Each head of queries and keys is normed before it turns (Qwen3).
    pub head_norms: bool,
    /// `sliding_window`, if any layer has one.
    pub sliding: Option<Sliding>,
    /// `eos_token_id` of config.json (generation_config.json may name others).
    pub eos: Vec<u32>,
}

impl LlamaSpec {
    /// How many positions a row of `layer` sees, its own the last; `None`: all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding.as_ref().filter(|sliding| sliding.layers.contains(&layer)).map(|sliding| sliding.window)
    }
}

/// Layers whose rows do not see far back.
#[derive(Clone, Debug, PartialEq)]
pub struct Sliding {
    /// How many positions a row sees, its own the last.
    pub window: usize,
    /// The layers where that is so.
    pub layers: BTreeSet<usize>,
}

/// A change of the rotary frequencies for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// `rope_type: "linear"`: positions are divided by the factor.
    Linear {
        /// `factor`.
        factor: f64,
    },
    /// `rope_type: "llama3"`.
    Llama3 {
        /// `factor`.
        factor: f64,
        /// `low_freq_factor`.
        low_freq_factor: f64,
        /// `high_freq_factor`.
        high_freq_factor: f64,
        /// `original_max_position_embeddings`.
        original_max_positions: usize,
    },
}
