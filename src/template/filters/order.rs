//! Filters that put things in order.

use crate::error::Error;
use crate::values::access;
use crate::values::arguments::{Args, needed, printed};
use crate::values::budget::Budget;
use crate::values::operators::{equal, order};
use crate::values::value::{Kind, Value};
use std::cmp::Ordering;
use std::collections::HashSet;

pub(super) fn apply(name: &str, value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    match name {
        "sort" => {
            let [reverse, case, attribute] = args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            // Several attributes are a list of keys, and so is one: values that lack it are equal.
            let attribute = match attribute {
                Some(Value::Text(paths)) => {
                    let paths = paths.split(',').map(|path| budget.text(path.trim()));
                    Some(budget.list(paths.collect::<Result<_, _>>()?)?)
                }
                other => other,
            };
            let keyed = keyed(value, attribute, is_set(case), budget)?;
            let sorted = sorted(keyed, is_set(reverse), budget)?;
            budget.list(sorted.into_iter().map(|(_, item)| item).collect())
        }
        "min" | "max" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let mut best: Option<(Value, Value)> = None;
            for (key, item) in keyed(value, attribute, is_set(case), budget)? {
                let better = match &best {
                    Some((than, _)) => order(&key, than, budget)? == Some(wanted),
                    None => true,
                };
                if better {
                    best = Some((key, item));
                }
            }
            Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
        }
        "unique" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let mut seen = HashSet::new();
            let mut kept = Vec::new();
            for (key, item) in keyed(value, attribute, is_set(case), budget)? {
                if seen.insert(identity(&key, budget)?) {
                    kept.push(item);
                }
            }
            budget.sequence(Kind::Generator, kept)
        }
        "groupby" => grouped(value, args, budget),
        _ => {
            let [case, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = value else {
                return Err(Error::invalid(format!("'{}' object has no attribute 'items'", value.type_name())));
            };
            let place = match by.as_ref().map_or(Some("key"), Value::as_text) {
                Some("key") => 0,
                Some("value") => 1,
                _ => return Err(Error::invalid("You can only sort by either \"key\" or \"value\"")),
            };
            let pairs = crate::values::methods::items(dict, Kind::List, budget)?;
            let keyed = keyed(&pairs, Some(Value::Int(place)), is_set(case), budget)?;
            let sorted = sorted(keyed, is_set(reverse), budget)?;
            budget.list(sorted.into_iter().map(|(_, item)| item).collect())
        }
    }
}

/// The items of `value`, each with what it is ordered by.
fn keyed(value: &Value, attribute: Option<Value>, case: bool, budget: &Budget) -> Result<Vec<(Value, Value)>, Error> {
    let folded = |key: Value| match key {
        Value::Text(text) if !case => budget.text(&text.to_lowercase()),
        other => Ok(other),
    };
    let items = value.iterate(budget)?;
    budget.room(2 * items.items.len())?;
    let mut keyed = Vec::with_capacity(items.items.len());
    for item in &items.items {
        budget.step(1)?;
        let key = match &attribute {
            None | Some(Value::None) => folded(item.clone())?,
            Some(Value::List(paths)) => {
                let keys = paths.items.iter().map(|path| folded(access::path(item, path, budget)?));
                budget.list(keys.collect::<Result<_, _>>()?)?
            }
            Some(path) => folded(access::path(item, path, budget)?)?,
        };
        keyed.push((key, item.clone()));
    }
    Ok(keyed)
}

/// `items` by their keys; those with equal ones stay in their order.
pub(super) fn sorted(
    mut items: Vec<(Value, Value)>,
    reverse: bool,
    budget: &Budget,
) -> Result<Vec<(Value, Value)>, Error> {
    // A merge sort of our own: an order that is none, as that of NaN, must do no harm, and comparing may fail.
    let mut width = 1;
    while width < items.len() {
        budget.step(items.len())?;
        let mut merged = Vec::with_capacity(items.len());
        for pair in items.chunks(2 * width) {
            let (left, right) = pair.split_at(width.min(pair.len()));
            let (mut l, mut r) = (0, 0);
            while let (Some(a), Some(b)) = (left.get(l), right.get(r)) {
                let order = order(&b.0, &a.0, budget)?;
                let second = order == Some(if reverse { Ordering::Greater } else { Ordering::Less });
                merged.push(if second { b.clone() } else { a.clone() });
                if second { r += 1 } else { l += 1 }
            }
            merged.extend_from_slice(&left[l..]);
            merged.extend_from_slice(&right[r..]);
        }
        items = merged;
        width *= 2;
    }
    Ok(items)
}

/// A text that two values share if they are equal as keys.
fn identity(value: &Value, budget: &Budget) -> Result<String, Error> {
    if !value.is_hashable() {
        return Err(Error::invalid(format!("unhashable type: '{}'", value.type_name())));
    }
    Ok(match value {
        Value::Text(text) => {
            budget.take(text.len())?;
            format!("s{text}")
        }
        Value::Float(float) if float.fract() == 0.0 && float.abs() < 1e38 => (*float as i128).to_string(),
        other => match other.as_int() {
            Some(whole) => whole.to_string(),
            None => format!("v{}", {
                let mut out = crate::values::budget::Draft::new(budget);
                crate::values::print::represent(other, &mut out, 0)?;
                out.finish()
            }),
        },
    })
}

fn grouped(value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    let [attribute, default, case] = args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let attribute = needed(attribute, "groupby", "attribute")?;
    let case = case.is_some_and(|case| case.is_true());
    let key_of = |item: &Value| access::path_or(item, &attribute, default.as_ref(), budget);
    let fold = |key: &Value| match key {
        Value::Text(text) if !case => budget.text(&text.to_lowercase()),
        other => Ok(other.clone()),
    };
    let mut keyed = Vec::new();
    for item in &value.iterate(budget)?.items {
        keyed.push((fold(&key_of(item)?)?, item.clone()));
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted(keyed, false, budget)? {
        match groups.last_mut() {
            Some((last, items)) if equal(last, &key, budget)? => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut tuples = Vec::with_capacity(groups.len());
    for (_, items) in groups {
        let key = key_of(&items[0])?;
        tuples.push(budget.sequence(Kind::Group, vec![key, budget.list(items)?])?);
    }
    budget.list(tuples)
}

/// The joined items of `join`, which prints what it joins.
pub(super) fn joined(
    items: &[Value],
    separator: &str,
    attribute: Option<&Value>,
    budget: &Budget,
) -> Result<Value, Error> {
    let mut out = crate::values::budget::Draft::new(budget);
    for (i, item) in items.iter().enumerate() {
        budget.step(1)?;
        out.push(if i == 0 { "" } else { separator })?;
        match attribute {
            None | Some(Value::None) => out.push(&printed(item, budget)?)?,
            Some(path) => out.push(&printed(&access::path(item, path, budget)?, budget)?)?,
        }
    }
    out.value()
}
