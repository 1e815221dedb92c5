//! What a config.json asks for, checked: every setting is either supported or refused by name.

mod bert;
mod family;
mod inert;
mod llama;
mod rope;
mod sentence;
mod settings;

use family::Family;
pub use sentence::own_dir;
use serde_json::Value;
use settings::{Settings, shown};
use stageline_base::Fault;
use stageline_shard::Files;
use stageline_shard::stranger::check_model_dir;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

/// Layers `start..end` of a model. A range that starts at 0 also embeds; one that ends at the last layer also holds the
/// head (decoder: final norm and logits; encoder: pooling).
pub type LayerRange = Range<usize>;

/// A model that stageline can run.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSpec {
    /// A Llama-type decoder: Llama, Mistral, Qwen2, Qwen3.
    Llama(LlamaSpec),
    /// A BERT-type encoder.
    Bert(BertSpec),
}

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

/// A BERT-type encoder: learned positions, post-layer norm, GELU MLP; the answer is the mean over the sequence's rows, by
/// default of length 1 (sentence-transformers' pooling, as `modules.json` and what it names say if they are there).
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
    /// Whether a vector is divided by its length: unless modules.json has no `Normalize`, which is then
    /// [`ModelSpec::AS_IT_IS`] in a manifest.
    pub length_one: bool,
}

impl ModelSpec {
    /// The key that says in a pipeline's config.json that an encoder's vectors are not divided by their lengths, which a
    /// model's folder says elsewhere.
    pub const AS_IT_IS: &str = "stageline_vectors_as_they_are";

    /// What `config` (a config.json) asks for. A key that changes what is computed is honoured or refused; a key that
    /// changes nothing is known as such; a key that is not known is refused, since it may be either.
    ///
    /// # Errors
    /// `InvalidRequest`, one line that names every setting that is missing, wrong or not supported, with its value.
    pub fn parse(config: &Value) -> Result<Self, Fault> {
        let mut settings = Settings::of("config.json", config)?;
        let kind = settings.take("model_type").cloned().or_else(|| implied_type(config)).unwrap_or(Value::Null);
        let spec = if kind == "bert" {
            Self::Bert(bert::read(&mut settings))
        } else if let Some(family) = kind.as_str().and_then(Family::of) {
            Self::Llama(llama::read(&mut settings, family))
        } else {
            // Its other settings are of a family that is not known: complaining of each would say nothing.
            let known = "llama, mistral, qwen2, qwen3 or bert";
            let fault = format!("config.json: model_type = {} is not supported (only {known})", shown(&kind));
            return Err(Fault::invalid(fault));
        };
        settings.finish()?;
        Ok(spec)
    }

    /// Reads the config.json of `dir`, which is returned too, and for an encoder the files that say how sentence-transformers
    /// pools. What they ask for beyond config.json is in what is returned.
    ///
    /// # Errors
    /// As [`ModelSpec::parse`]; also if a file cannot be read or pools otherwise than by mean.
    pub fn from_dir(dir: &Path) -> Result<(Self, Value), Fault> {
        let own = sentence::own_dir(dir)?;
        check_model_dir(&own)?;
        let files = Files::of_model(&own)?;
        let mut config = files.json("config.json")?.ok_or_else(|| files.absent("config.json"))?;
        let at = |fault: Fault| Fault { message: format!("{}: {}", own.display(), fault.message), ..fault };
        if config.get(Self::AS_IT_IS).is_some() {
            let words = format!("config.json: {} is a word of pipelines: fetch the model's own folder", Self::AS_IT_IS);
            return Err(at(Fault::invalid(words)));
        }
        let mut spec = Self::parse(&config).map_err(at)?;
        if let Self::Bert(bert) = &mut spec {
            bert.length_one = sentence::check(&Files::of_model(dir)?, &files, bert.hidden)?;
            if let (false, Value::Object(config)) = (bert.length_one, &mut config) {
                config.insert(Self::AS_IT_IS.into(), true.into());
            }
        }
        Ok((spec, config))
    }

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

/// The `model_type` that the first architecture of `config` implies: the oldest configurations do not state it.
fn implied_type(config: &Value) -> Option<Value> {
    let name = config.get("architectures")?.as_array()?.first()?.as_str()?;
    if bert::ARCHITECTURES.contains(&name) {
        return Some("bert".into());
    }
    let family = Family::ALL.into_iter().find(|family| family.architectures().contains(&name));
    family.map(|family| family.model_type().into())
}
