//! Values as Python's `str()` and `repr()` write them.

use super::budget::{Draft, MAX_VALUE_DEPTH};
use super::object::Object;
use super::value::{Kind, Value};
use crate::error::{Error, ErrorKind};

/// Writes `value` as `str()` does.
pub(crate) fn show(value: &Value, out: &mut Draft<'_>) -> Result<(), Error> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Text(text) => out.push(text),
        other => represent(other, out, 0),
    }
}

/// Writes `value` as `repr()` does; `depth` values are around it.
pub(crate) fn represent(value: &Value, out: &mut Draft<'_>, depth: u32) -> Result<(), Error> {
    // Values know their depth, but a namespace may hold itself.
    if depth > 2 * MAX_VALUE_DEPTH {
        return Err(Error::new(ErrorKind::Depth, "a value nests too deep to be printed"));
    }
    out.budget().step(1)?;
    match value {
        Value::Undefined(_) => out.push("Undefined"),
        Value::None => out.push("None"),
        Value::Bool(true) => out.push("True"),
        Value::Bool(false) => out.push("False"),
        Value::Int(value) => out.push(&value.to_string()),
        Value::Float(value) => out.push(&float(*value)),
        Value::Text(text) => quoted(text, out),
        Value::List(list) => {
            let (begin, end) = match list.kind {
                Kind::List => ("[", "]"),
                Kind::Tuple | Kind::Group => ("(", if list.items.len() == 1 { ",)" } else { ")" }),
                Kind::Items => ("dict_items([", "])"),
                Kind::Keys => ("dict_keys([", "])"),
                Kind::Values => ("dict_values([", "])"),
                Kind::Generator => return out.push("<generator object>"),
                Kind::Range => return range(&list.items, out),
            };
            out.push(begin)?;
            for (i, item) in list.items.iter().enumerate() {
                out.push(if i == 0 { "" } else { ", " })?;
                represent(item, out, depth + 1)?;
            }
            out.push(end)
        }
        Value::Dict(dict) => {
            let entries = dict.entries.iter().map(|(key, value)| (key, value));
            pairs(entries, out, depth)
        }
        Value::Object(object) => match &**object {
            Object::Namespace(fields) => {
                // A copy, so that nothing is borrowed while the values are written.
                let fields: Vec<_> = fields.borrow().iter().map(|(k, v)| (Value::Text(k.clone()), v.clone())).collect();
                out.push("<Namespace ")?;
                pairs(fields.iter().map(|(key, value)| (key, value)), out, depth)?;
                out.push(">")
            }
            Object::Loop(turns) => {
                out.push(&format!("<LoopContext {}/{}>", turns.at.get() + 1, turns.items.items.len()))
            }
            Object::Macro(closure) => match &closure.of.name {
                Some(name) => out.push(&format!("<Macro '{name}'>")),
                None => out.push("<Macro anonymous>"),
            },
            Object::Function(function) => out.push(&format!("<function {}>", function.name)),
            Object::BuiltIn(name) => out.push(&format!("<class '{name}'>")),
            Object::Method { of, name } => out.push(&format!("<built-in method {name} of {} object>", of.type_name())),
            Object::Joiner(..) => out.push("<jinja2.utils.Joiner object>"),
            Object::Cycler(..) => out.push("<jinja2.utils.Cycler object>"),
        },
    }
}

fn pairs<'v>(
    entries: impl Iterator<Item = (&'v Value, &'v Value)>,
    out: &mut Draft<'_>,
    depth: u32,
) -> Result<(), Error> {
    out.push("{")?;
    for (i, (key, value)) in entries.enumerate() {
        out.push(if i == 0 { "" } else { ", " })?;
        represent(key, out, depth + 1)?;
        out.push(": ")?;
        represent(value, out, depth + 1)?;
    }
    out.push("}")
}

fn range(items: &[Value], out: &mut Draft<'_>) -> Result<(), Error> {
    let number = |i: usize| items.get(i).and_then(Value::as_int);
    let first = number(0).unwrap_or(0);
    let step = number(1).map_or(1, |second| second - first);
    let end = first + step * items.len() as i128;
    match step {
        1 => out.push(&format!("range({first}, {end})")),
        _ => out.push(&format!("range({first}, {end}, {step})")),
    }
}

/// The shortest digits that read back as `value`, with an exponent where Python writes one.
pub(crate) fn float(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_string();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Writes `text` as a string of Python's source.
fn quoted(text: &str, out: &mut Draft<'_>) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.push("\\\\")?,
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            c if c == quote => out.push(&format!("\\{c}"))?,
            c if is_printable(c) => out.push_char(c)?,
            c => out.push(&match u32::from(c) {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code @ 0..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            })?,
        }
    }
    out.push_char(quote)
}

/// Whether Python shows `c` as it is.
pub(crate) fn is_printable(c: char) -> bool {
    // Rust leaves the same characters as they are behind another one; quotes and backslashes it escapes too.
    matches!(c, ' '..='~') || (!c.is_ascii() && format!("a{c}").escape_debug().nth(2).is_none())
}
