//! How long a text may be for so many tokens: what is longer is refused before it costs anything.

use serde_json::Value;
use stageline_base::Fault;
use tokenizers::{ModelWrapper, Tokenizer};

/// How many times its tokens' bytes a text may have where a tokenizer may drop or merge parts of it: a bound on what is sent,
/// not on what such a tokenizer could swallow.
const SWALLOWED: usize = 16;
/// How many times longer a text may be than its Unicode normal form or its lower case.
const NORMALIZED: usize = 4;
/// Longer texts are first counted in pieces of this size, in bytes: a tokenizer needs hundreds of bytes of memory for each byte
/// of digits or the like, and a piece's is given back before the next one's is taken.
const PIECE_BYTES: usize = 64 << 10;

/// Bytes that a token may stand for.
#[derive(Debug)]
pub(super) struct Bound {
    token_bytes: usize,
}

impl Bound {
    /// Of what `tokenizer` may do to a text.
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let json = |part: Option<Value>| part.unwrap_or_default();
        let normalizer = json(tokenizer.get_normalizer().and_then(|part| serde_json::to_value(part).ok()));
        let splitter = json(tokenizer.get_pre_tokenizer().and_then(|part| serde_json::to_value(part).ok()));
        let bytes = named(&normalizer, "ByteLevel") || named(&splitter, "ByteLevel");
        // Before its bytes, each character of such a token is one of 256 that stand for them.
        let length = |token: &str| if bytes { token.chars().count() } else { token.len() };
        let longest = tokenizer.get_vocab(false).keys().map(|token| length(token)).max().unwrap_or(1);
        let added = tokenizer.get_added_tokens_decoder().into_values();
        let (lengths, greedy): (Vec<_>, Vec<_>) = added.map(|t| (t.content.len(), t.lstrip || t.rstrip)).unzip();
        let longest = lengths.into_iter().fold(longest, usize::max).max(1);
        let covered = match tokenizer.get_model() {
            ModelWrapper::BPE(model) => {
                model.byte_fallback || bytes && alphabet().all(|c| tokenizer.token_to_id(&c.to_string()).is_some())
            }
            ModelWrapper::Unigram(model) => model.byte_fallback(),
            // A word that they do not know is one token, whatever its length.
            ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => false,
        };
        let swallows = !covered || !keeps_text(&splitter) || greedy.contains(&true);
        let times = if swallows { SWALLOWED } else { shrinks(&normalizer) };
        Self { token_bytes: longest.saturating_mul(times) }
    }

    /// Refuses a text of `bytes` bytes that has more than `most` tokens by its length alone.
    ///
    /// # Errors
    /// `InvalidRequest`, with the longest that a text may be.
    pub(super) fn check(&self, bytes: usize, most: usize) -> Result<(), Fault> {
        let longest = self.token_bytes.saturating_mul(most);
        if bytes <= longest {
            return Ok(());
        }
        Err(Fault::invalid(format!(
            "the prompt is {bytes} bytes long and the pipeline takes {most} tokens in all, at most {longest} bytes: shorten it"
        )))
    }

    /// Refuses a text that has far more than `most` tokens, counted piece by piece with `count`.
    ///
    /// A piece's tokens are those that the text has there, but for some at its ends: only twice as many are held against it.
    ///
    /// # Errors
    /// `InvalidRequest`, or what `count` fails with.
    pub(super) fn count<E: From<Fault>>(
        text: &str,
        most: usize,
        count: impl Fn(&str) -> Result<usize, E>,
    ) -> Result<(), E> {
        // A token is a byte or more, or nearly so.
        if text.len() <= PIECE_BYTES.max(most) {
            return Ok(());
        }
        let (mut rest, mut tokens) = (text, 0usize);
        while !rest.is_empty() {
            let cut = (1..=PIECE_BYTES.min(rest.len())).rev().find(|at| rest.is_char_boundary(*at));
            let (piece, after) = rest.split_at(cut.unwrap_or(rest.len()));
            tokens = tokens.saturating_add(count(piece)?);
            if tokens / 2 > most {
                let words = "tokens, which is all that the pipeline takes: shorten it";
                return Err(Fault::invalid(format!("the prompt has more than {most} {words}")).into());
            }
            rest = after;
        }
        Ok(())
    }
}

/// The 256 characters that stand for bytes.
fn alphabet() -> impl Iterator<Item = char> {
    tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter()
}

/// Whether `part`, or one of those it is made of, is of the type `name`.
fn named(part: &Value, name: &str) -> bool {
    parts(part).iter().any(|part| part["type"] == name)
}

/// What a normalizer or pre-tokenizer is made of, itself if it is one.
fn parts(part: &Value) -> Vec<&Value> {
    match ["normalizers", "pretokenizers"].iter().find_map(|list| part[list].as_array()) {
        Some(list) => list.iter().flat_map(parts).collect(),
        None if part.is_null() => Vec::new(),
        None => vec![part],
    }
}

