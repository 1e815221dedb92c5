//! How much longer a text may become on its way through normalizers and pre-tokenizers, and what is added to its tokens.

use stageline_template::Json;

/// Most times that a text may grow.
const MAX_FACTOR: f64 = 64.0;
/// Most bytes that may be put before a text.
const MAX_MORE_BYTES: f64 = 4096.0;
/// Most steps of a chain, and most tokens that are added to a text.
const MAX_STEPS: usize = 64;
/// Longest text that a `Precompiled` map may put in the place of a character, in bytes.
const MAX_MAPPED_BYTES: usize = 64;

/// A text of n bytes becomes at most `factor` n + `more` bytes.
#[derive(Clone, Copy, Debug)]
struct Growth {
    factor: f64,
    more: f64,
}

impl Growth {
    const NONE: Self = Self { factor: 1.0, more: 0.0 };

    fn then(self, next: Self) -> Self {
        Self { factor: self.factor * next.factor, more: self.more * next.factor + next.more }
    }
}

/// Whether normalizer and pre-tokenizer leave a text of bounded length.
pub(super) fn check_text(normalizer: &Json, pre_tokenizer: &Json) -> Result<(), String> {
    let mut steps = 0;
    let growth = of(normalizer, &mut steps)?.then(of(pre_tokenizer, &mut steps)?);
    if growth.factor > MAX_FACTOR || growth.more > MAX_MORE_BYTES {
        return Err(format!("it may make a text {:.0} times as long and {:.0} bytes more", growth.factor, growth.more));
    }
    Ok(())
}

/// The length of the text at `key`.
fn bytes(part: &Json, key: &str) -> f64 {
    part.get(key).and_then(Json::as_str).map_or(0.0, |text| text.len() as f64)
}

fn of(part: &Json, steps: &mut usize) -> Result<Growth, String> {
    *steps += 1;
    if *steps > MAX_STEPS {
        return Err(format!("it has more than {MAX_STEPS} steps"));
    }
    let kind = part.get("type").and_then(Json::as_str).unwrap_or("");
    Ok(match kind {
        "Sequence" => {
            let inner = ["normalizers", "pretokenizers"].iter().find_map(|key| part.get(key));
            let Some(Json::List(inner)) = inner else { return Ok(Growth::NONE) };
            let mut growth = Growth::NONE;
            for step in inner {
                growth = growth.then(of(step, steps)?);
            }
            growth
        }
        "Prepend" => Growth { factor: 1.0, more: bytes(part, "prepend") },
        "Replace" => {
            let content = bytes(part, "content");
            match part.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Json::as_str) {
                Some(text) if !text.is_empty() => Growth { factor: (content / text.len() as f64).max(1.0), more: 0.0 },
                // A pattern that matches nothing does so beside every byte.
                _ => Growth { factor: 1.0 + content, more: content },
            }
        }
        "ByteLevel" => Growth { factor: 2.0, more: 1.0 },
        "Metaspace" => Growth { factor: bytes(part, "replacement").max(1.0), more: 4.0 },
        "Precompiled" => {
            check_map(part.get("precompiled_charsmap").and_then(Json::as_str).unwrap_or(""))?;
            Growth::NONE
        }
        _ => Growth::NONE,
    })
}

/// Looks at a compiled map of characters: the length of a table, the table, and texts that each end with a zero byte.
fn check_map(base64: &str) -> Result<(), String> {
    let map = decoded(base64).ok_or("its `precompiled_charsmap` is not base64")?;
    if map.is_empty() {
        return Ok(());
    }
    let broken = "its `precompiled_charsmap` is broken";
    let (length, rest) = map.split_first_chunk::<4>().ok_or(broken)?;
    let texts = rest.get(u32::from_le_bytes(*length) as usize..).ok_or(broken)?;
    match texts.split(|byte| *byte == 0).any(|text| text.len() > MAX_MAPPED_BYTES) {
        true => Err(format!("its `precompiled_charsmap` has a text of more than {MAX_MAPPED_BYTES} bytes")),
        false => Ok(()),
    }
}

fn decoded(base64: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(base64.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in base64.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

/// Whether the post-processor adds few tokens to a text, and no second copy of it.
pub(super) fn check_added(part: &Json) -> Result<(), String> {
    let mut left = MAX_STEPS;
    added(part, &mut left)
}

fn added(part: &Json, left: &mut usize) -> Result<(), String> {
    let too_many = || format!("its post-processor has more than {MAX_STEPS} steps or tokens");
    let mut take = |count: usize| left.checked_sub(count).map(|rest| *left = rest).ok_or_else(too_many);
    take(1)?;
    if let Some(Json::List(pieces)) = part.get("single") {
        take(pieces.len())?;
        if pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count() > 1 {
            return Err("its post-processor repeats the text".to_string());
        }
    }
    if let Some(Json::Object(tokens)) = part.get("special_tokens") {
        for (_, token) in tokens {
            let Some(Json::List(ids)) = token.get("ids") else { continue };
            if ids.len() > MAX_STEPS {
                return Err(too_many());
            }
        }
    }
    if let Some(Json::List(inner)) = part.get("processors") {
        for step in inner {
            added(step, left)?;
        }
    }
    Ok(())
}
