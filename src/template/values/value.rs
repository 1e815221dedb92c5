//! The values of a template: Python's, as far as templates can tell.
//!
//! Lists and dicts never change once they are made, so none holds itself, and each knows how deeply it nests: whatever walks a
//! value goes no deeper than [`MAX_VALUE_DEPTH`]. Namespaces do change; they are let go of one by one when a rendering ends.

use super::budget::{Budget, MAX_VALUE_DEPTH};
use super::object::Object;
use super::operators;
use crate::error::{Error, ErrorKind};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// What is not there, with words that say what: it is empty and false, and nothing can be done with it.
    Undefined(Arc<str>),
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number. Python's have no limit; one beyond 128 bits is an error here.
    Int(i128),
    /// A floating point number.
    Float(f64),
    /// A string.
    Text(Arc<str>),
    /// A list, or what else is a sequence of values.
    List(Rc<List>),
    /// A dict.
    Dict(Rc<Dict>),
    /// Something that can be called or asked for attributes.
    Object(Rc<Object>),
}

/// What a sequence is in Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A list.
    List,
    /// A tuple.
    Tuple,
    /// `range(…)`.
    Range,
    /// What `dict.items()` gives.
    Items,
    /// What `dict.keys()` gives.
    Keys,
    /// What `dict.values()` gives.
    Values,
    /// What most filters give: it can be gone through once.
    Generator,
    /// One group of the filter `groupby`: a tuple of `grouper` and `list`.
    Group,
}

/// A sequence.
#[derive(Debug)]
pub struct List {
    pub(crate) kind: Kind,
    pub(crate) items: Vec<Value>,
    depth: u32,
    /// Whether it can be a key: known when it is made, as tuples that share their parts may be larger than they look.
    hashable: bool,
    /// How many items of a generator are gone.
    gone: Cell<usize>,
}

/// A dict. Its keys are in the order in which they were put in.
#[derive(Debug)]
pub struct Dict {
    pub(crate) entries: Vec<(Value, Value)>,
    depth: u32,
}

fn one_deeper<'v>(values: impl Iterator<Item = &'v Value>) -> Result<u32, Error> {
    let depth = 1 + values.map(Value::depth).max().unwrap_or(0);
    match depth > MAX_VALUE_DEPTH {
        true => Err(Error::new(ErrorKind::Depth, format!("a value nests more than {MAX_VALUE_DEPTH} deep"))),
        false => Ok(depth),
    }
}

impl List {
    /// `items`, which the budget has been asked for.
    pub(crate) fn new(kind: Kind, items: Vec<Value>) -> Result<Self, Error> {
        let hashable = match kind {
            Kind::Tuple | Kind::Group => items.iter().all(Value::is_hashable),
            Kind::Range | Kind::Generator => true,
            _ => false,
        };
        Ok(Self { kind, depth: one_deeper(items.iter())?, hashable, items, gone: Cell::new(0) })
    }

    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether items can be had by number and slices be cut.
    pub(crate) fn has_places(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Tuple | Kind::Range | Kind::Group)
    }

    /// The next item of a generator.
    pub(crate) fn next(&self) -> Option<Value> {
        let item = self.items.get(self.gone.get()).cloned();
        self.gone.set(self.gone.get() + 1);
        item
    }
}

impl Dict {
    /// Entries whose keys differ.
    pub(crate) fn of_distinct(entries: Vec<(Value, Value)>, budget: &Budget) -> Result<Self, Error> {
        budget.room(2 * entries.len())?;
        Ok(Self { depth: one_deeper(entries.iter().flat_map(|(key, value)| [key, value]))?, entries })
    }

    /// Entries of which the last of a key counts, at the place of the first.
    pub(crate) fn new(entries: Vec<(Value, Value)>, budget: &Budget) -> Result<Self, Error> {
        let mut distinct: Vec<(Value, Value)> = Vec::new();
        for (key, value) in entries {
            if !key.is_hashable() {
                return Err(Error::invalid(format!("unhashable type: '{}'", key.type_name())));
            }
            match find(&distinct, &key, budget)? {
                Some(i) => distinct[i].1 = value,
                None => distinct.push((key, value)),
            }
        }
        Self::of_distinct(distinct, budget)
    }

