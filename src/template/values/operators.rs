//! Operators on values: arithmetic, comparisons, membership.

use super::arguments::used;
use super::budget::Budget;
use super::format;
use super::value::{Kind, Value};
use crate::ast::{Comparison, Operator};
use crate::error::Error;
use std::cmp::Ordering;
use std::sync::Arc;

/// `left operator right`.
pub(crate) fn arithmetic(left: &Value, operator: Operator, right: &Value, budget: &Budget) -> Result<Value, Error> {
    used(left)?;
    if let (Value::Text(text), Operator::Remainder) = (left, operator) {
        return format::percent(text, right, budget);
    }
    used(right)?;
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return whole(a, operator, b);
    }
    if let (Some(a), Some(b)) = (number(left), number(right)) {
        return floating(a, operator, b).map(Value::Float);
    }
    match (left, operator, right) {
        (Value::Text(a), Operator::Add, Value::Text(b)) => {
            budget.take(a.len() + b.len())?;
            Ok(Value::Text(Arc::from([&**a, &**b].concat())))
        }
        (Value::List(a), Operator::Add, Value::List(b)) if a.kind == b.kind && plain(a.kind) => {
            budget.room(a.items.len() + b.items.len())?;
            budget.sequence(a.kind, [a.items.as_slice(), b.items.as_slice()].concat())
        }
        (Value::Text(_) | Value::List(_), Operator::Multiply, count) if count.as_int().is_some() => {
            repeated(left, count.as_int().unwrap_or(0), budget)
        }
        (count, Operator::Multiply, Value::Text(_) | Value::List(_)) if count.as_int().is_some() => {
            repeated(right, count.as_int().unwrap_or(0), budget)
        }
        _ => {
            let (a, b) = (left.type_name(), right.type_name());
            Err(Error::invalid(format!("unsupported operand types for {}: '{a}' and '{b}'", sign(operator))))
        }
    }
}

fn plain(kind: Kind) -> bool {
    matches!(kind, Kind::List | Kind::Tuple)
}

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::DivideWhole => "//",
        Operator::Remainder => "%",
        Operator::Power => "**",
    }
}

/// As a floating point number, if it is any number.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(value) => Some(*value),
        other => other.as_int().map(|value| value as f64),
    }
}

fn repeated(value: &Value, count: i128, budget: &Budget) -> Result<Value, Error> {
    let count = usize::try_from(count.clamp(0, i128::from(u32::MAX))).unwrap_or(0);
    match value {
        Value::Text(text) => {
            budget.take(text.len().saturating_mul(count))?;
            Ok(Value::Text(Arc::from(text.repeat(count))))
        }
        Value::List(list) if plain(list.kind) => {
            budget.room(list.items.len().saturating_mul(count))?;
            let count = if list.items.is_empty() { 0 } else { count };
            budget.sequence(list.kind, std::iter::repeat_n(&list.items, count).flatten().cloned().collect())
        }
        other => Err(Error::invalid(format!("unsupported operand type for *: '{}'", other.type_name()))),
    }
}

fn by_zero<T>() -> Result<T, Error> {
    Err(Error::invalid("division by zero"))
}

fn whole(a: i128, operator: Operator, b: i128) -> Result<Value, Error> {
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide if b == 0 => return by_zero(),
        Operator::Divide => return Ok(Value::Float(a as f64 / b as f64)),
        Operator::DivideWhole | Operator::Remainder if b == 0 => return by_zero(),
        // Both round down, whatever the signs.
        Operator::DivideWhole => a.checked_div(b).map(|q| q - i128::from(a % b != 0 && (a < 0) != (b < 0))),
        Operator::Remainder => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        Operator::Power if b < 0 && a == 0 => return by_zero(),
        Operator::Power if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
        Operator::Power => match (a, u32::try_from(b)) {
            (0 | 1, _) => Some(if b == 0 { 1 } else { a }),
            (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
            (_, Ok(b)) => a.checked_pow(b),
            (_, Err(_)) => None,
        },
    };
    result.map(Value::Int).ok_or_else(|| Error::invalid("a whole number is larger than 128 bits"))
}

fn floating(a: f64, operator: Operator, b: f64) -> Result<f64, Error> {
    Ok(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide | Operator::DivideWhole | Operator::Remainder if b == 0.0 => return by_zero(),
        Operator::Divide => a / b,
        Operator::DivideWhole => ((a - remainder(a, b)) / b).round(),
        Operator::Remainder => remainder(a, b),
        Operator::Power => a.powf(b),
    })
}

