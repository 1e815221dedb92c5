//! What a config.json asks for, checked: every setting is either supported or refused by name.

use std::ops::Range;

/// Layers `start..end` of a model. A range that starts at 0 also embeds; one that ends at the last layer also holds the
/// head (decoder: final norm and logits; encoder: pooling).
pub type LayerRange = Range<usize>;

/// A model that stageline can run.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSpec {
    /// A Llama-type decoder.
    Llama(LlamaSpec),
    /// A BERT-type encoder.
    Bert(BertSpec),
}

/// A Llama-type decoder: RMS norm, rotary embedding of halves, grouped-query attention, SiLU-gated MLP.
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
    /// `attention_bias`: q, k, v and o projections have a bias.
    pub attention_bias: bool,
    /// `mlp_bias`.
    pub mlp_bias: bool,
    /// `eos_token_id` of config.json (generation_config.json may name others).
    pub eos: Vec<u32>,
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

/// A BERT-type encoder: learned positions, post-layer norm, GELU MLP; the answer is the mean over the sequence's rows,
/// L2-normalised (sentence-transformers' pooling, checked in `1_Pooling/config.json` and `modules.json` if they are there).
#[derive(Clone, Debug, PartialEq)]
pub struct BertSpec {
    /// `num_hidden_layers`.
    pub layers: usize,
    /// `hidden_size`.
    pub hidden: usize,
    /// `intermediate_size`.
    pub intermediate: usize,
    /// `num_attention_heads`, a divisor of `hidden`.
    pub heads: usize,
    /// `vocab_size`.
    pub vocab: usize,
    /// `type_vocab_size`; every row is of type 0.
    pub type_vocab: usize,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// `layer_norm_eps`.
    pub norm_eps: f32,
}

impl ModelSpec {
    /// Number of layers.
    pub fn layers(&self) -> usize {
        match self {
            Self::Llama(s) => s.layers,
            Self::Bert(s) => s.layers,
        }
    }

    /// Width of an activation row.
    pub fn hidden(&self) -> usize {
        match self {
            Self::Llama(s) => s.hidden,
            Self::Bert(s) => s.hidden,
        }
    }

    /// Longest sequence.
    pub fn max_positions(&self) -> usize {
        match self {
            Self::Llama(s) => s.max_positions,
            Self::Bert(s) => s.max_positions,
        }
    }

    /// Size of the vocabulary.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Llama(s) => s.vocab,
            Self::Bert(s) => s.vocab,
        }
    }
}
