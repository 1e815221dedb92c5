//! Filters of what can be gone through.

use super::{apply as apply_filter, order};
use crate::error::Error;
use crate::filters::checks;
use crate::values::access;
use crate::values::arguments::{Args, needed, printed, size};
use crate::values::budget::Budget;
use crate::values::methods;
use crate::values::value::{Kind, Value};

pub(super) fn apply(name: &str, value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    match name {
        "map" => mapped(value, args, budget),
        "select" | "reject" => selected(value, args, None, name == "select", budget),
        "selectattr" | "rejectattr" => {
            let mut args = args;
            if args.positional.is_empty() {
                return Err(Error::invalid(format!("{name} needs an attribute")));
            }
            let attribute = args.positional.remove(0);
            selected(value, args, Some(attribute), name == "selectattr", budget)
        }
        "first" | "last" => {
            let [] = args.bind(name, [])?;
            ended(value, name == "first", budget)
        }
        "length" | "count" => {
            let [] = args.bind(name, [])?;
            let length = value.length(budget)?;
            let none = || Error::invalid(format!("object of type '{}' has no len()", value.type_name()));
            length.map(|length| Value::Int(length as i128)).ok_or_else(none)
        }
        "join" => {
            let [separator, attribute] = args.bind(name, ["d", "attribute"])?;
            let separator = separator.map_or(Ok(std::sync::Arc::from("")), |text| printed(&text, budget))?;
            order::joined(&value.iterate(budget)?.items, &separator, attribute.as_ref(), budget)
        }
        "list" => {
            let [] = args.bind(name, [])?;
            let items = value.iterate(budget)?;
            match items.kind {
                Kind::List => Ok(Value::List(items)),
                _ => budget.list(items.items.clone()),
            }
        }
        "items" => {
            let [] = args.bind(name, [])?;
            match value {
                Value::Undefined(_) => budget.sequence(Kind::Generator, Vec::new()),
                Value::Dict(dict) => methods::items(dict, Kind::Generator, budget),
                _ => Err(Error::invalid("Can only get item pairs from a mapping.")),
            }
        }
        "reverse" => {
            let [] = args.bind(name, [])?;
            if let Value::Text(text) = value {
                budget.take(text.len())?;
                let reversed: String = text.chars().rev().collect();
                return budget.text(&reversed);
            }
            let items = value.iterate(budget)?;
            budget.sequence(Kind::Generator, items.items.iter().rev().cloned().collect())
        }
        "batch" => {
            let [count, fill] = args.bind(name, ["linecount", "fill_with"])?;
            let count = size(Some(&needed(count, name, "linecount")?), 1)?;
            if count == 0 {
                return Err(Error::invalid("batch needs a positive number"));
            }
            let items = value.iterate(budget)?;
            let batches = items.items.chunks(count).map(|batch| {
                let mut batch = batch.to_vec();
                fill_up(&mut batch, fill.as_ref(), count, budget)?;
                budget.list(batch)
            });
            budget.sequence(Kind::Generator, batches.collect::<Result<_, _>>()?)
        }
        "slice" => sliced(value, args, budget),
        _ => Err(Error::invalid(format!("there is no filter `{name}`"))),
    }
}

/// Adds `fill` up to `count`, unless it is none.
fn fill_up(items: &mut Vec<Value>, fill: Option<&Value>, count: usize, budget: &Budget) -> Result<(), Error> {
    if let Some(fill) = fill.filter(|fill| !matches!(fill, Value::None)) {
        budget.room(count.saturating_sub(items.len()))?;
        items.resize(count.max(items.len()), fill.clone());
    }
    Ok(())
}

fn sliced(value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    let [count, fill] = args.bind("slice", ["slices", "fill_with"])?;
    let count = size(Some(&needed(count, "slice", "slices")?), 1)?;
    let items = value.iterate(budget)?;
    let (per_slice, longer) = match count {
        0 => return Err(Error::invalid("slice needs a positive number")),
        count => (items.items.len() / count, items.items.len() % count),
    };
    let mut slices = Vec::new();
    let mut rest = items.items.as_slice();
    for i in 0..count {
        budget.room(1)?;
        let (slice, more) = rest.split_at(per_slice + usize::from(i < longer));
        rest = more;
        let mut slice = slice.to_vec();
        if i >= longer && longer > 0 {
            fill_up(&mut slice, fill.as_ref(), per_slice + 1, budget)?;
        } else if let (0, Some(fill)) = (longer, fill.as_ref().filter(|fill| !matches!(fill, Value::None))) {
            slice.push(fill.clone());
        }
        slices.push(budget.list(slice)?);
    }
    budget.sequence(Kind::Generator, slices)
}

/// The first or the last item.
fn ended(value: &Value, first: bool, budget: &Budget) -> Result<Value, Error> {
    let found = match value {
        Value::List(list) if list.kind == Kind::Generator && first => list.next(),
        Value::List(list) if list.kind == Kind::Generator => {
            return Err(Error::invalid("'generator' object is not reversible"));
        }
        Value::Text(text) => {
            let c = if first { text.chars().next() } else { text.chars().next_back() };
            c.map(|c| budget.text(c.encode_utf8(&mut [0; 4]))).transpose()?
        }
        other => {
            let items = other.iterate(budget)?;
            if first { items.items.first().cloned() } else { items.items.last().cloned() }
        }
    };
    let which = if first { "first" } else { "last" };
    Ok(found.unwrap_or_else(|| Value::undefined(format!("No {which} item, sequence was empty."))))
}

fn mapped(value: &Value, mut args: Args, budget: &Budget) -> Result<Value, Error> {
    if !value.is_true() {
        return budget.sequence(Kind::Generator, Vec::new());
    }
    let items = value.iterate(budget)?;
    budget.room(items.items.len())?;
    let mut results = Vec::with_capacity(items.items.len());
    if args.positional.is_empty() {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let attribute = needed(attribute, "map", "attribute")?;
        for item in &items.items {
            budget.step(1)?;
            let default = default.as_ref().filter(|default| !matches!(default, Value::None));
            results.push(match default {
                None => access::path(item, &attribute, budget)?,
                default => access::path_or(item, &attribute, default, budget)?,
            });
        }
    } else {
        let name = printed(&args.positional.remove(0), budget)?;
        for item in &items.items {
            budget.step(1 + args.positional.len())?;
            results.push(apply_filter(&name, item, args.clone(), budget)?);
        }
    }
    budget.sequence(Kind::Generator, results)
}

/// The items, or those whose `attribute`, that a test of `args` takes; without a test, those that are true.
fn selected(
    value: &Value,
    mut args: Args,
    attribute: Option<Value>,
    wanted: bool,
    budget: &Budget,
) -> Result<Value, Error> {
    let test = match args.positional.is_empty() {
        true => None,
        false => Some(printed(&args.positional.remove(0), budget)?),
    };
    let mut kept = Vec::new();
    if !value.is_true() {
        return budget.sequence(Kind::Generator, kept);
    }
    for item in &value.iterate(budget)?.items {
        budget.step(1 + args.positional.len())?;
        let subject = match &attribute {
            Some(path) if matches!(test.as_deref(), Some("defined" | "undefined")) => {
                access::path_or(item, path, None, budget)?
            }
            Some(path) => access::path(item, path, budget)?,
            None => item.clone(),
        };
        let taken = match &test {
            Some(test) => checks::check(test, &subject, args.clone(), budget)?,
            None => subject.is_true(),
        };
        if taken == wanted {
            kept.push(item.clone());
        }
    }
    budget.sequence(Kind::Generator, kept)
}
