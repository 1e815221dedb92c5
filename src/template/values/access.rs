//! What can be asked of a value: its attributes, its items, its slices.

use super::arguments::{int, used};
use super::budget::Budget;
use super::methods;
use super::object;
use super::value::{Kind, Value};
use crate::error::Error;
use std::sync::Arc;

/// `value.name`: a method first, then an item of a dict.
pub(crate) fn attribute(value: &Value, name: &Arc<str>, budget: &Budget) -> Result<Value, Error> {
    used(value)?;
    if budget.is_strict() {
        let found = match value {
            Value::None => Some(Value::None),
            Value::Dict(dict) => dict.named(name, budget)?,
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    if let Some(found) = own_attribute(value, name, budget)? {
        return Ok(found);
    }
    if let Value::Dict(dict) = value
        && let Some(found) = dict.named(name, budget)?
    {
        return Ok(found);
    }
    Ok(lacks(value, &format!("attribute '{name}'")))
}

/// `value[key]`: an item first, then a method.
pub(crate) fn item(value: &Value, key: &Value, budget: &Budget) -> Result<Value, Error> {
    used(value)?;
    let found = match (value, key) {
        (Value::None, _) if budget.is_strict() => Some(Value::None),
        (Value::Dict(dict), key) if key.is_hashable() => dict.get(key, budget)?,
        (Value::List(list), key) if list.has_places() => {
            let place = key.as_int().and_then(|place| place_of(place, list.items.len()));
            place.map(|place| list.items[place].clone())
        }
        (Value::Text(text), key) => match key.as_int() {
            Some(place) => character(text, place, budget)?,
            None => None,
        },
        _ => None,
    };
    match (found, key) {
        (Some(found), _) => Ok(found),
        (None, Value::Text(name)) => match own_attribute(value, name, budget)? {
            Some(found) => Ok(found),
            None => Ok(lacks(value, &format!("attribute '{name}'"))),
        },
        (None, key) => Ok(lacks(value, &format!("element {}", brief(key)))),
    }
}

/// A key in an error.
fn brief(key: &Value) -> String {
    match key {
        Value::Int(place) => place.to_string(),
        other => format!("of type {}", other.type_name()),
    }
}

fn lacks(value: &Value, what: &str) -> Value {
    let of = match value {
        Value::None => "None".to_string(),
        other => format!("'{} object'", other.type_name()),
    };
    Value::undefined(format!("{of} has no {what}"))
}

/// A method, or an attribute of an object.
fn own_attribute(value: &Value, name: &Arc<str>, budget: &Budget) -> Result<Option<Value>, Error> {
    if let Value::Object(object) = value {
        return object.attribute(object, name, budget);
    }
    if let Value::List(list) = value
        && list.kind == Kind::Group
    {
        match &**name {
            "grouper" => return Ok(list.items.first().cloned()),
            "list" => return Ok(list.items.get(1).cloned()),
            _ => {}
        }
    }
    if methods::changes(value, name) {
        let words = format!("access to attribute '{name}' of '{}' object is unsafe", value.type_name());
        return Ok(Some(Value::undefined(words)));
    }
    match methods::exists(value, name) {
        true => object::method(value.clone(), name, budget).map(Some),
        false => Ok(None),
    }
}

/// Where item `place` of `count` is; negative ones count from the end.
fn place_of(place: i128, count: usize) -> Option<usize> {
    let place = if place < 0 { place.checked_add(count as i128)? } else { place };
    usize::try_from(place).ok().filter(|place| *place < count)
}

fn character(text: &str, place: i128, budget: &Budget) -> Result<Option<Value>, Error> {
    let found = match usize::try_from(place) {
        Ok(place) => {
            budget.look(place.min(text.len()))?;
            text.chars().nth(place)
        }
        Err(_) => {
            budget.look(text.len())?;
            let back = place.unsigned_abs().saturating_sub(1);
            usize::try_from(back).ok().and_then(|back| text.chars().rev().nth(back))
        }
    };
    found.map(|c| budget.text(c.encode_utf8(&mut [0; 4]))).transpose()
}

/// `value[start:end:step]`.
pub(crate) fn slice(value: &Value, bounds: [Option<Value>; 3], budget: &Budget) -> Result<Value, Error> {
    used(value)?;
    let bound = |value: &Option<Value>| match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => int(Some(value), 0).map(Some),
    };
    let [start, end, step] = &bounds;
    let (start, end, step) = (bound(start)?, bound(end)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return Err(Error::invalid("slice step cannot be zero"));
    }
    match value {
        Value::List(list) if list.has_places() => {
            let places = places(start, end, step, list.items.len());
            budget.room(places.len())?;
            let kind = if list.kind == Kind::Group { Kind::Tuple } else { list.kind };
            budget.sequence(kind, places.into_iter().map(|place| list.items[place].clone()).collect())
        }
        Value::Text(text) => {
            budget.take(text.len())?;
            if step == 1 {
                return forward(text, start, end, budget);
            }
            budget.take(8 * text.len())?;
            let letters: Vec<char> = text.chars().collect();
            let sliced: String =
                places(start, end, step, letters.len()).into_iter().map(|place| letters[place]).collect();
            budget.text(&sliced)
        }
        Value::Dict(_) => Err(Error::invalid("unhashable type: 'slice'")),
        other => Err(Error::invalid(format!("'{}' object is not subscriptable", other.type_name()))),
    }
}

/// A slice without a step, which needs no list of characters.
fn forward(text: &str, start: Option<i128>, end: Option<i128>, budget: &Budget) -> Result<Value, Error> {
    let count = text.chars().count();
    let clamp = |place: i128| {
        let place = if place < 0 { place.saturating_add(count as i128) } else { place };
        place.clamp(0, count as i128) as usize
    };
    let (start, end) = (start.map_or(0, clamp), end.map_or(count, clamp));
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    if start >= end {
        return budget.text("");
    }
    budget.text(&text[byte(start)..byte(end)])
}

/// The places of a slice, as Python counts them.
fn places(start: Option<i128>, end: Option<i128>, step: i128, count: usize) -> Vec<usize> {
    let count = count as i128;
    let (lowest, highest) = if step > 0 { (0, count) } else { (-1, count - 1) };
    let clamp = |place: i128| {
        let place = if place < 0 { place.saturating_add(count) } else { place };
        place.clamp(lowest, highest)
    };
    let mut place = start.map_or(if step > 0 { lowest } else { highest }, clamp);
    let end = end.map_or(if step > 0 { highest } else { lowest }, clamp);
    let mut places = Vec::new();
    while (step > 0 && place < end) || (step < 0 && place > end) {
        places.push(place as usize);
        place = place.saturating_add(step);
    }
    places
}

/// What the filters of lists ask for by name: `a.b.0` is the item `0` of the item `b` of the item `a`.
pub(crate) fn path(value: &Value, path: &Value, budget: &Budget) -> Result<Value, Error> {
    let found = path_or(value, path, None, budget)?;
    if budget.is_strict() {
        used(&found)?;
    }
    Ok(found)
}

/// As [`path`], with `default` in the place of each item that is not there.
pub(crate) fn path_or(value: &Value, path: &Value, default: Option<&Value>, budget: &Budget) -> Result<Value, Error> {
    let part = |value: &Value, key: &Value| {
        Ok(match (item(value, key, budget)?, default) {
            (Value::Undefined(_), Some(default)) => default.clone(),
            (found, _) => found,
        })
    };
    let Value::Text(names) = path else { return part(value, path) };
    let mut value = value.clone();
    for name in names.split('.') {
        let key = match name.parse::<u32>() {
            Ok(place) if name.bytes().all(|b| b.is_ascii_digit()) => Value::Int(place.into()),
            _ => budget.text(name)?,
        };
        value = part(&value, &key)?;
    }
    Ok(value)
}
