//! Evaluates expressions.

use crate::ast::{Arguments, Body, Expression, ExpressionKind, Step, StepKind};
use crate::error::Error;
use crate::filters;
use crate::filters::checks;
use crate::values::access;
use crate::values::arguments::{Args, used};
use crate::values::budget::{Budget, Draft};
use crate::values::methods;
use crate::values::object::Object;
use crate::values::operators;
use crate::values::print;
use crate::values::scope::Scope;
use crate::values::value::{Dict, Kind, Value};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

mod calls;
mod statements;

pub(crate) use calls::BUILT_IN;

/// What `body` writes when it sees `names`.
pub(super) fn render(body: &Body, names: HashMap<Arc<str>, Value>, budget: &Budget) -> Result<String, Error> {
    let rendering = Rendering { budget, scopes: RefCell::default(), namespaces: RefCell::default() };
    let scope = Scope::outermost(names);
    // Names of the template's own do not replace those that it was handed.
    let scope = Scope::inside(&scope)?;
    rendering.scopes.borrow_mut().push(Rc::clone(&scope));
    let mut out = Draft::output(budget);
    rendering.body(body, &scope, &mut out)?;
    Ok(out.finish())
}

/// The value of an expression alone when it sees `names`.
pub(super) fn value(expression: &Expression, names: HashMap<Arc<str>, Value>, budget: &Budget) -> Result<Value, Error> {
    let rendering = Rendering { budget, scopes: RefCell::default(), namespaces: RefCell::default() };
    rendering.value(expression, &Scope::outermost(names))
}

/// One rendering.
struct Rendering<'b> {
    budget: &'b Budget,
    /// What may hold itself by some way: scopes that macros see, and namespaces.
    scopes: RefCell<Vec<Rc<Scope>>>,
    namespaces: RefCell<Vec<Rc<Object>>>,
}

impl Drop for Rendering<'_> {
    /// Lets go of scopes and namespaces one by one: circles are broken, and however long a chain of them is, nothing is
    /// dropped inside of another.
    fn drop(&mut self) {
        for scope in self.scopes.borrow().iter() {
            scope.clear();
        }
        for object in self.namespaces.borrow().iter() {
            if let Object::Namespace(fields) = &**object {
                let _before = std::mem::take(&mut *fields.borrow_mut());
            }
        }
    }
}

