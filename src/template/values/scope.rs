//! Names and their values, in scopes that lie in each other.

use super::budget::MAX_EVALUATION_DEPTH;
use super::value::Value;
use crate::error::{Error, ErrorKind};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The names of one block, and the scope around it.
#[derive(Debug)]
pub struct Scope {
    names: RefCell<HashMap<Arc<str>, Value>>,
    around: Option<Rc<Scope>>,
    depth: u32,
}

impl Scope {
    /// The outermost scope.
    pub(crate) fn outermost(names: HashMap<Arc<str>, Value>) -> Rc<Self> {
        Rc::new(Self { names: RefCell::new(names), around: None, depth: 0 })
    }

    /// A scope in `around`. Macros in each other may make long chains of them, which no depth of calls bounds.
    pub(crate) fn inside(around: &Rc<Scope>) -> Result<Rc<Self>, Error> {
        let depth = around.depth + 1;
        if depth > MAX_EVALUATION_DEPTH {
            return Err(Error::new(ErrorKind::Depth, format!("it has more than {MAX_EVALUATION_DEPTH} scopes")));
        }
        Ok(Rc::new(Self { names: RefCell::default(), around: Some(Rc::clone(around)), depth }))
    }

    /// The value of `name` in this scope or the nearest one around it.
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            if let Some(value) = scope.names.borrow().get(name) {
                return Some(value.clone());
            }
            scope = scope.around.as_deref()?;
        }
    }

    pub(crate) fn set(&self, name: &Arc<str>, value: Value) {
        // What was there is dropped when nothing is borrowed any more.
        let _before = self.names.borrow_mut().insert(Arc::clone(name), value);
    }

    /// Lets go of all values.
    pub(crate) fn clear(&self) {
        let _before = std::mem::take(&mut *self.names.borrow_mut());
    }
}
