//! The special tokens that have names (`bos_token`, `eos_token`, …), of the two files that may say so.
//!
//! What counts is as in transformers: special_tokens_map.json before tokenizer_config.json, unless that has
//! `added_tokens_decoder`: then it counts alone. A null is a token that the model does not have; where a file is silent, the
//! tokenizer's class has tokens of its own.

use serde_json::{Map, Value};
use stageline_base::Fault;
use stageline_shard::Files;
use std::collections::BTreeMap;

pub(super) const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";

/// Named tokens, and the file that each is from.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    tokens: BTreeMap<String, (String, &'static str)>,
    /// Names of which the two files say different things, and what.
    disputes: BTreeMap<String, String>,
}

impl SpecialTokens {
    /// Reads them; `config` is tokenizer_config.json, and `is_known` says whether the tokenizer has a token of that text.
    pub(super) fn read(
        files: &Files,
        config: &Map<String, Value>,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<Self, Fault> {
        let said = named(files, CONFIG, config)?;
        let mapped = named(files, MAP, &files.object(MAP)?.unwrap_or_default())?;
        let config_alone = config.contains_key("added_tokens_decoder");
        let mut special = Self::default();
        for name in said.keys().chain(mapped.keys()) {
            let (in_config, in_map) = (said.get(name), mapped.get(name));
            let used = match (in_config, in_map) {
                (Some(token), _) if config_alone => Some((token, CONFIG)),
                (_, Some(_)) if config_alone => None,
                (_, Some(token)) => Some((token, MAP)),
                (Some(token), None) => Some((token, CONFIG)),
                (None, None) => None,
            };
            if let Some((Some(token), file)) = used {
                special.tokens.insert(name.clone(), (token.clone(), file));
            }
        }
        for (name, token) in defaults(config) {
            let silent = !said.contains_key(*name) && (config_alone || !mapped.contains_key(*name));
            if silent && is_known(token) {
                special.tokens.insert((*name).into(), ((*token).into(), CONFIG));
            }
        }
        for (name, in_map) in mapped {
            let (in_config, used) = (said.get(&name), special.token(&name));
            if in_config.is_some_and(|token| *token != in_map) || used != in_map.as_ref() {
                let in_config = in_config.map_or("none".into(), |token| shown(token.as_ref()));
                let (in_map, used) = (shown(in_map.as_ref()), shown(used));
                let words = format!("{MAP} has {name} = {in_map}, {CONFIG} {in_config}: {used} is used");
                special.disputes.insert(name, words);
            }
        }
        Ok(special)
    }

    /// The token called `name`.
    pub(super) fn token(&self, name: &str) -> Option<&String> {
        self.tokens.get(name).map(|(token, _)| token)
    }

    /// The token called `name`, and the file that says so.
    pub(super) fn with_file(&self, name: &str) -> Option<(&str, &'static str)> {
        self.tokens.get(name).map(|(token, file)| (token.as_str(), *file))
    }

    /// All tokens by name, as a chat template sees them.
    pub(super) fn by_name(&self) -> BTreeMap<String, String> {
        self.tokens.iter().map(|(name, (token, _))| (name.clone(), token.clone())).collect()
    }

    /// What the two files disagree on and `template` or the tokenizer uses.
    pub(super) fn disputes(&self, template: &str) -> impl Iterator<Item = String> {
        let used = |name: &str| matches!(name, "bos_token" | "eos_token") || template.contains(name);
        self.disputes.iter().filter(move |(name, _)| used(name)).map(|(_, words)| words.clone())
    }
}

/// The tokens that a file names: a text, the object of an added token, or null for none.
fn named(files: &Files, file: &str, object: &Map<String, Value>) -> Result<BTreeMap<String, Option<String>>, Fault> {
    let mut tokens = BTreeMap::new();
    for (name, value) in object.iter().filter(|(name, value)| name.ends_with("_token") && !value.is_boolean()) {
        let token = match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => match other.get("content") {
                Some(Value::String(text)) => Some(text.clone()),
                _ => return Err(files.wrong(file, &format!("has a {name} that is no text: mend or remove it"))),
            },
        };
        tokens.insert(name.clone(), token);
    }
    Ok(tokens)
}

fn shown(token: Option<&String>) -> String {
    token.map_or("null".into(), |token| format!("{token:?}"))
}

/// What transformers' class of tokenizer has where the files are silent.
fn defaults(config: &Map<String, Value>) -> &'static [(&'static str, &'static str)] {
    match class(config) {
        "LlamaTokenizer" => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
        "GPT2Tokenizer" => {
            &[("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")]
        }
        "Qwen2Tokenizer" => {
            &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")]
        }
        _ => &[],
    }
}

/// The class that tokenizer_config.json names, without the `Fast` of its quick variant; empty if it names none.
pub(super) fn class(config: &Map<String, Value>) -> &str {
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    class.strip_suffix("Fast").unwrap_or(class)
}
