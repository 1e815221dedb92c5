//! JSON into values, in the order in which it was written, and values into JSON.

use crate::error::Error;
use crate::values::arguments::Args;
use crate::values::budget::{Budget, Draft};
use crate::values::print;
use crate::values::value::{Dict, Kind, Value};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// JSON as it was read: the order of an object's keys is kept, which templates print.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object; no key is there twice.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value of `key`, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Self::Object(entries) => entries.iter().find(|(known, _)| known == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As a template sees it.
    ///
    /// # Errors
    /// If it nests too deep or takes more memory than `budget` has.
    pub fn value(&self, budget: &Budget) -> Result<Value, Error> {
        Ok(match self {
            Self::Null => Value::None,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Float(value) => Value::Float(*value),
            Self::Text(text) => budget.text(text)?,
            Self::List(items) => {
                let items = budget.deeper(|| items.iter().map(|item| item.value(budget)).collect())?;
                budget.list(items)?
            }
            Self::Object(entries) => {
                let entry = |(key, value): &(String, Json)| Ok((budget.text(key)?, value.value(budget)?));
                let entries = budget.deeper(|| entries.iter().map(entry).collect::<Result<_, Error>>())?;
                Value::Dict(Rc::new(Dict::of_distinct(entries, budget)?))
            }
        })
    }
}

/// Reads [`Json`] of at most so many values; what is left of them is in the cell.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'c>(pub &'c Cell<usize>);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Reader(&Cell::new(usize::MAX)).deserialize(deserializer)
    }
}

impl Reader<'_> {
    fn one<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| E::custom("it has too many values"))?);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Json, E> {
        self.one().map(|()| Json::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Json, E> {
        self.one().map(|()| Json::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Json, E> {
        self.one().map(|()| Json::Int(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Json, E> {
        self.one().map(|()| Json::Int(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        self.one().map(|()| Json::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Json, E> {
        self.one().map(|()| Json::Text(text.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        self.one::<A::Error>()?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        self.one::<A::Error>()?;
        let mut entries: Vec<(String, Json)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            // The last value of a key counts, at the place of the first.
            match places.get(&key) {
                Some(place) => entries.get_mut(*place).ok_or_else(|| A::Error::custom("a lost key"))?.1 = value,
                None => {
                    places.insert(key.clone(), entries.len());
                    entries.push((key, value));
                }
            }
        }
        Ok(Json::Object(entries))
    }
}

/// How [`tojson`] lays JSON out.
struct Layout {
    only_ascii: bool,
    indent: Option<String>,
    comma: String,
    colon: String,
    sorted: bool,
}

/// The filter `tojson` as transformers defines it: Python's `json.dumps`, with other letters than ASCII's as they are and
/// nothing escaped for HTML.
pub(super) fn tojson(value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [only_ascii, indent, separators, sorted] = args.bind("tojson", names)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text.to_string()),
        Some(width) => Some(" ".repeat(crate::values::arguments::size(Some(&width), 0)?.min(MAX_INDENT))),
    };
    let (mut comma, mut colon) = (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string());
    if let Some(Value::List(list)) = &separators
        && let [Value::Text(a), Value::Text(b)] = list.items.as_slice()
    {
        (comma, colon) = (a.to_string(), b.to_string());
    }
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let layout = Layout { only_ascii: is_set(only_ascii), indent, comma, colon, sorted: is_set(sorted) };
    let mut out = Draft::new(budget);
    layout.write(value, &mut out, 0, budget)?;
    out.value()
}

/// Widest indent of a level, in spaces.
const MAX_INDENT: usize = 1024;

impl Layout {
    fn write(&self, value: &Value, out: &mut Draft<'_>, level: usize, budget: &Budget) -> Result<(), Error> {
        budget.step(1)?;
        match value {
            Value::None => out.push("null"),
            Value::Bool(value) => out.push(if *value { "true" } else { "false" }),
            Value::Int(value) => out.push(&value.to_string()),
            Value::Float(value) => out.push(&number(*value)),
            Value::Text(text) => self.text(text, out),
            Value::List(list) if matches!(list.kind, Kind::List | Kind::Tuple | Kind::Group) => {
                out.push("[")?;
                for (i, item) in list.items.iter().enumerate() {
                    self.between(i == 0, out, level + 1)?;
                    self.write(item, out, level + 1, budget)?;
                }
                self.end(list.items.is_empty(), out, level)?;
                out.push("]")
            }
            Value::Dict(dict) => {
                let mut entries = Vec::with_capacity(dict.entries.len());
                for (key, value) in &dict.entries {
                    entries.push((key_text(key)?, value));
                }
                if self.sorted {
                    budget.step(entries.len())?;
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                out.push("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    self.between(i == 0, out, level + 1)?;
                    self.text(key, out)?;
                    out.push(&self.colon)?;
                    self.write(value, out, level + 1, budget)?;
                }
                self.end(entries.is_empty(), out, level)?;
                out.push("}")
            }
            other => Err(Error::invalid(format!("Object of type {} is not JSON serializable", other.type_name()))),
        }
    }

    fn between(&self, first: bool, out: &mut Draft<'_>, level: usize) -> Result<(), Error> {
        out.push(if first { "" } else { &self.comma })?;
        self.line(out, level)
    }

    fn end(&self, empty: bool, out: &mut Draft<'_>, level: usize) -> Result<(), Error> {
        if empty { Ok(()) } else { self.line(out, level) }
    }

    /// A new line, if each value has its own.
    fn line(&self, out: &mut Draft<'_>, level: usize) -> Result<(), Error> {
        match &self.indent {
            None => Ok(()),
            Some(indent) => {
                out.push("\n")?;
                out.repeat(indent, level)
            }
        }
    }

    fn text(&self, text: &str, out: &mut Draft<'_>) -> Result<(), Error> {
        out.push("\"")?;
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let escaped = match c {
                '"' => "\\\"".to_string(),
                '\\' => "\\\\".to_string(),
                '\n' => "\\n".to_string(),
                '\r' => "\\r".to_string(),
                '\t' => "\\t".to_string(),
                '\u{8}' => "\\b".to_string(),
                '\u{c}' => "\\f".to_string(),
                c if c < ' ' || (self.only_ascii && !(' '..='~').contains(&c)) => {
                    let mut units = [0; 2];
                    c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }
                _ => continue,
            };
            out.push(&text[plain..at])?;
            out.push(&escaped)?;
            plain = at + c.len_utf8();
        }
        out.push(&text[plain..])?;
        out.push("\"")
    }
}

fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_string(),
        f64::INFINITY => "Infinity".to_string(),
        f64::NEG_INFINITY => "-Infinity".to_string(),
        value => print::float(value),
    }
}

/// A dict's key as `json.dumps` makes a string of it.
pub(super) fn key_text(key: &Value) -> Result<Arc<str>, Error> {
    Ok(match key {
        Value::Text(text) => Arc::clone(text),
        Value::None => Arc::from("null"),
        Value::Bool(value) => Arc::from(if *value { "true" } else { "false" }),
        Value::Int(value) => Arc::from(value.to_string()),
        Value::Float(value) => Arc::from(number(*value)),
        other => {
            let words = format!("keys must be str, int, float, bool or None, not {}", other.type_name());
            return Err(Error::invalid(words));
        }
    })
}
