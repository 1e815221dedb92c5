//! Text to tokens and back, as the model's own files say: tokenizer.json, the chat template, the end tokens.

use crate::base::limits::{MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES};
use crate::base::{Fault, FaultClass, TokenId};
use crate::door::Input;
use crate::door::chat::ChatTemplate;
use crate::model::ModelSpec;
use bound::Bound;
use pieces::{Pieces, Unfolding};
use serde_json::{Map, Value};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use stops::Stops;
use tokenizers::Tokenizer;

mod bound;
mod pieces;
mod stops;

pub use stops::Piece;

/// How many times longer than its layout a conversation may be.
const MAY_BE_LEFT_OUT: usize = 16;

/// A model's text side.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    bound: Bound,
    /// Absent where the model has no template: then a conversation is refused.
    template: Option<ChatTemplate>,
    /// Absent where the model encodes: then there is no text to make.
    pieces: Option<Pieces>,
    eos: Vec<TokenId>,
    vocab: usize,
}

impl TextModel {
    /// Opens the text files of the model or pipeline folder `dir`: tokenizer.json, and if they are there
    /// tokenizer_config.json, chat_template.jinja and generation_config.json. A tokenizer's padding and truncation are
    /// switched off.
    ///
    /// # Errors
    /// `Unavailable`, naming the file and what is wrong with it.
    pub fn open(dir: &Path, spec: &ModelSpec) -> Result<Self, Fault> {
        let path = dir.join("tokenizer.json");
        let file = read(&path, MAX_TOKENIZER_BYTES)?.ok_or_else(|| broken(&path, "it is not there"))?;
        let mut tokenizer = Tokenizer::from_bytes(file).map_err(|e| broken(&path, e))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| broken(&path, e))?;
        let (pieces, eos) = match spec {
            ModelSpec::Llama(llama) => {
                let pieces = Pieces::new(&tokenizer).map_err(|e| broken(&path, e))?;
                (Some(pieces), end_tokens(dir)?.unwrap_or_else(|| llama.eos.clone()))
            }
            ModelSpec::Bert(_) => (None, Vec::new()),
        };
        let bound = Bound::of(&tokenizer);
        Ok(Self { tokenizer, bound, template: open_template(dir)?, pieces, eos, vocab: spec.vocab() })
    }

    /// The tokens of `input`, if they can be no more than `most`; a little more than that may come back all the same. Text gets
    /// the special tokens that tokenizer.json adds; a conversation those of the template alone. It may take a second for long
    /// texts: not on a thread that serves others.
    ///
    /// # Errors
    /// `InvalidRequest` if there is nothing to encode, far too much, a token is not the model's, or the template refuses the
    /// conversation.
    pub fn encode(&self, input: &Input, most: usize) -> Result<Vec<TokenId>, Fault> {
        let ids = match input {
            Input::Text(text) => self.encode_text(text, most, true)?,
            Input::Chat(messages) => {
                let without = "this model has no chat template: send `prompt` instead of `messages`";
                let template = self.template.as_ref().ok_or_else(|| Fault::invalid(without))?;
                self.encode_text(&template.render(messages)?, most, false)?
            }
            Input::Tokens(ids) if ids.len() > most => {
                let count = ids.len();
                let words = format!("the prompt has {count} tokens and the pipeline takes {most} in all: shorten it");
                return Err(Fault::invalid(words));
            }
            Input::Tokens(ids) => ids.clone(),
        };
        if ids.is_empty() {
            return Err(Fault::invalid("the prompt has no tokens: send some text"));
        }
        match ids.iter().position(|id| *id as usize >= self.vocab) {
            None => Ok(ids),
            Some(i) => {
                let (id, vocab) = (ids[i], self.vocab);
                Err(Fault::invalid(format!("token {id} at place {i} is not one of the model's {vocab} tokens")))
            }
        }
    }

    fn encode_text(&self, text: &str, most: usize, add_special_tokens: bool) -> Result<Vec<TokenId>, Fault> {
        self.bound.check(text.len(), most)?;
        let encode = |text: &str, special| {
            let encoding = self.tokenizer.encode_fast(text, special);
            encoding.map_err(|e| Fault::internal(format!("the tokenizer failed: {e}")))
        };
        Bound::count(text, most, |piece| encode(piece, false).map(|encoding| encoding.len()))?;
        encode(text, add_special_tokens).map(|encoding| encoding.get_ids().to_vec())
    }

    /// Refuses what is longer than any prompt of `most` tokens, at no cost.
    ///
    /// # Errors
    /// `InvalidRequest`, with the longest that a text may be.
    pub fn fits(&self, input: &Input, most: usize) -> Result<(), Fault> {
        match input {
            Input::Text(text) => self.bound.check(text.len(), most),
            // A template may leave some of a conversation out: it is measured again once it is laid out.
            Input::Chat(messages) => {
                let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
                self.bound.check(bytes / MAY_BE_LEFT_OUT, most)
            }
            Input::Tokens(_) => Ok(()),
        }
    }

    /// The tokens that end an answer: `eos_token_id` of generation_config.json, or of config.json where that names none.
    pub fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    /// Whether conversations are taken.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The text of one answer, which ends before the first of `stop`. Of an encoder's "answer" it makes nothing.
    pub fn stream(self: &Arc<Self>, stop: Vec<String>) -> TextStream {
        TextStream { model: Arc::clone(self), unfolding: Unfolding::default(), stops: Stops::new(stop) }
    }
}

