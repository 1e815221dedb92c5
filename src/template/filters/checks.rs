//! What can stand behind `is`.

use crate::ast::Comparison;
use crate::error::Error;
use crate::filters;
use crate::values::arguments::{Args, needed, used};
use crate::values::budget::Budget;
use crate::values::operators;
use crate::values::operators::{compare, contains, equal};
use crate::values::value::{Kind, Value};

const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether there is such a test.
pub(crate) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether `value is name(args)`.
pub(crate) fn check(name: &str, value: &Value, args: Args, budget: &Budget) -> Result<bool, Error> {
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Equal),
        "!=" | "ne" => Some(Comparison::NotEqual),
        "<" | "lt" | "lessthan" => Some(Comparison::Less),
        "<=" | "le" => Some(Comparison::LessOrEqual),
        ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
        ">=" | "ge" => Some(Comparison::GreaterOrEqual),
        _ => None,
    };
    if comparison.is_some() || matches!(name, "in" | "sameas" | "divisibleby") {
        let [other] = args.bind(name, ["other"])?;
        let other = needed(other, name, "other")?;
        return match (name, comparison) {
            (_, Some(comparison)) => compare(value, comparison, &other, budget),
            ("in", _) => contains(&other, value, budget),
            ("sameas", _) => same(value, &other, budget),
            _ => {
                let rest = operators::arithmetic(value, crate::ast::Operator::Remainder, &other, budget)?;
                equal(&rest, &Value::Int(0), budget)
            }
        };
    }
    let [] = args.bind(name, [])?;
    let parity = |odd: i128| {
        let rest = operators::arithmetic(value, crate::ast::Operator::Remainder, &Value::Int(2), budget)?;
        equal(&rest, &Value::Int(odd), budget)
    };
    let all_cased = |wanted: fn(char) -> bool, unwanted: fn(char) -> bool| {
        let text = crate::values::arguments::printed(value, budget)?;
        Ok(text.chars().any(wanted) && !text.chars().any(unwanted))
    };
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => match value {
            // Of what has a length, these let nobody ask for an item by its place.
            Value::List(list) => !matches!(list.kind, Kind::Generator | Kind::Items | Kind::Keys | Kind::Values),
            other => other.length(budget)?.is_some(),
        },
        "iterable" => value.is_iterable(),
        "callable" => match value {
            Value::Object(object) => object.can_be_called(),
            other => matches!(other, Value::Undefined(_)),
        },
        "odd" => parity(1)?,
        "even" => parity(0)?,
        "lower" => return all_cased(char::is_lowercase, char::is_uppercase),
        "upper" => return all_cased(char::is_uppercase, char::is_lowercase),
        "escaped" => false,
        "filter" => filters::exists(value.as_text().unwrap_or("")),
        "test" => exists(value.as_text().unwrap_or("")),
        _ => {
            used(value)?;
            return Err(Error::invalid(format!("there is no test `{name}`")));
        }
    })
}

/// Whether the two are one object. Of strings and numbers Python does not say; here equal ones are.
fn same(a: &Value, b: &Value, budget: &Budget) -> Result<bool, Error> {
    Ok(match (a, b) {
        (Value::List(a), Value::List(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Undefined(_), Value::Undefined(_)) => false,
        _ => a.type_name() == b.type_name() && equal(a, b, budget)?,
    })
}
