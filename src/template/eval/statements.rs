//! Runs statements.

use super::Rendering;
use crate::ast::{Body, For, Macro, Statement, StatementKind, Step, Target};
use crate::error::Error;
use crate::values::budget::Draft;
use crate::values::object::{Closure, Loop, Object};
use crate::values::print;
use crate::values::scope::Scope;
use crate::values::value::{Kind, List, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Where a body goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl Rendering<'_> {
    /// Runs `body`, whose names are `scope`'s.
    pub(super) fn body(&self, body: &Body, scope: &Rc<Scope>, out: &mut Draft<'_>) -> Result<Flow, Error> {
        for statement in body {
            self.budget.step(1)?;
            let flow = self.statement(statement, scope, out).map_err(|error| error.at(statement.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&self, statement: &Statement, scope: &Rc<Scope>, out: &mut Draft<'_>) -> Result<Flow, Error> {
        match &statement.kind {
            StatementKind::Text(text) => out.push(text)?,
            StatementKind::Print(shown) => print::show(&self.value(shown, scope)?, out)?,
            StatementKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.value(test, scope)?.is_true() {
                        return self.budget.deeper(|| self.body(body, scope, out));
                    }
                }
                return self.budget.deeper(|| self.body(otherwise, scope, out));
            }
            StatementKind::For(of) => {
                let items = self.value(&of.over, scope)?;
                self.budget.deeper(|| self.repeat(of, &items, scope, 0, out))?;
            }
            StatementKind::Set(target, value) => {
                let value = self.value(value, scope)?;
                self.put(target, value, scope)?;
            }
            StatementKind::SetBlock(target, filters, body) => {
                let value = self.written(filters, body, scope)?;
                self.put(target, value, scope)?;
            }
            StatementKind::FilterBlock(filters, body) => print::show(&self.written(filters, body, scope)?, out)?,
            StatementKind::Macro(of) => {
                if let Some(name) = &of.name {
                    scope.set(name, self.closure(of, scope)?);
                }
            }
            StatementKind::Call { of, arguments, caller } => {
                let of = self.value(of, scope)?;
                let mut args = self.arguments(arguments, scope)?;
                args.named.push((Arc::from("caller"), self.closure(caller, scope)?));
                print::show(&self.call(&of, args)?, out)?;
            }
            StatementKind::With(values, body) => {
                let inner = Scope::inside(scope)?;
                for (target, value) in values {
                    let value = self.value(value, scope)?;
                    self.put(target, value, &inner)?;
                }
                return self.budget.deeper(|| self.body(body, &inner, out));
            }
            StatementKind::Scoped(body) => {
                let inner = Scope::inside(scope)?;
                return self.budget.deeper(|| self.body(body, &inner, out));
            }
            StatementKind::Break => return Ok(Flow::Break),
            StatementKind::Continue => return Ok(Flow::Continue),
            StatementKind::Foreign(tag) => {
                return Err(Error::invalid(format!("there is no other template to `{tag}`")));
            }
        }
        Ok(Flow::Next)
    }

    /// What `body` writes, through `filters`.
    fn written(&self, filters: &[Step], body: &Body, scope: &Rc<Scope>) -> Result<Value, Error> {
        let inner = Scope::inside(scope)?;
        let mut text = Draft::new(self.budget);
        self.budget.deeper(|| self.body(body, &inner, &mut text))?;
        self.steps(text.value()?, filters, scope)
    }

    /// `of`, which sees what is in `scope` when it is called.
    fn closure(&self, of: &Arc<Macro>, scope: &Rc<Scope>) -> Result<Value, Error> {
        self.budget.room(2)?;
        self.scopes.borrow_mut().push(Rc::clone(scope));
        Ok(Value::Object(Rc::new(Object::Macro(Closure { of: Arc::clone(of), scope: Rc::clone(scope) }))))
    }

    /// Puts `value` where `target` says.
    fn put(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<(), Error> {
        match target {
            Target::Name(name) => {
                self.budget.room(1)?;
                scope.set(name, value);
                Ok(())
            }
            Target::Attribute(of, name) => match self.named(of, scope) {
                Value::Object(object) => object.set(name, value, self.budget),
                _ => Err(Error::invalid("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(targets) => {
                let items = value.iterate(self.budget)?;
                if items.items.len() != targets.len() {
                    let (got, wanted) = (items.items.len(), targets.len());
                    return Err(Error::invalid(format!("{got} values cannot be put into {wanted} names")));
                }
                for (target, item) in targets.iter().zip(&items.items) {
                    self.put(target, item.clone(), scope)?;
                }
                Ok(())
            }
        }
    }

    /// Runs the loop `of` over `items`; `level` loops of its own are around it.
    pub(super) fn repeat(
        &self,
        of: &Arc<For>,
        items: &Value,
        scope: &Rc<Scope>,
        level: u32,
        out: &mut Draft<'_>,
    ) -> Result<(), Error> {
        let mut items = items.iterate(self.budget)?;
        if let Some(test) = &of.test {
            let mut kept = Vec::new();
            for item in &items.items {
                let inner = Scope::inside(scope)?;
                self.put(&of.target, item.clone(), &inner)?;
                if self.value(test, &inner)?.is_true() {
                    kept.push(item.clone());
                }
            }
            self.budget.room(kept.len())?;
            items = Rc::new(List::new(Kind::List, kept)?);
        }
        if items.items.is_empty() {
            let inner = Scope::inside(scope)?;
            return self.body(&of.otherwise, &inner, out).map(|_| ());
        }
        self.budget.room(4)?;
        let recursion = of.recursive.then(|| (Arc::clone(of), Rc::clone(scope)));
        let turns = Loop { items: Rc::clone(&items), at: Cell::new(0), level, asked: RefCell::default(), recursion };
        let turns = Rc::new(Object::Loop(turns));
        let result = self.turns(of, &turns, &items, (scope, out));
        if let Object::Loop(turns) = &*turns {
            // It may hold the loop itself.
            let _before = turns.asked.take();
        }
        result
    }

    fn turns(
        &self,
        of: &For,
        turns: &Rc<Object>,
        items: &List,
        (scope, out): (&Rc<Scope>, &mut Draft<'_>),
    ) -> Result<(), Error> {
        let name: Arc<str> = Arc::from("loop");
        for (at, item) in items.items.iter().enumerate() {
            self.budget.step(2)?;
            if let Object::Loop(turns) = &**turns {
                turns.at.set(at);
            }
            let inner = Scope::inside(scope)?;
            inner.set(&name, Value::Object(Rc::clone(turns)));
            self.put(&of.target, item.clone(), &inner)?;
            if self.body(&of.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }
}