/// Whether pre-tokenizers leave all of a text in its pieces.
fn keeps_text(splitter: &Value) -> bool {
    parts(splitter).iter().all(|part| match part["type"].as_str().unwrap_or_default() {
        "ByteLevel" | "Digits" | "Metaspace" | "UnicodeScripts" => true,
        "Split" | "Punctuation" => part["behavior"] != "Removed" && part["invert"] != true,
        _ => false,
    })
}

/// How many times longer a text may be than what the normalizers make of it.
fn shrinks(normalizer: &Value) -> usize {
    let times = parts(normalizer).iter().fold(1usize, |times, part| match part["type"].as_str().unwrap_or_default() {
        "ByteLevel" | "Prepend" => times,
        // A space becomes a mark, and the like.
        "Replace"
            if part["pattern"]["String"].as_str().map(str::len) <= part["content"].as_str().map(str::len)
                && part["pattern"]["String"].is_string() =>
        {
            times
        }
        "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" => times.saturating_mul(NORMALIZED),
        _ => SWALLOWED,
    });
    times.min(SWALLOWED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tokenizer(change: Value) -> Tokenizer {
        let vocab: serde_json::Map<String, Value> =
            alphabet().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
        let mut file = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        for (name, part) in change.as_object().unwrap() {
            file[name] = part.clone();
        }
        Tokenizer::from_bytes(file.to_string()).unwrap()
    }

    fn bytes(change: Value) -> usize {
        Bound::of(&tokenizer(change)).token_bytes
    }

    #[test]
    fn a_token_stands_for_no_more_bytes_than_the_longest() {
        let added = |content: &str, strips: bool| {
            json!({"added_tokens": [{"id": 256, "content": content, "single_word": false, "lstrip": strips, "rstrip": false,
                "normalized": false, "special": true}]})
        };
        assert_eq!(bytes(json!({})), 1);
        assert_eq!(bytes(added("<pad>", false)), 5);
        assert_eq!(bytes(added("<pad>", true)), 5 * SWALLOWED);
        assert_eq!(bytes(json!({"normalizer": {"type": "NFC"}})), NORMALIZED);
        let both = json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}});
        assert_eq!(bytes(both), NORMALIZED * NORMALIZED);
        assert_eq!(bytes(json!({"normalizer": {"type": "Strip", "strip_left": true, "strip_right": true}})), SWALLOWED);
        let replace = |pattern: Value, content: &str| json!({"normalizer": {"type": "Replace", "pattern": pattern, "content": content}});
        assert_eq!(bytes(replace(json!({"String": " "}), "▁")), 1);
        assert_eq!(bytes(replace(json!({"String": "ab"}), "c")), SWALLOWED);
        assert_eq!(bytes(replace(json!({"Regex": " +"}), " ")), SWALLOWED);
        // Without its byte level, a character of its vocabulary is what it is.
        assert_eq!(bytes(json!({"pre_tokenizer": {"type": "Whitespace"}})), 2 * SWALLOWED);
        let word = json!({"model": {"type": "WordLevel", "vocab": {"abc": 0, "?": 1}, "unk_token": "?"}, "pre_tokenizer": null});
        assert_eq!(bytes(word), 3 * SWALLOWED);
    }

    #[test]
    fn what_is_too_long_is_refused_and_what_may_fit_is_not() {
        let bound = Bound { token_bytes: 3 };
        assert_eq!(bound.check(30, 10), Ok(()));
        assert!(bound.check(31, 10).unwrap_err().message.contains("at most 30 bytes"));
        assert_eq!(Bound { token_bytes: usize::MAX }.check(usize::MAX, 10), Ok(()));
        let count = |text: &str, most| Bound::count(text, most, |piece| Ok::<_, Fault>(piece.len()));
        assert_eq!(count(&"x".repeat(PIECE_BYTES), 1), Ok(()));
        assert_eq!(count(&"é".repeat(PIECE_BYTES), PIECE_BYTES), Ok(()));
        assert!(count(&"é".repeat(PIECE_BYTES), PIECE_BYTES / 4).is_err());
    }

    proptest! {
        #[test]
        fn no_text_of_so_many_tokens_is_refused(text in "(\\PC|\\s|<pad>|a){0,200}", normalizer in 0usize..5) {
            let normalizer = [json!(null), json!({"type": "NFC"}), json!({"type": "NFKC"}), json!({"type": "Lowercase"}),
                json!({"type": "NFD"})][normalizer].clone();
            let added = json!([{"id": 256, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}]);
            let tokenizer = tokenizer(json!({"normalizer": normalizer, "added_tokens": added}));
            let tokens = tokenizer.encode_fast(text.as_str(), false).unwrap().len();
            prop_assert_eq!(Bound::of(&tokenizer).check(text.len(), tokens), Ok(()));
        }
    }
}
