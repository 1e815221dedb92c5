//! Expressions that stand alone, and texts with expressions in `{{ }}`: what a flow file is written with.
//!
//! They are stricter than templates. A name or a field that is not there is an error wherever it is used, even where it would only
//! be printed; `is defined` and `default(…)` may still ask. All fields of none are none. A dict's items come before its methods,
//! so that `answer.items` is what the answer says. Nothing gives something else at another time: there is no clock, and no `random`.

use crate::ast;
pub use crate::ast::{Mention, Part};
use crate::error::{Error, ErrorKind};
use crate::eval;
use crate::syntax::{lexer, parser};
use crate::values::budget::{Budget, Draft, MAX_VALUE_DEPTH};
use crate::values::print;
use crate::values::value::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// An expression that has been read. Clones share what was read.
///
/// It nests 32 deep at most, and what it calls 64 deep, so that a thread with 2 MiB of stack can read, evaluate and drop any.
#[derive(Clone, Debug)]
pub struct Expression {
    source: Arc<str>,
    read: Arc<ast::Expression>,
    mentions: Arc<[Mention]>,
}

impl Expression {
    /// Reads `source`: what could stand between `{{` and `}}`.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`] or [`ErrorKind::Depth`]: what is wrong, in which line and at which byte.
    pub fn new(source: &str) -> Result<Self, Error> {
        Self::of(source, parser::alone(lexer::inside(source)?)?)
    }

    fn of(source: &str, (read, mentions): (ast::Expression, Vec<Mention>)) -> Result<Self, Error> {
        Ok(Self { source: Arc::from(source.trim()), read: Arc::new(read), mentions: mentions.into() })
    }

    /// As it was written, without the braces.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names that it mentions, in their order, without those that are there in every expression: `dict`, `range` and such.
    /// Their places count from the beginning of the text that was read.
    pub fn mentions(&self) -> &[Mention] {
        &self.mentions
    }

    /// Its value, when a name means what `names` says. Each name is asked for once.
    ///
    /// # Errors
    /// What went wrong, or which limit of `budget` was met; also where a name or a field is not there, and is used.
    pub fn eval(&self, names: &dyn Fn(&str) -> Option<Value>, budget: &Budget) -> Result<Value, Error> {
        let mut known: HashMap<Arc<str>, Value> = HashMap::new();
        for mention in self.mentions.iter() {
            if !known.contains_key(&mention.name)
                && let Some(value) = names(&mention.name)
            {
                known.insert(Arc::clone(&mention.name), value);
            }
        }
        budget.strictly(|| eval::value(&self.read, known, budget))
    }
}

/// A part of a text.
#[derive(Clone, Debug)]
pub enum Piece {
    /// As it is.
    Plain(String),
    /// What stands in `{{ }}`.
    Value(Expression),
}

/// Cuts a text into what stands in `{{ }}` and what does not. As in Jinja2, `{{-` takes the white space before it and `-}}` that
/// behind it. `{#` is nothing special.
///
/// # Errors
/// What is wrong with the first expression that cannot be read, and at which byte of `text`; also where a statement, `{% %}`, stands.
pub fn pieces(text: &str) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(found) = text[at..].match_indices('{').find(|(i, _)| text[at + i + 1..].starts_with(['{', '%'])) {
        let begin = at + found.0;
        if text[begin..].starts_with("{%") {
            let what = "a statement, {% %}, cannot stand here: only expressions in {{ }}";
            return Err(Error::new(ErrorKind::Syntax, what).at_byte(begin));
        }
        let before = &text[at..begin];
        let takes = text[begin + 2..].starts_with('-');
        push(&mut pieces, if takes { before.trim_end() } else { before });
        line += before.matches('\n').count() as u32;
        let (tokens, end) = lexer::printing(text, begin, line)?;
        line += text[begin..end].matches('\n').count() as u32;
        let inside = text[begin + 2..end].trim_end();
        let inside = inside.strip_suffix("}}").unwrap_or(inside);
        let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
        let inside = inside.strip_suffix('-').unwrap_or(inside);
        pieces.push(Piece::Value(Expression::of(inside, parser::alone(tokens)?)?));
        at = end;
    }
    push(&mut pieces, &text[at..]);
    Ok(pieces)
}

fn push(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Plain(text.to_string()));
    }
}

impl Value {
    /// As it stands in a text: a string as it is, anything else as Jinja2 prints it (`None`, `True`, `[1, 2]`).
    ///
    /// # Errors
    /// If `budget` has no memory left for it.
    pub fn printed(&self, budget: &Budget) -> Result<String, Error> {
        let mut out = Draft::new(budget);
        print::show(self, &mut out)?;
        Ok(out.finish())
    }

    /// JSON as an expression sees it.
    ///
    /// # Errors
    /// If it nests too deep or takes more memory than `budget` has.
    pub fn from_json(json: &serde_json::Value, budget: &Budget) -> Result<Self, Error> {
        Self::inside(json, 0, budget)
    }

    /// JSON inside of `depth` lists and maps.
    fn inside(json: &serde_json::Value, depth: u32, budget: &Budget) -> Result<Self, Error> {
        use serde_json::Value as Json;
        budget.step(1)?;
        if depth > MAX_VALUE_DEPTH {
            return Err(Error::new(ErrorKind::Depth, format!("it nests more than {MAX_VALUE_DEPTH} deep")));
        }
        let depth = depth + 1;
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(whole), _) => Self::Int(whole.into()),
                (None, Some(whole)) => Self::Int(whole.into()),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => budget.text(text)?,
            Json::Array(items) => {
                budget.list(items.iter().map(|item| Self::inside(item, depth, budget)).collect::<Result<_, _>>()?)?
            }
            Json::Object(map) => {
                let entries = map.iter().map(|(key, value)| Ok((key.as_str(), Self::inside(value, depth, budget)?)));
                crate::dict(entries.collect::<Result<_, Error>>()?, budget)?
            }
        })
    }

    /// As JSON: every sequence is an array, and keys are written as `tojson` writes them.
    ///
    /// # Errors
    /// If something in it is not there, is a function, is no number, or is a whole number beyond 64 bits; or if `budget` has no memory
    /// left for it.
    pub fn to_json(&self, budget: &Budget) -> Result<serde_json::Value, Error> {
        use serde_json::Value as Json;
        budget.take(size_of::<Json>())?;
        let no = |what: String| Err(Error::invalid(format!("{what} cannot be written as JSON")));
        Ok(match self {
            Self::Undefined(words) => return Err(Error::invalid(&**words)),
            Self::None => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(whole), _) => whole.into(),
                (_, Ok(whole)) => whole.into(),
                _ => return no(format!("{value}, which is beyond 64 bits,")),
            },
            Self::Float(value) => match serde_json::Number::from_f64(*value) {
                Some(number) => Json::Number(number),
                None => return no(print::float(*value)),
            },
            Self::Text(text) => {
                budget.take(text.len())?;
                Json::String(text.to_string())
            }
            Self::List(_) => {
                let items = self.iterate(budget)?;
                Json::Array(items.items.iter().map(|item| item.to_json(budget)).collect::<Result<_, _>>()?)
            }
            Self::Dict(dict) => {
                let entry = |(key, value): &(Value, Value)| {
                    let key = crate::json::key_text(key)?;
                    budget.take(key.len())?;
                    Ok((key.to_string(), value.to_json(budget)?))
                };
                Json::Object(dict.entries.iter().map(entry).collect::<Result<_, Error>>()?)
            }
            Self::Object(object) => return no(format!("a {}", object.type_name())),
        })
    }
}
