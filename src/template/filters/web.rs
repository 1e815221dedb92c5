//! Filters for addresses, marked-up text and sizes, and the one that chooses.

use super::{numbers, text};
use crate::error::Error;
use crate::values::access;
use crate::values::arguments::{Args, printed};
use crate::values::budget::{Budget, Draft};
use crate::values::methods;
use crate::values::methods::letters::is_space;
use crate::values::value::{Kind, List, Value};
use std::rc::Rc;

pub(super) fn apply(name: &str, value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    match name {
        "urlencode" => {
            let [] = args.bind(name, [])?;
            url_encoded(value, budget)
        }
        "xmlattr" => xml_attributes(value, args, budget),
        "striptags" => {
            let [] = args.bind(name, [])?;
            stripped(&printed(value, budget)?, budget)
        }
        "filesizeformat" => {
            let [binary] = args.bind(name, ["binary"])?;
            budget.text(&size_of(numbers::float_of(value)?, binary.is_some_and(|binary| binary.is_true())))
        }
        _ => {
            let [] = args.bind(name, [])?;
            chosen(value, budget)
        }
    }
}

/// A text, percent-encoded, or the pairs of a dict or a list as a query.
fn url_encoded(value: &Value, budget: &Budget) -> Result<Value, Error> {
    let mut out = Draft::new(budget);
    let pairs: Rc<List> = match value {
        Value::Dict(dict) => methods::items(dict, Kind::List, budget)?.iterate(budget)?,
        Value::List(_) | Value::Undefined(_) => value.iterate(budget)?,
        other => {
            quoted(&printed(other, budget)?, false, &mut out)?;
            return out.value();
        }
    };
    for (i, pair) in pairs.items.iter().enumerate() {
        let pair = pair.iterate(budget)?;
        let [key, value] = pair.items.as_slice() else {
            return Err(Error::invalid("urlencode needs pairs of a name and a value"));
        };
        out.push(if i == 0 { "" } else { "&" })?;
        quoted(&printed(key, budget)?, true, &mut out)?;
        out.push("=")?;
        quoted(&printed(value, budget)?, true, &mut out)?;
    }
    out.value()
}

/// In a query a blank is a `+`, and a slash is encoded too.
fn quoted(text: &str, in_query: bool, out: &mut Draft<'_>) -> Result<(), Error> {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push_char(byte.into())?,
            b'/' if !in_query => out.push("/")?,
            b' ' if in_query => out.push("+")?,
            byte => out.push(&format!("%{byte:02X}"))?,
        }
    }
    Ok(())
}

fn xml_attributes(value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    let [blank] = args.bind("xmlattr", ["autospace"])?;
    let Value::Dict(dict) = value else {
        return Err(Error::invalid(format!("'{}' object has no attribute 'items'", value.type_name())));
    };
    let mut out = Draft::new(budget);
    let mut first = blank.is_some_and(|blank| !blank.is_true());
    for (key, value) in &dict.entries {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = printed(key, budget)?;
        if key.contains(|c: char| c.is_ascii_whitespace() || "\u{b}/>=".contains(c)) {
            return Err(Error::invalid(format!("xmlattr: {key:?} is no name of an attribute")));
        }
        out.push(if first { "" } else { " " })?;
        first = false;
        text::escape(&key, &mut out)?;
        out.push("=\"")?;
        text::escape(&printed(value, budget)?, &mut out)?;
        out.push("\"")?;
    }
    out.value()
}

/// Without tags and comments, one blank for any white space, and entities as what they stand for.
fn stripped(text: &str, budget: &Budget) -> Result<Value, Error> {
    budget.take(2 * text.len())?;
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(begin) = rest.find('<') {
        let end = match rest[begin..].strip_prefix("<!--") {
            Some(comment) => comment.find("-->").map(|at| begin + 4 + at + 3),
            None => rest[begin..].find('>').map(|at| begin + at + 1),
        };
        let Some(end) = end else { break };
        plain.push_str(&rest[..begin]);
        rest = &rest[end..];
    }
    plain.push_str(rest);
    let words: Vec<&str> = plain.split(is_space).filter(|word| !word.is_empty()).collect();
    budget.text(&unescaped(&words.join(" ")))
}

/// The entities that escaping makes, and numbers of characters.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        // No name of an entity is longer.
        let end = rest.bytes().take(12).position(|byte| byte == b';');
        match end.and_then(|end| Some((entity(&rest[1..end])?, end))) {
            Some((letter, end)) => {
                out.push(letter);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some('\u{a0}'),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            code.ok().and_then(char::from_u32)
        }
    }
}

fn size_of(bytes: f64, binary: bool) -> String {
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return "1 Byte".into();
    }
    if bytes < base {
        return format!("{} Bytes", bytes.trunc() as i128);
    }
    let prefixes = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
    let mut unit = base;
    let mut last = 'k';
    for prefix in prefixes.chars() {
        unit *= base;
        last = prefix;
        if bytes < unit {
            break;
        }
    }
    format!("{:.1} {last}{}", base * bytes / unit, if binary { "iB" } else { "B" })
}

/// One of the items. Which one is nobody's business: what a template writes hangs on nothing but what it sees.
fn chosen(value: &Value, budget: &Budget) -> Result<Value, Error> {
    let Some(count) = value.length(budget)? else {
        return Err(Error::invalid(format!("object of type '{}' has no len()", value.type_name())));
    };
    match count {
        0 => Ok(Value::undefined("No random item, sequence was empty.")),
        count => access::item(value, &Value::Int((budget.steps_left() % count as u64).into()), budget),
    }
}
