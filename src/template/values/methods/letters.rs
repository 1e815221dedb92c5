//! Large and small letters, and what letters are.

use super::super::print::is_printable;

pub(crate) fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(capital).collect();
    first + &letters.as_str().to_lowercase()
}

/// A letter as a word begins with it: of one that becomes several only the first is large.
fn capital(letter: char) -> impl Iterator<Item = char> {
    let mut large = letter.to_uppercase();
    large.next().into_iter().chain(large.flat_map(char::to_lowercase))
}

/// A capital after whatever has no case.
pub(crate) fn titled(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(capital(c)),
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

pub(crate) fn swapped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c.is_uppercase() {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
    }
    out
}

/// The questions that have no arguments.
pub(crate) fn is(text: &str, name: &str) -> bool {
    let all = |wanted: fn(char) -> bool| !text.is_empty() && text.chars().all(wanted);
    let cased = || text.chars().any(|c| c.is_lowercase() || c.is_uppercase());
    match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(|c| is_decimal(c) || is_small_digit(c)),
        "isnumeric" => all(char::is_numeric),
        "isidentifier" => !text.starts_with(char::is_numeric) && all(|c| c == '_' || c.is_alphanumeric()),
        "islower" => cased() && !text.chars().any(char::is_uppercase),
        "isupper" => cased() && !text.chars().any(char::is_lowercase),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        _ => cased() && titled(text) == text,
    }
}

/// Where the ten decimal digits of each script begin.
#[rustfmt::skip]
const ZEROS: [u32; 37] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900,
    0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
];

fn is_decimal(c: char) -> bool {
    ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&u32::from(c)))
}

/// A raised, lowered or circled digit.
fn is_small_digit(c: char) -> bool {
    matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}' | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}')
}

/// White space as Python sees it.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
