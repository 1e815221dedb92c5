//! Filters: what can stand behind `|`. All of Jinja2's but `urlize`, which makes links for web pages. What `safe` and `escape`
//! give is a text like any other here: there, `+` escapes what is added to it.

use crate::error::Error;
use crate::json;
use crate::values::access;
use crate::values::arguments::{Args, needed, printed, used};
use crate::values::budget::Budget;
use crate::values::format;
use crate::values::methods;
use crate::values::value::Value;

pub(crate) mod checks;
mod lists;
mod numbers;
mod order;
mod pretty;
mod text;
mod web;
mod wrap;

const NAMES: [&str; 53] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Whether there is such a filter.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether it draws from what no value says.
pub(super) fn is_random(name: &str) -> bool {
    name == "random"
}

/// `value | name(args)`.
pub(super) fn apply(name: &str, value: &Value, args: Args, budget: &Budget) -> Result<Value, Error> {
    match name {
        _ if is_random(name) && budget.is_strict() => Err(Error::invalid(format!("there is no filter `{name}` here"))),
        "capitalize" | "center" | "e" | "escape" | "forceescape" | "indent" | "lower" | "replace" | "safe"
        | "string" | "title" | "trim" | "truncate" | "upper" | "wordcount" | "wordwrap" => {
            if name == "truncate" && text::is_short(value, &args, budget)? {
                return Ok(value.clone());
            }
            if matches!(name, "indent" | "truncate" | "wordwrap") && value.as_text().is_none() {
                used(value)?;
                return Err(Error::invalid(format!("{name} needs a string, not {}", value.type_name())));
            }
            let text = printed(value, budget)?;
            budget.look(text.len())?;
            text::apply(name, &text, args, budget)
        }
        "abs" | "float" | "int" | "round" | "sum" => numbers::apply(name, value, args, budget),
        "dictsort" | "groupby" | "max" | "min" | "sort" | "unique" => order::apply(name, value, args, budget),
        "format" => {
            let text = printed(value, budget)?;
            let values = match args.named.is_empty() {
                true => budget.sequence(crate::values::value::Kind::Tuple, args.positional)?,
                false => named(args, budget)?,
            };
            format::percent(&text, &values, budget)
        }
        "filesizeformat" | "random" | "striptags" | "urlencode" | "xmlattr" => web::apply(name, value, args, budget),
        "pprint" => {
            let [] = args.bind(name, [])?;
            pretty::printed(value, budget)
        }
        "tojson" => json::tojson(value, args, budget),
        "default" | "d" => {
            let [other, also_false] = args.bind(name, ["default_value", "boolean"])?;
            let replaced = matches!(value, Value::Undefined(_))
                || (also_false.is_some_and(|also| also.is_true()) && !value.is_true());
            match (replaced, other) {
                (false, _) => Ok(value.clone()),
                (true, Some(other)) => Ok(other),
                (true, None) => budget.text(""),
            }
        }
        "attr" => {
            let [attribute] = args.bind(name, ["name"])?;
            let attribute = printed(&needed(attribute, name, "name")?, budget)?;
            // The items of a dict are none of its attributes.
            let is_item = matches!(value, Value::Dict(_)) && !methods::exists(value, &attribute);
            match is_item {
                true => Ok(Value::undefined(format!("'dict object' has no attribute '{attribute}'"))),
                false => access::attribute(value, &attribute, budget),
            }
        }
        _ if exists(name) => budget.deeper(|| lists::apply(name, value, args, budget)),
        _ => Err(Error::invalid(format!("there is no filter `{name}`"))),
    }
}

/// The named arguments as a dict.
fn named(args: Args, budget: &Budget) -> Result<Value, Error> {
    let entries = args.named.into_iter().map(|(name, value)| (Value::Text(name), value)).collect();
    Ok(Value::Dict(std::rc::Rc::new(crate::values::value::Dict::new(entries, budget)?)))
}