impl Rendering<'_> {
    /// The value of `expression`, which is used.
    fn value(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value, Error> {
        let value = self.found(expression, scope)?;
        if self.budget.is_strict() {
            used(&value).map_err(|error| error.at(expression.line))?;
        }
        Ok(value)
    }

    /// The value of `expression`, be it there or not.
    fn found(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value, Error> {
        self.budget.step(1)?;
        match &expression.kind {
            ExpressionKind::None => Ok(Value::None),
            ExpressionKind::Bool(value) => Ok(Value::Bool(*value)),
            ExpressionKind::Int(value) => Ok(Value::Int(*value)),
            ExpressionKind::Float(value) => Ok(Value::Float(*value)),
            ExpressionKind::Text(text) => Ok(Value::Text(Arc::clone(text))),
            ExpressionKind::Name(name) => Ok(self.named(name, scope)),
            _ => self.budget.deeper(|| self.compound(expression, scope)).map_err(|error| error.at(expression.line)),
        }
    }

    fn named(&self, name: &Arc<str>, scope: &Rc<Scope>) -> Value {
        scope.get(name).unwrap_or_else(|| match calls::BUILT_IN.iter().find(|known| **known == &**name) {
            Some(name) => Value::Object(Rc::new(Object::BuiltIn(name))),
            None => Value::undefined(format!("'{name}' is undefined")),
        })
    }

    /// The value of an expression that has parts.
    fn compound(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value, Error> {
        let budget = self.budget;
        match &expression.kind {
            ExpressionKind::List(items) => budget.list(self.values(items, scope)?),
            ExpressionKind::Tuple(items) => budget.sequence(Kind::Tuple, self.values(items, scope)?),
            ExpressionKind::Dict(entries) => {
                let entry =
                    |(key, value): &(Expression, Expression)| Ok((self.value(key, scope)?, self.value(value, scope)?));
                let entries = entries.iter().map(entry).collect::<Result<_, Error>>()?;
                Ok(Value::Dict(Rc::new(Dict::new(entries, budget)?)))
            }
            ExpressionKind::Chain(first, rest) => {
                let mut left = self.value(first, scope)?;
                for (operator, right) in rest {
                    let right = self.value(right, scope)?;
                    left = operators::arithmetic(&left, *operator, &right, budget)?;
                }
                Ok(left)
            }
            ExpressionKind::Concat(parts) => {
                let mut out = Draft::new(budget);
                for part in parts {
                    print::show(&self.value(part, scope)?, &mut out)?;
                }
                out.value()
            }
            ExpressionKind::Any(parts) => self.until(parts, true, scope),
            ExpressionKind::All(parts) => self.until(parts, false, scope),
            ExpressionKind::Not(inner) => Ok(Value::Bool(!self.value(inner, scope)?.is_true())),
            ExpressionKind::Minus(inner) => operators::signed(&self.value(inner, scope)?, true),
            ExpressionKind::Plus(inner) => operators::signed(&self.value(inner, scope)?, false),
            ExpressionKind::Compare(first, rest) => {
                let mut left = self.value(first, scope)?;
                for (comparison, right) in rest {
                    let right = self.value(right, scope)?;
                    if !operators::compare(&left, *comparison, &right, budget)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            ExpressionKind::Choice(choice) => match (self.value(&choice.test, scope)?.is_true(), &choice.otherwise) {
                (true, _) => self.found(&choice.then, scope),
                (false, Some(otherwise)) => self.found(otherwise, scope),
                (false, None) => Ok(Value::undefined("an `if` without `else` was false, and there is no other value")),
            },
            ExpressionKind::Steps(first, steps) => {
                let first = self.found(first, scope)?;
                self.steps(first, steps, scope)
            }
            _ => Err(Error::invalid("an expression without a value")),
        }
    }

    fn values(&self, items: &[Expression], scope: &Rc<Scope>) -> Result<Vec<Value>, Error> {
        items.iter().map(|item| self.value(item, scope)).collect()
    }

    /// The first of `parts` that is true (or false), or the last.
    fn until(&self, parts: &[Expression], wanted: bool, scope: &Rc<Scope>) -> Result<Value, Error> {
        let mut value = Value::None;
        for part in parts {
            value = self.value(part, scope)?;
            if value.is_true() == wanted {
                break;
            }
        }
        Ok(value)
    }

    /// What `steps` make of `value`, one after the other.
    fn steps(&self, mut value: Value, steps: &[Step], scope: &Rc<Scope>) -> Result<Value, Error> {
        let mut steps = steps.iter().peekable();
        while let Some(step) = steps.next() {
            self.budget.step(1)?;
            // A method that is called at once needs no value of its own.
            if let (StepKind::Attribute(name), Some(Step { kind: StepKind::Call(arguments), line })) =
                (&step.kind, steps.peek())
                && methods::exists(&value, name)
            {
                let args = self.arguments(arguments, scope)?;
                value = methods::call(&value, name, args, self.budget).map_err(|error| error.at(*line))?;
                steps.next();
                continue;
            }
            value = self.step(&value, step, scope).map_err(|error| error.at(step.line))?;
        }
        Ok(value)
    }

    fn step(&self, value: &Value, step: &Step, scope: &Rc<Scope>) -> Result<Value, Error> {
        let budget = self.budget;
        match &step.kind {
            StepKind::Attribute(name) => access::attribute(value, name, budget),
            StepKind::Item(key) => access::item(value, &self.value(key, scope)?, budget),
            StepKind::Slice(bounds) => {
                let mut values = [const { None }; 3];
                for (value, bound) in values.iter_mut().zip(bounds.iter()) {
                    *value = bound.as_ref().map(|bound| self.value(bound, scope)).transpose()?;
                }
                access::slice(value, values, budget)
            }
            StepKind::Call(arguments) => {
                let args = self.arguments(arguments, scope)?;
                self.call(value, args)
            }
            StepKind::Filter(name, arguments) => {
                self.used_by(value, name, ["default", "d"])?;
                filters::apply(name, value, self.arguments(arguments, scope)?, budget)
            }
            StepKind::Test { name, arguments, negated } => {
                self.used_by(value, name, ["defined", "undefined"])?;
                let taken = checks::check(name, value, self.arguments(arguments, scope)?, budget)?;
                Ok(Value::Bool(taken != *negated))
            }
        }
    }

    /// An error if `value` is not there, unless `name` is one of those that ask for that.
    fn used_by(&self, value: &Value, name: &str, asking: [&str; 2]) -> Result<(), Error> {
        if self.budget.is_strict() && !asking.contains(&name) { used(value) } else { Ok(()) }
    }

    fn arguments(&self, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Args, Error> {
        let mut positional = self.values(&arguments.positional, scope)?;
        let mut named = Vec::with_capacity(arguments.named.len());
        for (name, value) in &arguments.named {
            named.push((Arc::clone(name), self.value(value, scope)?));
        }
        if let Some(list) = &arguments.list {
            let items = self.value(list, scope)?.iterate(self.budget)?;
            self.budget.room(items.items.len())?;
            positional.extend_from_slice(&items.items);
        }
        if let Some(dict) = &arguments.dict {
            let Value::Dict(dict) = self.value(dict, scope)? else {
                return Err(Error::invalid("what stands behind ** must be a dict"));
            };
            self.budget.room(dict.entries.len())?;
            for (key, value) in &dict.entries {
                let Value::Text(key) = key else { return Err(Error::invalid("keywords must be strings")) };
                named.push((Arc::clone(key), value.clone()));
            }
        }
        Ok(Args { positional, named })
    }
}
