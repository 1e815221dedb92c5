//! From tokens back to text, one at a time: what each token of a vocabulary adds, and the text of a growing answer.
//!
//! A tokenizer decodes a whole list of tokens; done anew for every token of an answer it would cost more and more. The
//! three decoders that language models use are simple enough to be followed exactly, token by token: the pieces, joined,
//! are what the tokenizer makes of the whole list (proved by test). Other decoders are refused by name.

use serde_json::Value;
use std::collections::HashSet;
use tokenizers::{DecoderWrapper, Tokenizer};

/// How much longer a decoder may make a token, in times.
const MAX_GROWTH: usize = 16;

/// How tokens become text.
#[derive(Clone, Debug, PartialEq)]
enum Decoding {
    /// `ByteLevel`: tokens are bytes; what is not UTF-8 becomes U+FFFD.
    Bytes,
    /// `Sequence[Replace, ByteFallback, Fuse, Strip?]`: tokens are text or one byte; a run of bytes is text only as a whole,
    /// otherwise each of them becomes U+FFFD. `strip` times the character may be cut off the front.
    Runs {
        /// The character that is cut off the front of the text, and how often at most.
        strip: (char, usize),
    },
    /// `Metaspace`: tokens are text; the replacement character is a space, or nothing in the first token.
    Spaces {
        /// What stands for a space.
        space: char,
        /// Whether the first token loses it.
        first_loses: bool,
    },
}

/// What a token adds to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its bytes.
    Text,
    /// Its byte, as part of a run of bytes.
    Byte,
    /// Nothing: it is special, or no token at all.
    Nothing,
}

/// What every token of a vocabulary adds to a text.
#[derive(Debug)]
pub(super) struct Pieces {
    decoding: Decoding,
    bytes: Vec<u8>,
    /// Token `i` adds `bytes[tokens[i - 1].0..tokens[i].0]`.
    tokens: Vec<(u32, Kind)>,
}

impl Pieces {
    /// Of `tokenizer`'s vocabulary, or why its decoder cannot be followed.
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(|e| e.to_string())?;
        let (decoding, replace) = read_decoder(&decoder)?;
        let special: HashSet<String> = tokenizer
            .get_added_tokens_decoder()
            .into_values()
            .filter_map(|token| token.special.then_some(token.content))
            .collect();
        // Without its decoder a tokenizer gives a token's own text.
        let mut bare = tokenizer.clone();
        bare.with_decoder(None::<DecoderWrapper>);
        let count = tokenizer.get_vocab(true).into_values().max().map_or(0, |last| last + 1);
        let mut pieces = Self { decoding, bytes: Vec::new(), tokens: Vec::with_capacity(count as usize) };
        let bytes_of = byte_alphabet();
        for id in 0..count {
            let text = bare.decode(&[id], false).map_err(|e| e.to_string())?;
            let kind = match byte_token(&text) {
                _ if special.contains(&text) || bare.id_to_token(id).is_none() => Kind::Nothing,
                Some(byte) if matches!(pieces.decoding, Decoding::Runs { .. }) => {
                    pieces.bytes.push(byte);
                    Kind::Byte
                }
                _ => {
                    match &pieces.decoding {
                        Decoding::Bytes => match text.chars().map(&bytes_of).collect::<Option<Vec<u8>>>() {
                            Some(bytes) => pieces.bytes.extend(bytes),
                            None => pieces.bytes.extend(text.bytes()),
                        },
                        _ => pieces.bytes.extend(text.replace(replace.0.as_str(), &replace.1).bytes()),
                    }
                    Kind::Text
                }
            };
            pieces.tokens.push((pieces.bytes.len() as u32, kind));
        }
        Ok(pieces)
    }

    /// The bytes of token `id`, and what they are.
    fn of(&self, id: u32) -> (&[u8], Kind) {
        let Some(&(end, kind)) = self.tokens.get(id as usize) else { return (&[], Kind::Nothing) };
        let start = if id == 0 { 0 } else { self.tokens[id as usize - 1].0 };
        (&self.bytes[start as usize..end as usize], kind)
    }
}

/// The text of an answer that grows token by token. Each token's cost depends on its own length only.
#[derive(Clone, Debug, Default)]
pub(super) struct Unfolding {
    /// Bytes that wait for the rest of their character, or of their run.
    pending: Vec<u8>,
    /// Tokens that added anything so far are none.
    begun: bool,
    /// How many characters have been cut off the front, while all of the text was cut off.
    stripped: usize,
    /// Whether the front of the text is past.
    past_front: bool,
}

