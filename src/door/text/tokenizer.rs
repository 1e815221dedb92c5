//! Opens and uses the tokenizer of a model's folder, which comes from strangers: what it may cost is looked at before it is
//! built (`facts`), and where the library panics on it, that is a fault and the door goes on.

use crate::apart::{apart, unharmed};
use stageline_base::{Fault, TokenId};
use stageline_shard::without_mark;
use tokenizers::Tokenizer;

mod facts;
mod growth;
mod regex;

/// In a text of up to so many bytes what has no token is looked for.
const SHORT_BYTES: usize = 16 << 10;
/// A text of many kinds of characters: what cannot cut it without a panic is refused when it is opened.
const SAMPLE: &str = "Hello, w\u{f6}rld! It's 12345 \u{65e5}\u{672c}\u{8a9e}\n\t\r\n  \u{1f600} <s> \
                      aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! \u{e9}\u{301}\u{fdfa}\u{200b} ";

/// The tokenizer that `file`, a tokenizer.json, describes. Its padding and truncation are switched off.
///
/// # Errors
/// What is wrong with it.
pub(super) fn open(file: &[u8]) -> Result<Tokenizer, String> {
    apart("building the tokenizer", || open_here(file)).map_err(|fault| fault.message)?
}

fn open_here(file: &[u8]) -> Result<Tokenizer, String> {
    let file = without_mark(file);
    facts::check(file)?;
    let mut tokenizer = Tokenizer::from_bytes(file).map_err(|error| error.to_string())?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
    // A text that it has no tokens for may be an error of its own.
    unharmed("it", || drop(tokenizer.encode_fast(SAMPLE, true))).map_err(|fault| fault.message)?;
    Ok(tokenizer)
}

/// Why a text has no tokens.
#[derive(Debug)]
pub(super) enum Failure {
    /// There are none for something in it, and none that stands for the unknown; in the tokenizer's words.
    Unknown(String),
    /// Another fault.
    Other(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Other(fault)
    }
}

/// The tokens of `text`, with those that tokenizer.json adds or without.
///
/// # Errors
/// Where the tokenizer has none for it, or panics on it, which is an `Internal` fault.
pub(super) fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Vec<TokenId>, Failure> {
    let encoding = unharmed("tokenizer.json: the tokenizer", || tokenizer.encode_fast(text, special))?;
    let words = |error: tokenizers::Error| error.to_string().chars().take(200).collect();
    encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| Failure::Unknown(words(error)))
}

/// Where in `text`, which has no tokens, the first word begins that has none, in bytes: its end, if each has one. `None` if looking
/// for it would take long.
pub(super) fn unknown_at(tokenizer: &Tokenizer, text: &str) -> Option<usize> {
    if text.len() > SHORT_BYTES {
        return None;
    }
    let words = text.split_inclusive(char::is_whitespace);
    let ends = words.scan(0, |end, word| {
        *end += word.len();
        Some(*end)
    });
    let ends: Vec<usize> = ends.collect();
    let known = ends.partition_point(|end| encode(tokenizer, &text[..*end], false).is_ok());
    Some(known.checked_sub(1).map_or(0, |last| ends[last]))
}

#[cfg(test)]
mod tests;
