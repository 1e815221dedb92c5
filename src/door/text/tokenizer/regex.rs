//! Refuses patterns that take exponential time: a repeat without an end of something that can be read in several ways, since it
//! has a repeat of no one count, as `(a+)+` or `(a{1,2})+`, a choice, as `(a|aa)+`, or a part that may be missing, as `(a?b?)+`.
//! The library gives up on a place after ten million tries, but a text has many places.

use stageline_template::Json;

/// Longest pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 16 << 10;
/// Deepest nesting of a pattern's groups.
const MAX_GROUPS: usize = 64;
/// A repeat of more than this many times counts as one without an end.
const FEW: usize = 8;

/// Whether every pattern of `part` is harmless.
///
/// # Errors
/// Which is not.
pub(super) fn check(part: &Json) -> Result<(), String> {
    if let Some(pattern) = part.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Json::as_str) {
        let brief: String = pattern.chars().take(60).collect();
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(format!("a pattern has more than {MAX_PATTERN_BYTES} bytes: {brief}"));
        }
        if !is_harmless(pattern) {
            return Err(format!("a pattern repeats what can be read in several ways, or nests too deep: {brief}"));
        }
    }
    for key in ["normalizers", "pretokenizers", "decoders"] {
        let Some(Json::List(inner)) = part.get(key) else { continue };
        for step in inner {
            check(step)?;
        }
    }
    Ok(())
}

fn is_harmless(pattern: &str) -> bool {
    let letters: Vec<char> = pattern.chars().collect();
    // Whether each open group can be read in several ways.
    let mut groups = vec![false];
    // Whether what was just read can.
    let mut last = false;
    let mut at = 0;
    while let Some(letter) = letters.get(at) {
        let from = at;
        at += 1;
        match letter {
            '\\' => {
                at += 1;
                if matches!(letters.get(from + 1), Some('p' | 'P' | 'x' | 'k' | 'g')) && letters.get(at) == Some(&'{') {
                    while letters.get(at).is_some_and(|c| *c != '}') {
                        at += 1;
                    }
                    at += 1;
                }
                last = false;
            }
            '[' => {
                at = class_end(&letters, at);
                last = false;
            }
            '(' => {
                if groups.len() > MAX_GROUPS {
                    return false;
                }
                groups.push(false);
                last = false;
            }
            ')' => {
                last = groups.pop().unwrap_or(false);
                match groups.last_mut() {
                    Some(around) => *around |= last,
                    None => groups.push(last),
                }
            }
            '|' => {
                if let Some(group) = groups.last_mut() {
                    *group = true;
                }
                last = false;
            }
            // What a group is, is no repeat.
            '?' if letters.get(from.wrapping_sub(1)) == Some(&'(') => {}
            '*' | '+' | '{' | '?' => {
                let Some((endless, end)) = repeat(&letters, from) else {
                    last = false;
                    continue;
                };
                at = end;
                if endless && last {
                    return false;
                }
                let several = endless || *letter == '?' || counts_differ(&letters[from..end]);
                if several && let Some(group) = groups.last_mut() {
                    *group = true;
                    last = true;
                }
            }
            _ => last = false,
        }
    }
    true
}

/// Whether the repeat at `at` has no end, and where it is over with the `?` or `+` behind it; `None` if a brace is only itself.
fn repeat(letters: &[char], at: usize) -> Option<(bool, usize)> {
    let (endless, mut end) = match letters[at] {
        '*' | '+' => (true, at + 1),
        '?' => (false, at + 1),
        _ => {
            let length = letters[at..].iter().position(|c| *c == '}')?;
            let inside: String = letters[at + 1..at + length].iter().collect();
            if inside.is_empty() || !inside.chars().all(|c| c.is_ascii_digit() || c == ',') {
                return None;
            }
            let most = inside.rsplit(',').next().unwrap_or("");
            (most.parse::<usize>().map_or(true, |most| most > FEW), at + length + 1)
        }
    };
    // `a+?` is lazy and `a++` possessive.
    if letters[at] != '{' && matches!(letters.get(end), Some('?' | '+')) {
        end += 1;
    }
    Some((endless, end))
}

/// Whether a repeat in braces may be of more or less.
fn counts_differ(repeat: &[char]) -> bool {
    let inside: String = repeat.iter().filter(|c| c.is_ascii_digit() || **c == ',').collect();
    inside.split_once(',').is_some_and(|(least, most)| least != most)
}

/// Where the class is over whose `[` is before `at`.
fn class_end(letters: &[char], mut at: usize) -> usize {
    let mut depth = 1;
    if letters.get(at) == Some(&'^') {
        at += 1;
    }
    // A closing bracket that comes first is one of the characters.
    if letters.get(at) == Some(&']') {
        at += 1;
    }
    while let Some(letter) = letters.get(at) {
        at += 1;
        match letter {
            '\\' => at += 1,
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_public_tokenizers_are_harmless_and_nested_repeats_are_not() {
        for pattern in [
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}",
            r" ?[^(\s|[.,!?…。，、।۔،])]+",
            r"(\[[^\]]+\]|Br?|Cl?|N|O)",
            r" {2,}",
            r"[!-/:-~][A-Za-z]+|\s?\p{L}+",
            r"(?:ab)+c?",
            r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+(?i:'s|'t|'re)?|\p{N}{1,3}",
            r"(?i:a|b)?c",
            r"x{",
            r"a{1,2}",
            "",
        ] {
            assert!(is_harmless(pattern), "{pattern}");
        }
        for pattern in [
            r"(a+)+$",
            r"(a*)*b",
            r"((a+)b?)*c",
            r"(?:[a-z]+)*!",
            r"(\w+\s?)+$",
            r"(a{2,})+",
            r"((((a+))))*",
            r"(a+){20,}",
            r"(x+x+)+y",
            r"(a|b+)+",
            r"(a+?)+b",
            r"(.*a){25}",
            r"(a|a)*b",
            r"(a|aa)+$",
            r"(?:a?){30}a{30}",
            r"(a?b?)*c",
            r"(?:x|(?:xx)?)+y",
            r"([a-c]|[b-d]){9,}e",
            r"((a{0,2})b?)*",
            r"(\s|\s\s)*!",
            r"(a{1,2})+$",
            r"(a{2,3}){9,}b",
        ] {
            assert!(!is_harmless(pattern), "{pattern}");
        }
        assert!(!is_harmless(&"(".repeat(1000)));
    }
}
