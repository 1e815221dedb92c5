//! What a tokenizer.json would cost, read off before anything is built from it.

use super::{growth, regex};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use stageline_base::limits::{MAX_TOKEN_BYTES, MAX_TOKEN_ID, MAX_VOCAB_BYTES, MAX_WORD_CHARS};
use stageline_template::{Json, Reader};
use std::cell::Cell;
use std::fmt;

/// Most JSON values of a part other than the vocabulary.
const MAX_PART_VALUES: usize = 100_000;
/// Most bytes of all added tokens: they become one table to search for all of them at once, many times as large.
const MAX_ADDED_BYTES: usize = 4 << 20;

#[derive(Deserialize)]
struct Facts {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Part,
    #[serde(default)]
    pre_tokenizer: Part,
    #[serde(default)]
    post_processor: Part,
    #[serde(default)]
    decoder: Part,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Vocab,
    continuing_subword_prefix: Option<String>,
    max_input_chars_per_word: Option<u64>,
}

/// A part that is not large.
struct Part(Json);

impl Default for Part {
    fn default() -> Self {
        Self(Json::Null)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Reader(&Cell::new(MAX_PART_VALUES)).deserialize(deserializer).map(Self)
    }
}

/// Sizes of a vocabulary: a map of ids, or a list of tokens with their scores.
#[derive(Default)]
struct Vocab {
    bytes: usize,
    longest: usize,
    highest: u64,
}

impl Vocab {
    fn add(&mut self, token: &str, id: u64) {
        self.bytes += token.len();
        self.longest = self.longest.max(token.len());
        self.highest = self.highest.max(id);
    }
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens and their ids, or tokens and their scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                while let Some((token, id)) = map.next_entry::<String, u64>()? {
                    vocab.add(&token, id);
                }
                Ok(vocab)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                let mut count = 0;
                while let Some((token, _)) = list.next_element::<(String, IgnoredAny)>()? {
                    vocab.add(&token, count);
                    count += 1;
                }
                Ok(vocab)
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}

/// Whether `file` describes a tokenizer whose cost is bounded.
///
/// # Errors
/// What is not.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    let facts: Facts = serde_json::from_slice(file).map_err(|error| error.to_string())?;
    let mut vocab = Vocab { ..facts.model.vocab };
    let added: usize = facts.added_tokens.iter().map(|token| token.content.len()).sum();
    for token in &facts.added_tokens {
        vocab.add(&token.content, token.id);
    }
    let limits = [
        (added > MAX_ADDED_BYTES, format!("its added tokens have {added} bytes, more than {MAX_ADDED_BYTES}")),
        (vocab.highest > MAX_TOKEN_ID, format!("token {} is higher than {MAX_TOKEN_ID}", vocab.highest)),
        (vocab.bytes > MAX_VOCAB_BYTES, format!("its tokens have {} bytes, more than {MAX_VOCAB_BYTES}", vocab.bytes)),
        (vocab.longest > MAX_TOKEN_BYTES, format!("a token has {} bytes, more than {MAX_TOKEN_BYTES}", vocab.longest)),
    ];
    if let Some((_, words)) = limits.into_iter().find(|(over, _)| *over) {
        return Err(words);
    }
    if let Some(chars) = facts.model.max_input_chars_per_word.filter(|chars| *chars > MAX_WORD_CHARS) {
        return Err(format!("`max_input_chars_per_word` is {chars}, more than {MAX_WORD_CHARS}"));
    }
    let prefix = facts.model.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty());
    if prefix && facts.model.kind.as_deref() != Some("WordPiece") {
        // The library cuts that many bytes off every merged token without a look at what they are.
        return Err("its merges have a `continuing_subword_prefix`, which is not supported".to_string());
    }
    let Facts { normalizer: Part(normalizer), pre_tokenizer: Part(pre_tokenizer), .. } = &facts;
    growth::check_text(normalizer, pre_tokenizer)?;
    growth::check_added(&facts.post_processor.0)?;
    for part in [normalizer, pre_tokenizer, &facts.decoder.0] {
        regex::check(part)?;
    }
    Ok(())
}
