//! The filter `pprint`: a value over several lines if it is long, as Python's `pprint` lays it out.

use super::order;
use crate::error::Error;
use crate::values::budget::{Budget, Draft};
use crate::values::methods::text::lines;
use crate::values::print::represent;
use crate::values::value::{Dict, Kind, Value};
use std::rc::Rc;

/// Letters of a line.
const WIDTH: usize = 80;

pub(super) fn printed(value: &Value, budget: &Budget) -> Result<Value, Error> {
    let value = sorted(value, budget)?;
    let mut out = Draft::new(budget);
    Page { budget }.write(&value, Place { indent: 0, after: 0, level: 0 }, &mut out)?;
    out.value()
}

/// `value` with the keys of all its dicts in order.
fn sorted(value: &Value, budget: &Budget) -> Result<Value, Error> {
    budget.step(1)?;
    let inner = |items: &[Value]| items.iter().map(|item| sorted(item, budget)).collect::<Result<Vec<_>, _>>();
    match value {
        Value::List(list) if matches!(list.kind, Kind::List | Kind::Tuple | Kind::Group) => {
            budget.sequence(list.kind, inner(&list.items)?)
        }
        Value::Dict(dict) => {
            let mut entries = Vec::with_capacity(dict.entries.len());
            for (key, value) in &dict.entries {
                entries.push((key.clone(), sorted(value, budget)?));
            }
            // Keys that have no order stay as they are.
            let mixed = entries.windows(2).any(|pair| pair[0].0.type_name() != pair[1].0.type_name());
            let entries = if mixed { entries } else { order::sorted(entries, false, budget)? };
            Ok(Value::Dict(Rc::new(Dict::of_distinct(entries, budget)?)))
        }
        other => Ok(other.clone()),
    }
}

/// Where on a page a value begins.
#[derive(Clone, Copy)]
struct Place {
    indent: usize,
    /// Letters that must have room behind it.
    after: usize,
    level: u32,
}

struct Page<'b> {
    budget: &'b Budget,
}

impl Page<'_> {
    fn represented(&self, value: &Value) -> Result<(String, usize), Error> {
        let mut out = Draft::new(self.budget);
        represent(value, &mut out, 0)?;
        let text = out.finish();
        let letters = text.chars().count();
        Ok((text, letters))
    }

    fn write(&self, value: &Value, place: Place, out: &mut Draft<'_>) -> Result<(), Error> {
        let (text, letters) = self.represented(value)?;
        if letters + place.indent + place.after <= WIDTH {
            return out.push(&text);
        }
        let inside = Place { indent: place.indent + 1, after: place.after + 1, level: place.level + 1 };
        match value {
            Value::Text(text) => self.string(text, Place { level: place.level + 1, ..place }, out),
            Value::Dict(dict) => {
                out.push("{")?;
                for (i, (key, value)) in dict.entries.iter().enumerate() {
                    let (key, letters) = self.represented(key)?;
                    out.push(&key)?;
                    out.push(": ")?;
                    let last = i + 1 == dict.entries.len();
                    let after = if last { inside.after } else { 1 };
                    self.write(value, Place { indent: inside.indent + letters + 2, after, ..inside }, out)?;
                    self.next_line(last, inside.indent, out)?;
                }
                out.push("}")
            }
            Value::List(list) if matches!(list.kind, Kind::List | Kind::Tuple | Kind::Group) => {
                let (begin, end) = match (list.kind, list.items.len()) {
                    (Kind::List, _) => ("[", "]"),
                    (_, 1) => ("(", ",)"),
                    _ => ("(", ")"),
                };
                out.push(begin)?;
                for (i, item) in list.items.iter().enumerate() {
                    let last = i + 1 == list.items.len();
                    let after = if last { place.after + end.len() } else { 1 };
                    self.write(item, Place { after, ..inside }, out)?;
                    self.next_line(last, inside.indent, out)?;
                }
                out.push(end)
            }
            _ => out.push(&text),
        }
    }

    fn next_line(&self, last: bool, indent: usize, out: &mut Draft<'_>) -> Result<(), Error> {
        if last {
            return Ok(());
        }
        out.push(",\n")?;
        out.repeat(" ", indent)
    }

    /// A long string: its lines, and of long lines as many words as have room.
    fn string(&self, text: &str, place: Place, out: &mut Draft<'_>) -> Result<(), Error> {
        let alone = place.level == 1;
        let (indent, after) = (place.indent + usize::from(alone), place.after + usize::from(alone));
        let room = WIDTH.saturating_sub(indent);
        let room_at_end = room.saturating_sub(after);
        let represented = |text: &str| self.represented(&self.budget.text(text)?);
        let mut chunks = Vec::new();
        let all = lines(text, true, self.budget)?;
        for (i, line) in all.iter().enumerate() {
            let last_line = i + 1 == all.len();
            let (whole, letters) = represented(line)?;
            if letters <= if last_line { room_at_end } else { room } {
                chunks.push(whole);
                continue;
            }
            self.budget.take(size_of::<&str>() * line.len())?;
            let words = words(line);
            let mut current = String::new();
            for (j, word) in words.iter().enumerate() {
                let last = last_line && j + 1 == words.len();
                let longer = format!("{current}{word}");
                let (_, letters) = represented(&longer)?;
                if letters <= if last { room_at_end } else { room } {
                    current = longer;
                    continue;
                }
                if !current.is_empty() {
                    chunks.push(represented(&current)?.0);
                }
                current = (*word).to_string();
            }
            if !current.is_empty() {
                chunks.push(represented(&current)?.0);
            }
        }
        let brackets = alone && chunks.len() > 1;
        out.push(if brackets { "(" } else { "" })?;
        for (i, chunk) in chunks.iter().enumerate() {
            if i > 0 {
                out.push("\n")?;
                out.repeat(" ", indent)?;
            }
            out.push(chunk)?;
        }
        out.push(if brackets { ")" } else { "" })
    }
}

/// The words of `line`, each with the white space behind it.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut begin = 0;
    let mut blank = false;
    for (at, c) in line.char_indices() {
        let is_blank = crate::values::methods::letters::is_space(c);
        if blank && !is_blank {
            words.push(&line[begin..at]);
            begin = at;
        }
        blank = is_blank;
    }
    words.push(&line[begin..]);
    words
}