/// Has the sign of `b`.
fn remainder(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
}

/// `-value` or `+value`.
pub(crate) fn signed(value: &Value, minus: bool) -> Result<Value, Error> {
    used(value)?;
    match (value, value.as_int()) {
        (_, Some(whole)) if minus => {
            whole.checked_neg().map(Value::Int).ok_or_else(|| Error::invalid("a whole number is larger than 128 bits"))
        }
        (_, Some(whole)) => Ok(Value::Int(whole)),
        (Value::Float(float), _) => Ok(Value::Float(if minus { -float } else { *float })),
        _ => Err(Error::invalid(format!("bad operand type for unary -: '{}'", value.type_name()))),
    }
}

/// Whether `a == b`.
pub(crate) fn equal(a: &Value, b: &Value, budget: &Budget) -> Result<bool, Error> {
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Text(a), Value::Text(b)) => {
            budget.look(a.len().min(b.len()))?;
            a == b
        }
        (Value::List(a), Value::List(b)) => {
            if std::rc::Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            let tuple = |kind| matches!(kind, Kind::Tuple | Kind::Group);
            let alike = a.kind == b.kind || (tuple(a.kind) && tuple(b.kind));
            if !alike || a.kind == Kind::Generator || a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                budget.step(1)?;
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                budget.step(1)?;
                match b.get(key, budget)? {
                    Some(other) if equal(value, &other, budget)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Object(a), Value::Object(b)) => std::rc::Rc::ptr_eq(a, b),
        _ => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => a == b,
            _ => matches!((number(a), number(b)), (Some(a), Some(b)) if a == b),
        },
    })
}

/// Which of two values comes first, or `None` if one of them is no number.
pub(crate) fn order(a: &Value, b: &Value, budget: &Budget) -> Result<Option<Ordering>, Error> {
    used(a)?;
    used(b)?;
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        return Ok(Some(a.cmp(&b)));
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(a.partial_cmp(&b));
    }
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => {
            budget.look(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        (Value::List(a), Value::List(b)) if a.kind == b.kind && (plain(a.kind) || a.kind == Kind::Group) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                budget.step(1)?;
                if !equal(a, b, budget)? {
                    return order(a, b, budget);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        _ => {
            let (a, b) = (a.type_name(), b.type_name());
            Err(Error::invalid(format!("'<' not supported between instances of '{a}' and '{b}'")))
        }
    }
}

/// Whether `item in values`.
pub(crate) fn contains(values: &Value, item: &Value, budget: &Budget) -> Result<bool, Error> {
    match values {
        Value::Text(text) => {
            let Value::Text(part) = item else {
                let of = item.type_name();
                return Err(Error::invalid(format!("'in <string>' requires string as left operand, not {of}")));
            };
            budget.look(text.len() + part.len())?;
            Ok(text.contains(&**part))
        }
        Value::Dict(dict) => {
            if !item.is_hashable() {
                return Err(Error::invalid(format!("unhashable type: '{}'", item.type_name())));
            }
            Ok(dict.get(item, budget)?.is_some())
        }
        Value::List(_) | Value::Undefined(_) => {
            for value in &values.iterate(budget)?.items {
                budget.step(1)?;
                if equal(value, item, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        other => Err(Error::invalid(format!("argument of type '{}' is not iterable", other.type_name()))),
    }
}

/// Whether `left comparison right`.
pub(crate) fn compare(left: &Value, comparison: Comparison, right: &Value, budget: &Budget) -> Result<bool, Error> {
    let ordered = |wanted: &[Ordering]| Ok(order(left, right, budget)?.is_some_and(|order| wanted.contains(&order)));
    match comparison {
        Comparison::Equal => equal(left, right, budget),
        Comparison::NotEqual => equal(left, right, budget).map(|same| !same),
        Comparison::Less => ordered(&[Ordering::Less]),
        Comparison::LessOrEqual => ordered(&[Ordering::Less, Ordering::Equal]),
        Comparison::Greater => ordered(&[Ordering::Greater]),
        Comparison::GreaterOrEqual => ordered(&[Ordering::Greater, Ordering::Equal]),
        Comparison::In => contains(right, left, budget),
        Comparison::NotIn => contains(right, left, budget).map(|there| !there),
    }
}