    pub(crate) fn get(&self, key: &Value, budget: &Budget) -> Result<Option<Value>, Error> {
        Ok(find(&self.entries, key, budget)?.map(|i| self.entries[i].1.clone()))
    }

    /// The value of the string `key`.
    pub(crate) fn named(&self, key: &str, budget: &Budget) -> Result<Option<Value>, Error> {
        budget.step(self.entries.len() / 16)?;
        let named = |(k, _): &&(Value, Value)| matches!(k, Value::Text(text) if **text == *key);
        Ok(self.entries.iter().find(named).map(|(_, value)| value.clone()))
    }
}

fn find(entries: &[(Value, Value)], key: &Value, budget: &Budget) -> Result<Option<usize>, Error> {
    budget.step(entries.len() / 16)?;
    for (i, (known, _)) in entries.iter().enumerate() {
        if operators::equal(known, key, budget)? {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

impl Value {
    /// What is not there; `words` say what.
    pub(crate) fn undefined(words: impl Into<String>) -> Self {
        let error = Error::invalid(words);
        Self::Undefined(Arc::from(error.what))
    }

    /// How deeply it nests: 0 if it holds no values.
    pub(crate) fn depth(&self) -> u32 {
        match self {
            Self::List(list) => list.depth,
            Self::Dict(dict) => dict.depth,
            Self::Object(object) => object.depth(),
            _ => 0,
        }
    }

    /// Whether it counts as true.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => list.kind == Kind::Generator || !list.items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            Self::Object(_) => true,
        }
    }

    /// Python's name of its type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::List(list) => match list.kind {
                Kind::List => "list",
                Kind::Tuple | Kind::Group => "tuple",
                Kind::Range => "range",
                Kind::Items => "dict_items",
                Kind::Keys => "dict_keys",
                Kind::Values => "dict_values",
                Kind::Generator => "generator",
            },
            Self::Dict(_) => "dict",
            Self::Object(object) => object.type_name(),
        }
    }

    /// Whether it can be a key of a dict.
    pub(crate) fn is_hashable(&self) -> bool {
        match self {
            Self::List(list) => list.hashable,
            Self::Dict(_) => false,
            _ => true,
        }
    }

    /// Whether [`Value::iterate`] can go through it.
    pub(crate) fn is_iterable(&self) -> bool {
        matches!(self, Self::Undefined(_) | Self::Text(_) | Self::List(_) | Self::Dict(_))
    }

    /// What a loop over it goes through: items, keys, characters, nothing. A generator is empty afterwards.
    pub(crate) fn iterate(&self, budget: &Budget) -> Result<Rc<List>, Error> {
        let items = match self {
            Self::List(list) => match list.kind {
                Kind::Generator if list.gone.get() == 0 => {
                    list.gone.set(list.items.len());
                    return Ok(Rc::clone(list));
                }
                Kind::Generator => {
                    let rest = list.items.get(list.gone.get()..).unwrap_or_default();
                    list.gone.set(list.items.len());
                    rest.to_vec()
                }
                _ => return Ok(Rc::clone(list)),
            },
            Self::Undefined(_) => Vec::new(),
            Self::Dict(dict) => dict.entries.iter().map(|(key, _)| key.clone()).collect(),
            Self::Text(text) => {
                // One string a character: the budget sees them before they are.
                budget.room(2 * text.len())?;
                let mut buffer = [0; 4];
                text.chars().map(|c| Self::Text(Arc::from(&*c.encode_utf8(&mut buffer)))).collect()
            }
            _ => return Err(Error::invalid(format!("'{}' object is not iterable", self.type_name()))),
        };
        budget.room(items.len())?;
        Ok(Rc::new(List::new(Kind::List, items)?))
    }

    /// How many items, keys or characters it has, if it can be asked.
    pub(crate) fn length(&self, budget: &Budget) -> Result<Option<usize>, Error> {
        Ok(match self {
            Self::Undefined(_) => Some(0),
            Self::Text(text) => {
                budget.look(text.len())?;
                Some(text.chars().count())
            }
            Self::List(list) => (list.kind != Kind::Generator).then_some(list.items.len()),
            Self::Dict(dict) => Some(dict.entries.len()),
            _ => None,
        })
    }

    /// As a whole number, if it is one.
    pub(crate) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Bool(value) => Some(i128::from(*value)),
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}
