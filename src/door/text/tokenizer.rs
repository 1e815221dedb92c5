//! Opens and uses the tokenizer of a model's folder, which comes from strangers: what it may cost is looked at before it is
//! built (`facts`), and where the library panics on it, that is a fault and the door goes on.

use crate::base::{Fault, TokenId};
use crate::door::apart::{apart, unharmed};
use tokenizers::Tokenizer;

mod facts;
mod growth;
mod regex;

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
    facts::check(file)?;
    let mut tokenizer = Tokenizer::from_bytes(file).map_err(|error| error.to_string())?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
    // A text that it has no tokens for may be an error of its own.
    unharmed("it", || drop(tokenizer.encode_fast(SAMPLE, true))).map_err(|fault| fault.message)?;
    Ok(tokenizer)
}

/// The tokens of `text`, with those that tokenizer.json adds or without.
///
/// # Errors
/// `Internal` if the tokenizer fails or panics on it.
pub(super) fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Vec<TokenId>, Fault> {
    let encoding = unharmed("the tokenizer", || tokenizer.encode_fast(text, special))?;
    encoding.map(|e| e.get_ids().to_vec()).map_err(|e| Fault::internal(format!("the tokenizer failed: {e}")))
}

#[cfg(test)]
mod tests;
