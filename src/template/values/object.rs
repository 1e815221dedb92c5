//! Values that can be called or asked for attributes: namespaces, loops, macros, functions, methods.

use super::arguments::Args;
use super::budget::Budget;
use super::scope::Scope;
use super::value::{List, Value};
use crate::ast::{For, Macro};
use crate::error::Error;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// What a function does with what it is given.
pub type Native = dyn Fn(Args, &Budget) -> Result<Value, Error>;

/// Something that can be called or asked for attributes.
#[derive(Debug)]
pub enum Object {
    /// `namespace(…)`: the one thing that changes.
    Namespace(RefCell<Vec<(Arc<str>, Value)>>),
    /// `loop`.
    Loop(Loop),
    /// A macro, or the `caller` of a call block.
    Macro(Closure),
    /// A function of whoever renders the template.
    Function(Function),
    /// A function that every template sees.
    BuiltIn(&'static str),
    /// A method of a value.
    Method {
        /// Whose it is.
        of: Value,
        /// Which one.
        name: Arc<str>,
    },
    /// `joiner(…)`: a string from the second call on.
    Joiner(Value, Cell<bool>),
    /// `cycler(…)`: its items in turn.
    Cycler(Rc<List>, Cell<usize>),
}

/// The state of a loop.
#[derive(Debug)]
pub struct Loop {
    pub(crate) items: Rc<List>,
    /// The place of the current item, from 0.
    pub(crate) at: Cell<usize>,
    /// How many recursive loops are around it.
    pub(crate) level: u32,
    /// What `loop.changed` was last asked.
    pub(crate) asked: RefCell<Option<Value>>,
    /// What is run anew where it is called, and the names it sees.
    pub(crate) recursion: Option<(Arc<For>, Rc<Scope>)>,
}

/// A macro and the names around it.
#[derive(Debug)]
pub struct Closure {
    pub(crate) of: Arc<Macro>,
    pub(crate) scope: Rc<Scope>,
}

/// A function and its name.
pub struct Function {
    pub(crate) name: &'static str,
    pub(crate) run: Rc<Native>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Object {
    /// How deeply its values nest, without a namespace's.
    pub(crate) fn depth(&self) -> u32 {
        match self {
            Self::Loop(turns) => 1 + turns.items.depth(),
            Self::Method { of, .. } => 1 + of.depth(),
            Self::Joiner(value, _) => 1 + value.depth(),
            Self::Cycler(items, _) => 1 + items.depth(),
            Self::Namespace(_) | Self::Macro(_) | Self::Function(_) | Self::BuiltIn(_) => 1,
        }
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) | Self::BuiltIn(_) => "function",
            Self::Method { .. } => "builtin_function_or_method",
            Self::Joiner(..) => "Joiner",
            Self::Cycler(..) => "Cycler",
        }
    }

    pub(crate) fn can_be_called(&self) -> bool {
        match self {
            Self::Namespace(_) | Self::Cycler(..) => false,
            Self::Loop(turns) => turns.recursion.is_some(),
            _ => true,
        }
    }

    /// Its attribute `name`; `object` is itself.
    pub(crate) fn attribute(
        &self,
        object: &Rc<Object>,
        name: &Arc<str>,
        budget: &Budget,
    ) -> Result<Option<Value>, Error> {
        Ok(match self {
            Self::Namespace(fields) => {
                let fields = fields.borrow();
                budget.step(fields.len() / 16)?;
                fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
            Self::Loop(turns) => turns.attribute(object, name, budget)?,
            Self::Macro(closure) => match &**name {
                "name" => Some(closure.of.name.as_ref().map_or(Value::None, |name| Value::Text(Arc::clone(name)))),
                "arguments" => {
                    let names = closure.of.parameters.iter().map(|name| Value::Text(Arc::clone(name)));
                    Some(budget.sequence(super::value::Kind::Tuple, names.collect())?)
                }
                "caller" => Some(Value::Bool(closure.of.takes.caller)),
                "catch_kwargs" => Some(Value::Bool(closure.of.takes.named)),
                "catch_varargs" => Some(Value::Bool(closure.of.takes.positional)),
                _ => None,
            },
            Self::Cycler(items, at) => match &**name {
                "current" => items.items.get(at.get()).cloned(),
                "next" | "reset" => Some(method(Value::Object(Rc::clone(object)), name, budget)?),
                _ => None,
            },
            _ => None,
        })
    }

    /// Puts `value` under `name`, if it is a namespace.
    pub(crate) fn set(&self, name: &Arc<str>, value: Value, budget: &Budget) -> Result<(), Error> {
        let Self::Namespace(fields) = self else {
            return Err(Error::invalid("cannot assign attribute on non-namespace object"));
        };
        let mut fields = fields.borrow_mut();
        budget.step(fields.len() / 16)?;
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => {
                budget.room(2)?;
                fields.push((Arc::clone(name), value));
            }
        }
        Ok(())
    }
}

impl Loop {
    fn attribute(&self, object: &Rc<Object>, name: &Arc<str>, budget: &Budget) -> Result<Option<Value>, Error> {
        let (at, count) = (self.at.get(), self.items.items.len());
        let number = |value: usize| Some(Value::Int(value as i128));
        let missing = |words: &str| Some(Value::undefined(words));
        Ok(match &**name {
            "index" => number(at + 1),
            "index0" => number(at),
            "revindex" => number(count - at),
            "revindex0" => number(count - at - 1),
            "first" => Some(Value::Bool(at == 0)),
            "last" => Some(Value::Bool(at + 1 == count)),
            "length" => number(count),
            "depth" => number(self.level as usize + 1),
            "depth0" => number(self.level as usize),
            "previtem" => at
                .checked_sub(1)
                .and_then(|before| self.items.items.get(before).cloned())
                .or_else(|| missing("there is no previous item")),
            "nextitem" => self.items.items.get(at + 1).cloned().or_else(|| missing("there is no next item")),
            "cycle" | "changed" => Some(method(Value::Object(Rc::clone(object)), name, budget)?),
            _ => None,
        })
    }

    /// `loop.cycle(…)` and `loop.changed(…)`.
    pub(crate) fn call(&self, name: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
        if name == "cycle" {
            let count = args.positional.len();
            let item = count.checked_sub(1).and_then(|_| args.positional.get(self.at.get() % count).cloned());
            return item.ok_or_else(|| Error::invalid("no items for cycling given"));
        }
        let now = budget.sequence(super::value::Kind::Tuple, args.positional)?;
        let before = self.asked.borrow().clone();
        let same = before.map(|before| super::operators::equal(&before, &now, budget)).transpose()? == Some(true);
        if !same {
            *self.asked.borrow_mut() = Some(now);
        }
        Ok(Value::Bool(!same))
    }
}

/// The method `name` of `of`.
pub(crate) fn method(of: Value, name: &Arc<str>, budget: &Budget) -> Result<Value, Error> {
    budget.room(2)?;
    Ok(Value::Object(Rc::new(Object::Method { of, name: Arc::clone(name) })))
}