/// The text of an answer, token by token: never half a character, nor text that a stop string may still swallow.
///
/// Special tokens add nothing. Without stop strings, the pieces and the end together are what the tokenizer makes of all the
/// tokens at once. A token's cost does not depend on the answer's length.
#[derive(Debug)]
pub struct TextStream {
    model: Arc<TextModel>,
    unfolding: Unfolding,
    stops: Stops,
}

impl TextStream {
    /// What `token` adds. After a stop string nothing is added any more.
    pub fn push(&mut self, token: TokenId) -> Piece {
        let text = self.model.pieces.as_ref().map(|pieces| self.unfolding.push(pieces, token));
        self.stops.push(text.as_deref().unwrap_or(""))
    }

    /// The answer ends here: what was held back. Half a character becomes U+FFFD; a stop string that this completes is cut.
    pub fn finish(&mut self) -> String {
        let rest = self.model.pieces.as_ref().map(|pieces| self.unfolding.finish(pieces));
        let mut text = self.stops.push(rest.as_deref().unwrap_or("")).text;
        text += &self.stops.finish();
        text
    }
}

/// The chat template of `dir`: chat_template.jinja, or `chat_template` of tokenizer_config.json (a text, or a list of named
/// ones of which `default` counts).
fn open_template(dir: &Path) -> Result<Option<ChatTemplate>, Fault> {
    let config_path = dir.join("tokenizer_config.json");
    let config = read_object(&config_path)?.unwrap_or_default();
    let path = dir.join("chat_template.jinja");
    let (path, source) = match read(&path, MAX_CONFIG_BYTES)? {
        Some(file) => (path.clone(), String::from_utf8(file).map_err(|e| broken(&path, e))?),
        None => {
            let named = |list: &Vec<Value>| list.iter().find(|t| t["name"] == "default").map(|t| t["template"].clone());
            let source = match config.get("chat_template") {
                None | Some(Value::Null) => return Ok(None),
                Some(Value::Array(list)) => named(list).unwrap_or_default(),
                Some(other) => other.clone(),
            };
            let source = source.as_str().ok_or_else(|| broken(&config_path, "its `chat_template` is not a text"))?;
            (config_path, source.to_string())
        }
    };
    // bos_token, eos_token and so on: a text, or an added token's object.
    let tokens = config.iter().filter(|(name, _)| name.ends_with("_token")).filter_map(|(name, token)| {
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        Some((name.clone(), text.to_string()))
    });
    ChatTemplate::new(source, tokens.collect()).map(Some).map_err(|e| broken(&path, e))
}

/// `eos_token_id` of generation_config.json: one, several, or `None` if the file is not there or names none.
fn end_tokens(dir: &Path) -> Result<Option<Vec<TokenId>>, Fault> {
    let path = dir.join("generation_config.json");
    let value = read_object(&path)?.and_then(|mut config| config.remove("eos_token_id"));
    let one = |id: &Value| id.as_u64().and_then(|id| TokenId::try_from(id).ok());
    let ids: Option<Vec<TokenId>> = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(ids)) => ids.iter().map(one).collect(),
        Some(id) => one(&id).map(|id| vec![id]),
    };
    ids.map(Some).ok_or_else(|| broken(&path, "its `eos_token_id` is neither a token's number nor a list of them"))
}

/// The JSON object in the file at `path`, or `None` if there is no such file.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, Fault> {
    let Some(file) = read(path, MAX_CONFIG_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&file).map(Some).map_err(|e| broken(path, e))
}

/// The file at `path`, at most `limit_bytes` long, or `None` if there is none.
fn read(path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, Fault> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(path, error)),
    };
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(|e| broken(path, e))?;
    match bytes.len() as u64 > limit_bytes {
        true => Err(broken(path, format!("it is longer than {limit_bytes} bytes"))),
        false => Ok(Some(bytes)),
    }
}

fn broken(path: &Path, what: impl std::fmt::Display) -> Fault {
    Fault::new(FaultClass::Unavailable, format!("cannot use {}: {what}", path.display()))
}

#[cfg(test)]
mod tests;
