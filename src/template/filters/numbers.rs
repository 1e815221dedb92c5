//! Filters of numbers.

use crate::ast::Operator;
use crate::error::Error;
use crate::values::access;
use crate::values::arguments::{Args, int, used};
use crate::values::budget::Budget;
use crate::values::operators::{arithmetic, number, signed};
use crate::values::value::Value;

pub(super) fn apply(name: &str, value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    if name == "sum" {
        let [attribute, start] = args.bind(name, ["attribute", "start"])?;
        let mut sum = start.unwrap_or(Value::Int(0));
        for item in &value.iterate(budget)?.items {
            budget.step(1)?;
            let item = match &attribute {
                None | Some(Value::None) => item.clone(),
                Some(path) => access::path(item, path, budget)?,
            };
            sum = arithmetic(&sum, Operator::Add, &item, budget)?;
        }
        return Ok(sum);
    }
    used(value)?;
    match name {
        "abs" => {
            let [] = args.bind(name, [])?;
            let negative = number(value).is_some_and(|value| value.is_sign_negative());
            signed(value, negative)
        }
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"])?;
            let base = int(base.as_ref(), 10)?;
            Ok(whole(value, base).map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            let read = match value {
                Value::Text(text) => float(text),
                other => number(other),
            };
            Ok(read.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        _ => rounded(value, args),
    }
}

/// `value` as `float()` makes it.
pub(super) fn float_of(value: &Value) -> Result<f64, Error> {
    used(value)?;
    let read = value.as_text().map_or_else(|| number(value), float);
    read.ok_or_else(|| Error::invalid(format!("'{}' object is no number", value.type_name())))
}

/// A number as Python's `float()` reads it.
fn float(text: &str) -> Option<f64> {
    text.trim().replace('_', "").parse().ok()
}

/// A number as Python's `int()` reads it, or else its whole part.
fn whole(value: &Value, base: i128) -> Option<i128> {
    let from_float = |float: f64| (float.is_finite() && float.abs() < 1e38).then_some(float.trunc() as i128);
    match value {
        Value::Text(text) => {
            let trimmed = text.trim();
            let digits = trimmed.trim_start_matches(['+', '-']);
            let prefix = match base {
                16 => digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")),
                8 => digits.strip_prefix("0o"),
                2 => digits.strip_prefix("0b"),
                _ => None,
            };
            let radix = u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?;
            let parsed = i128::from_str_radix(&prefix.unwrap_or(digits).replace('_', ""), radix).ok();
            let signs = trimmed.len() - digits.len();
            match parsed.filter(|_| signs <= 1) {
                Some(size) => Some(if trimmed.starts_with('-') { -size } else { size }),
                None => float(text).and_then(from_float),
            }
        }
        Value::Float(value) => from_float(*value),
        other => other.as_int(),
    }
}

fn rounded(value: &Value, args: Args) -> Result<Value, Error> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = int(precision.as_ref(), 0)?.clamp(-300, 300) as i32;
    let method = method.as_ref().and_then(Value::as_text).unwrap_or("common");
    let Some(float) = number(value) else {
        return Err(Error::invalid(format!("type {} doesn't define __round__ method", value.type_name())));
    };
    let scale = 10f64.powi(precision);
    match method {
        "common" => match (value.as_int(), precision) {
            (Some(whole), 0..) => Ok(Value::Int(whole)),
            (Some(_), _) => Ok(Value::Int(((float * scale).round_ties_even() / scale).round() as i128)),
            // The exact digits decide, a tie goes to the even one: as Python.
            (None, 0..) => Ok(Value::Float(format!("{float:.*}", precision as usize).parse().unwrap_or(float))),
            (None, _) => Ok(Value::Float((float * scale).round_ties_even() / scale)),
        },
        "ceil" => Ok(Value::Float((float * scale).ceil() / scale)),
        "floor" => Ok(Value::Float((float * scale).floor() / scale)),
        _ => Err(Error::invalid("method must be common, ceil or floor")),
    }
}
