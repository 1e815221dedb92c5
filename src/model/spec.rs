//! What a config.json asks for, checked: every setting is either supported or refused by name.

use crate::families::LayerRange;
use crate::families::bert::{self, BertSpec};
use crate::families::llama::{self, LlamaSpec, Relative};
use crate::sentence;
use crate::settings::{Settings, shown};
use crate::tensors::{Part, TensorNeed};
use serde_json::Value;
use stageline_base::Fault;
use stageline_shard::Files;
use stageline_shard::stranger::check_model_dir;
use std::collections::BTreeSet;
use std::path::Path;

/// A model that stageline can run.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSpec {
    /// A Llama-type decoder: Llama, Mistral, Qwen2, Qwen3.
    Llama(LlamaSpec),
    /// A BERT-type encoder.
    Bert(BertSpec),
}

impl ModelSpec {
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
        } else if let Some(relative) = kind.as_str().and_then(Relative::of) {
            Self::Llama(llama::read(&mut settings, relative))
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
        if config.get(bert::AS_IT_IS).is_some() {
            let words = format!("config.json: {} is a word of pipelines: fetch the model's own folder", bert::AS_IT_IS);
            return Err(at(Fault::invalid(words)));
        }
        let mut spec = Self::parse(&config).map_err(at)?;
        if let Self::Bert(bert) = &mut spec {
            bert.length_one = sentence::check(&Files::of_model(dir)?, &files, bert.hidden)?;
            if let (false, Value::Object(config)) = (bert.length_one, &mut config) {
                config.insert(bert::AS_IT_IS.into(), true.into());
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

impl ModelSpec {
    /// Every tensor the model needs, in the order of use. A tied embedding comes twice: as [`Part::Embedding`] and, under
    /// the same name, as [`Part::Head`].
    pub fn tensors(&self) -> Vec<TensorNeed> {
        match self {
            Self::Llama(spec) => llama::tensors(spec),
            Self::Bert(spec) => bert::tensors(spec),
        }
    }

    /// The tensors that a stage of `layers` needs, each once.
    pub fn stage_tensors(&self, layers: &LayerRange) -> Vec<TensorNeed> {
        let (mut needs, mut seen) = (self.tensors(), BTreeSet::new());
        needs.retain(|need| {
            let here = match need.part {
                Part::Embedding => layers.start == 0,
                Part::Layer(layer) => layers.contains(&layer),
                Part::Head => layers.end == self.layers(),
            };
            here && seen.insert(need.name.clone())
        });
        needs
    }

    /// KV cache of one layer for one token, in bytes: keys and values in f32. An encoder has none.
    pub fn kv_bytes_per_token(&self) -> u64 {
        match self {
            Self::Llama(spec) => 2 * 4 * (spec.kv_heads * spec.head_dim) as u64,
            Self::Bert(_) => 0,
        }
    }

    /// The other name that a checkpoint may have for the tensor `name`: a tied matrix may go by either end's, and the norms
    /// of encoders that were converted from TensorFlow have names of their own.
    pub fn other_name(&self, name: &str) -> Option<String> {
        match self {
            Self::Llama(spec) => (spec.tied && name == llama::EMBEDDING).then(|| llama::HEAD.into()),
            Self::Bert(_) => {
                let (norm, end) = name.rsplit_once('.').filter(|(norm, _)| norm.ends_with("LayerNorm"))?;
                Some(format!("{norm}.{}", if end == "weight" { "gamma" } else { "beta" }))
            }
        }
    }

    /// Whether a checkpoint's tensor that the model does not need, called `name` but for what stands in front of every name,
    /// is known to play no part in what is computed: heads of other tasks, and tables that are computed here.
    pub fn leaves_out(&self, name: &str) -> bool {
        let heads: &[&str] = match self {
            Self::Llama(_) => &["score.", "v_head.", "value_head.", "classifier.", "qa_outputs."],
            Self::Bert(_) => &["pooler.", "cls.", "classifier.", "qa_outputs.", "lm_head."],
        };
        let tables = ["embeddings.position_ids", "embeddings.token_type_ids"];
        heads.iter().any(|head| name.starts_with(head)) || tables.contains(&name)
    }
}

/// The `model_type` that the first architecture of `config` implies: the oldest configurations do not state it.
fn implied_type(config: &Value) -> Option<Value> {
    let name = config.get("architectures")?.as_array()?.first()?.as_str()?;
    if bert::ARCHITECTURES.contains(&name) {
        return Some("bert".into());
    }
    let relative = Relative::ALL.into_iter().find(|relative| relative.architectures().contains(&name));
    relative.map(|relative| relative.model_type().into())
}
