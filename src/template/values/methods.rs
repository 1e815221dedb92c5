//! The methods of strings, lists and dicts. Those that would change a value are refused: templates change nothing.

use super::arguments::{Args, needed};
use super::budget::Budget;
use super::operators::equal;
use super::value::{Dict, Kind, Value};
use crate::error::Error;
use std::rc::Rc;

pub(crate) mod letters;
pub(crate) mod text;

const OF_LISTS: [&str; 3] = ["copy", "count", "index"];
const OF_TUPLES: [&str; 2] = ["count", "index"];
const OF_DICTS: [&str; 5] = ["copy", "get", "items", "keys", "values"];
/// Those that would change a list.
const CHANGE_LISTS: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
/// Those that would change a dict.
const CHANGE_DICTS: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Whether `value` has a method `name` that can be called.
pub(crate) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) => text::exists(name),
        Value::Dict(_) => OF_DICTS.contains(&name),
        Value::List(list) => match list.kind {
            Kind::List => OF_LISTS.contains(&name),
            Kind::Tuple | Kind::Group | Kind::Range => OF_TUPLES.contains(&name),
            _ => false,
        },
        _ => false,
    }
}

/// Whether `name` is a method that would change `value`.
pub(crate) fn changes(value: &Value, name: &str) -> bool {
    match value {
        Value::Dict(_) => CHANGE_DICTS.contains(&name),
        Value::List(list) => list.kind == Kind::List && CHANGE_LISTS.contains(&name),
        _ => false,
    }
}

/// `of.name(args)`.
pub(crate) fn call(of: &Value, name: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
    match of {
        Value::Text(text) => text::call(text, name, args, budget),
        Value::Dict(dict) => call_dict(dict, name, args, budget),
        Value::List(list) => {
            if name == "copy" {
                let [] = args.bind(name, [])?;
                return budget.list(list.items.clone());
            }
            let [wanted] = args.bind(name, ["value"])?;
            let wanted = needed(wanted, name, "value")?;
            let mut count = 0;
            for (place, item) in list.items.iter().enumerate() {
                budget.step(1)?;
                if equal(item, &wanted, budget)? {
                    if name == "index" {
                        return Ok(Value::Int(place as i128));
                    }
                    count += 1;
                }
            }
            match name {
                "index" => Err(Error::invalid("the value is not in the list")),
                _ => Ok(Value::Int(count)),
            }
        }
        other => Err(Error::invalid(format!("'{}' object has no method '{name}'", other.type_name()))),
    }
}

fn call_dict(dict: &Rc<Dict>, name: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
    if name == "get" {
        let [key, default] = args.bind(name, ["key", "default"])?;
        let key = needed(key, name, "key")?;
        if !key.is_hashable() {
            return Err(Error::invalid(format!("unhashable type: '{}'", key.type_name())));
        }
        return Ok(dict.get(&key, budget)?.or(default).unwrap_or(Value::None));
    }
    let [] = args.bind(name, [])?;
    let entries = dict.entries.iter();
    match name {
        "keys" => budget.sequence(Kind::Keys, entries.map(|(key, _)| key.clone()).collect()),
        "values" => budget.sequence(Kind::Values, entries.map(|(_, value)| value.clone()).collect()),
        "copy" => Ok(Value::Dict(Rc::clone(dict))),
        _ => items(dict, Kind::Items, budget),
    }
}

/// The entries of `dict` as pairs.
pub(crate) fn items(dict: &Dict, kind: Kind, budget: &Budget) -> Result<Value, Error> {
    let pair = |(key, value): &(Value, Value)| budget.sequence(Kind::Tuple, vec![key.clone(), value.clone()]);
    let pairs = dict.entries.iter().map(pair).collect::<Result<_, _>>()?;
    budget.sequence(kind, pairs)
}
