//! Numbers and strings as Python writes them.

use super::lexer::Token;
use crate::error::{Error, ErrorKind};

fn fails<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::Syntax, what))
}

/// How many bytes of `text` are digits of `radix`; an underscore may stand between two of them.
fn digits(text: &str, radix: u32) -> usize {
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_digit(radix));
    let mut letters = text.chars().peekable();
    let mut bytes = 0;
    while let Some(letter) = letters.next() {
        let joins = letter == '_' && bytes > 0 && is_digit(letters.peek().copied());
        if !joins && !is_digit(Some(letter)) {
            break;
        }
        bytes += letter.len_utf8();
    }
    bytes
}

/// The number that `rest` begins with and its bytes; behind a dot it has no fraction.
pub(crate) fn number(rest: &str, may_be_float: bool) -> Result<(Token, usize), Error> {
    let radix = match rest.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 10,
    };
    let prefix = if radix == 10 { 0 } else { 2 };
    let whole = prefix + digits(&rest[prefix..], radix);
    let mut bytes = whole;
    if may_be_float && radix == 10 {
        let fraction = rest[bytes..].strip_prefix('.').map_or(0, |rest| digits(rest, 10));
        bytes += if fraction > 0 { fraction + 1 } else { 0 };
        if let Some(exponent) = rest[bytes..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let count = digits(&exponent[sign..], 10);
            bytes += if count > 0 { 1 + sign + count } else { 0 };
        }
    }
    let text = rest[prefix..bytes].replace('_', "");
    if bytes > whole {
        return text.parse().map(|value| (Token::Float(value), bytes)).or_else(|_| fails("a number cannot be read"));
    }
    match i128::from_str_radix(&text, radix) {
        Ok(value) => Ok((Token::Int(value), bytes)),
        Err(_) => fails("a number is too large"),
    }
}

/// The string that `rest` begins with, whose first character is its quote, and its bytes in the source.
pub(crate) fn text(rest: &str) -> Result<(String, usize), Error> {
    let quote = rest.chars().next().unwrap_or('"');
    let mut out = String::new();
    let mut letters = rest.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            _ if letter == quote => return Ok((out, at + letter.len_utf8())),
            '\\' => {
                let Some((at, code)) = letters.next() else { break };
                let used = escape(&mut out, code, &rest[at + code.len_utf8()..])?;
                for _ in 0..used {
                    letters.next();
                }
            }
            _ => out.push(letter),
        }
    }
    fails("the end of a string is missing")
}

/// Writes what `\code` stands for; says how many characters of `rest` belong to it.
fn escape(out: &mut String, code: char, rest: &str) -> Result<usize, Error> {
    let plain = match code {
        '\n' => return Ok(0),
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '\\' | '\'' | '"' => code,
        'x' => return coded(out, rest, 2, 16),
        'u' => return coded(out, rest, 4, 16),
        'U' => return coded(out, rest, 8, 16),
        '0'..='7' => {
            let more = rest.chars().take(2).take_while(|c| c.is_digit(8)).count();
            let value = u32::from_str_radix(&format!("{code}{}", &rest[..more]), 8).unwrap_or(0);
            out.extend(char::from_u32(value));
            return Ok(more);
        }
        _ => {
            out.push('\\');
            code
        }
    };
    out.push(plain);
    Ok(0)
}

/// The character whose number is the next `count` digits.
fn coded(out: &mut String, rest: &str, count: usize, radix: u32) -> Result<usize, Error> {
    let digits = rest.get(..count).filter(|text| text.chars().all(|c| c.is_digit(radix)));
    match digits.and_then(|text| u32::from_str_radix(text, radix).ok()).and_then(char::from_u32) {
        Some(letter) => out.push(letter),
        None => return fails("a string has an escape that is no character"),
    }
    Ok(count)
}
