//! Templates in the language of Jinja2, as chat templates are written in it: what is printed is what Jinja2 prints in the
//! sandbox that transformers sets up (`trim_blocks`, `lstrip_blocks`, `break` and `continue`, `{% generation %}`, its `tojson`).
//!
//! Templates come from strangers, so everything that one may use up is bounded: how deep its source and its values nest, its
//! steps, its memory, its output ([`Limits`]). A template changes nothing but its own names and namespaces, has no clock and
//! reads nothing; what it sees is handed over by whoever renders it. It runs on the caller's stack, of which
//! [`STACK_BYTES`] are enough.
//!
//! [`Expression`]s stand alone, without a template: flows are made of them, and they fit a usual thread's stack.
//!
//! Reading order: `syntax` (`lexer`, `parser`, `ast`); then `values` (`value`, `budget`) and `eval`; then what values can do.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

mod ast;
mod error;
mod eval;
mod expression;
mod filters;
mod json;
mod syntax;
mod values;

pub use error::{Error, ErrorKind};
pub use expression::{Expression, Mention, Part, Piece, pieces};
pub use json::{Json, Reader};
pub use values::arguments::Args;
pub use values::budget::{Budget, Limits};
pub use values::value::Value;

/// The stack that reading and rendering any template need at most, in bytes.
pub const STACK_BYTES: usize = 16 << 20;

/// A template that has been read.
#[derive(Debug)]
pub struct Template(syntax::parser::Parsed);

impl Template {
    /// Reads `source`.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`] or [`ErrorKind::Depth`]: what is wrong, and in which line.
    pub fn new(source: &str) -> Result<Self, Error> {
        syntax::parser::parse(source).map(Self)
    }

    /// Whether it asks a value for `name`, as `value.name` or `value['name']`.
    pub fn asks_for(&self, name: &str) -> bool {
        self.0.attributes.contains(name)
    }

    /// What it writes when it sees `names`.
    ///
    /// # Errors
    /// What went wrong and in which line, or which limit of `budget` was met.
    pub fn render<N: Into<Arc<str>>>(
        &self,
        names: impl IntoIterator<Item = (N, Value)>,
        budget: &Budget,
    ) -> Result<String, Error> {
        let names: HashMap<Arc<str>, Value> = names.into_iter().map(|(name, value)| (name.into(), value)).collect();
        eval::render(&self.0.body, names, budget)
    }
}

/// A function that a template may call as `name`.
pub fn function(
    name: &'static str,
    run: impl Fn(Args, &Budget) -> Result<Value, Error> + 'static,
) -> (&'static str, Value) {
    (
        name,
        Value::Object(Rc::new(values::object::Object::Function(values::object::Function { name, run: Rc::new(run) }))),
    )
}

/// A string that a template sees.
///
/// # Errors
/// If `budget` has no memory left for it.
pub fn text(text: &str, budget: &Budget) -> Result<Value, Error> {
    budget.text(text)
}

/// A list that a template sees.
///
/// # Errors
/// If `budget` has no memory left for it, or it nests too deep.
pub fn list(items: Vec<Value>, budget: &Budget) -> Result<Value, Error> {
    budget.list(items)
}

/// A dict that a template sees; `entries` have different names.
///
/// # Errors
/// If `budget` has no memory left for it, or it nests too deep.
pub fn dict(entries: Vec<(&str, Value)>, budget: &Budget) -> Result<Value, Error> {
    let entries = entries.into_iter().map(|(name, value)| Ok((budget.text(name)?, value)));
    let entries = entries.collect::<Result<_, Error>>()?;
    Ok(Value::Dict(Rc::new(values::value::Dict::of_distinct(entries, budget)?)))
}