impl Unfolding {
    /// The text that `token` completes.
    pub(super) fn push(&mut self, pieces: &Pieces, token: u32) -> String {
        let (bytes, kind) = pieces.of(token);
        let mut out = String::new();
        match (&pieces.decoding, kind) {
            (_, Kind::Nothing) => return out,
            (Decoding::Bytes, _) => {
                self.pending.extend_from_slice(bytes);
                self.take_characters(&mut out);
            }
            (_, Kind::Byte) => self.pending.extend_from_slice(bytes),
            (Decoding::Runs { .. }, Kind::Text) => {
                self.take_run(&mut out);
                out.push_str(&String::from_utf8_lossy(bytes));
            }
            (Decoding::Spaces { space, first_loses }, Kind::Text) => {
                let text = String::from_utf8_lossy(bytes);
                let space_becomes = if *first_loses && !self.begun { "" } else { " " };
                out.push_str(&text.replace(*space, space_becomes));
            }
        }
        self.begun = true;
        self.strip_front(pieces, out)
    }

    /// The text that was still incomplete.
    pub(super) fn finish(&mut self, pieces: &Pieces) -> String {
        let mut out = String::new();
        match pieces.decoding {
            Decoding::Bytes if !self.pending.is_empty() => {
                self.pending.clear();
                out.push(char::REPLACEMENT_CHARACTER);
            }
            _ => self.take_run(&mut out),
        }
        self.strip_front(pieces, out)
    }

    /// Moves all whole characters into `out`; what can never become one is U+FFFD.
    fn take_characters(&mut self, out: &mut String) {
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(good));
                    rest = bad;
                    let Some(wrong) = error.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[wrong..];
                }
            }
        }
        self.pending.drain(..self.pending.len() - rest.len());
    }

    /// Moves a whole run of bytes into `out`.
    fn take_run(&mut self, out: &mut String) {
        match std::str::from_utf8(&self.pending) {
            Ok(text) => out.push_str(text),
            Err(_) => out.extend(self.pending.iter().map(|_| char::REPLACEMENT_CHARACTER)),
        }
        self.pending.clear();
    }

    /// `text` without what is cut off the front of the whole answer.
    fn strip_front(&mut self, pieces: &Pieces, text: String) -> String {
        let Decoding::Runs { strip: (unwanted, most) } = pieces.decoding else { return text };
        if self.past_front {
            return text;
        }
        let cut: usize =
            text.chars().take_while(|c| *c == unwanted).take(most - self.stripped).map(char::len_utf8).sum();
        self.stripped += cut / unwanted.len_utf8();
        self.past_front = cut < text.len() || self.stripped == most;
        text[cut..].to_string()
    }
}

/// The byte of a token like `<0x0A>`.
fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Byte-level vocabularies write every byte as a printable character: printable Latin-1 as itself, the others, in order, as
/// the characters from U+0100 on (Radford et al., "Language models are unsupervised multitask learners", 2019).
fn byte_alphabet() -> impl Fn(char) -> Option<u8> {
    let as_itself = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others: Vec<u8> = (0..=255).filter(|byte| !as_itself(byte)).collect();
    move |c| match u32::from(c) {
        code @ 0..256 => Some(code as u8).filter(as_itself),
        code => others.get(code as usize - 256).copied(),
    }
}

/// A decoder as tokenizer.json writes it, and the text that it replaces in every token, and by what.
fn read_decoder(decoder: &Value) -> Result<(Decoding, (String, String)), String> {
    let one = std::slice::from_ref(decoder);
    let steps = decoder["decoders"].as_array().map_or(one, Vec::as_slice);
    let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("none")).collect();
    let refused = || format!("its decoder is {}, which cannot be followed token by token", kinds.join(" + "));
    let no_replacement = (String::from("\u{2581}"), String::from("\u{2581}"));
    match kinds.as_slice() {
        ["ByteLevel"] => Ok((Decoding::Bytes, no_replacement)),
        ["Metaspace"] => {
            let space = steps[0]["replacement"].as_str().and_then(|s| s.chars().next()).ok_or_else(refused)?;
            let first_loses = steps[0]["prepend_scheme"].as_str().is_none_or(|scheme| scheme != "never");
            Ok((Decoding::Spaces { space, first_loses }, no_replacement))
        }
        ["Replace", "ByteFallback", "Fuse", rest @ ..] if rest.is_empty() || rest == ["Strip"] => {
            let from = steps[0]["pattern"]["String"].as_str().filter(|s| !s.is_empty()).ok_or_else(refused)?;
            let to = steps[0]["content"].as_str().ok_or_else(refused)?;
            if to.len() > MAX_GROWTH * from.len() {
                return Err(format!("its decoder makes a token more than {MAX_GROWTH} times as long"));
            }
            let strip = match steps.get(3) {
                None => (' ', 0),
                Some(step) if step["stop"].as_u64() == Some(0) => {
                    let unwanted = step["content"].as_str().and_then(|s| s.chars().next()).ok_or_else(refused)?;
                    (unwanted, step["start"].as_u64().ok_or_else(refused)? as usize)
                }
                Some(_) => return Err(refused()),
            };
            Ok((Decoding::Runs { strip }, (from.to_string(), to.to_string())))
        }
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests;
