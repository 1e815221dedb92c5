//! Calls: functions, methods, macros, loops that begin anew.

use super::Rendering;
use crate::error::Error;
use crate::values::arguments::{Args, int, needed, printed};
use crate::values::budget::Draft;
use crate::values::methods;
use crate::values::object::{Closure, Object};
use crate::values::scope::Scope;
use crate::values::value::{Dict, Kind, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Functions that every template sees.
pub(crate) const BUILT_IN: [&str; 5] = ["cycler", "dict", "joiner", "namespace", "range"];

/// Longest range, as in Jinja2's sandbox.
const MAX_RANGE: i128 = 100_000;

impl Rendering<'_> {
    /// What calling `value` gives.
    pub(super) fn call(&self, value: &Value, args: Args) -> Result<Value, Error> {
        let budget = self.budget;
        let object = match value {
            Value::Object(object) => object,
            Value::Undefined(words) => return Err(Error::invalid(&**words)),
            other => return Err(Error::invalid(format!("'{}' object is not callable", other.type_name()))),
        };
        match &**object {
            Object::Function(function) => (function.run)(args, budget),
            Object::BuiltIn(name) => self.call_built_in(name, args),
            Object::Macro(closure) => self.call_macro(closure, args),
            Object::Method { of: Value::Object(object), name } => match &**object {
                Object::Loop(turns) => turns.call(name, args, budget),
                Object::Cycler(items, at) if &**name == "next" => {
                    let item = items.items.get(at.get()).cloned();
                    at.set((at.get() + 1) % items.items.len().max(1));
                    item.ok_or_else(|| Error::invalid("at least one item has to be provided"))
                }
                Object::Cycler(_, at) => {
                    at.set(0);
                    Ok(Value::None)
                }
                other => Err(Error::invalid(format!("'{}' object has no method '{name}'", other.type_name()))),
            },
            Object::Method { of, name } => methods::call(of, name, args, budget),
            Object::Loop(turns) => {
                let [items] = args.bind("loop", ["iterable"])?;
                let Some((of, scope)) = &turns.recursion else {
                    return Err(Error::invalid("The loop must have the 'recursive' marker to be called recursively."));
                };
                let items = needed(items, "loop", "iterable")?;
                let mut out = Draft::new(budget);
                budget.deeper(|| self.repeat(of, &items, scope, turns.level + 1, &mut out))?;
                out.value()
            }
            Object::Joiner(separator, used) => match used.replace(true) {
                true => Ok(separator.clone()),
                false => budget.text(""),
            },
            other => Err(Error::invalid(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    fn call_built_in(&self, name: &str, args: Args) -> Result<Value, Error> {
        let budget = self.budget;
        match name {
            "range" => self.range(args),
            "dict" => {
                let entries = self.entries(args)?;
                Ok(Value::Dict(Rc::new(Dict::new(entries, budget)?)))
            }
            "namespace" => {
                let namespace = Rc::new(Object::Namespace(RefCell::default()));
                for (key, value) in self.entries(args)? {
                    namespace.set(&printed(&key, budget)?, value, budget)?;
                }
                budget.room(1)?;
                self.namespaces.borrow_mut().push(Rc::clone(&namespace));
                Ok(Value::Object(namespace))
            }
            "joiner" => {
                let [separator] = args.bind(name, ["sep"])?;
                let separator = separator.map_or_else(|| budget.text(", "), Ok)?;
                self.nested(Object::Joiner(separator, Cell::new(false)))
            }
            _ => {
                let items = budget.sequence(Kind::Tuple, args.positional)?;
                self.nested(Object::Cycler(items.iterate(budget)?, Cell::new(0)))
            }
        }
    }

    /// An object that holds values; its depth is checked as a list's is.
    fn nested(&self, object: Object) -> Result<Value, Error> {
        let object = Value::Object(Rc::new(object));
        self.budget.list(vec![object.clone()])?;
        Ok(object)
    }

    /// The entries that `dict(…)` and `namespace(…)` are given: those of a dict or a list of pairs, and named ones.
    fn entries(&self, args: Args) -> Result<Vec<(Value, Value)>, Error> {
        let mut entries = Vec::new();
        match args.positional.first() {
            None => {}
            Some(Value::Dict(dict)) => {
                self.budget.room(2 * dict.entries.len())?;
                entries.extend_from_slice(&dict.entries);
            }
            Some(pairs) => {
                for pair in &pairs.iterate(self.budget)?.items {
                    match pair.iterate(self.budget)?.items.as_slice() {
                        [key, value] => entries.push((key.clone(), value.clone())),
                        _ => return Err(Error::invalid("an entry of a dict has a key and a value")),
                    }
                }
            }
        }
        entries.extend(args.named.into_iter().map(|(name, value)| (Value::Text(name), value)));
        Ok(entries)
    }

    fn range(&self, args: Args) -> Result<Value, Error> {
        let bounds = args.bind("range", ["start", "stop", "step"])?;
        let (start, end, step) = match &bounds {
            [Some(end), None, None] => (0, int(Some(end), 0)?, 1),
            [Some(start), Some(end), step] => (int(Some(start), 0)?, int(Some(end), 0)?, int(step.as_ref(), 1)?),
            _ => return Err(Error::invalid("range needs from one to three numbers")),
        };
        if step == 0 {
            return Err(Error::invalid("range() arg 3 must not be zero"));
        }
        let distance = if step > 0 { end.checked_sub(start) } else { start.checked_sub(end) };
        let too_big = || Error::invalid(format!("a range of more than {MAX_RANGE} numbers"));
        let distance = distance.ok_or_else(too_big)?.max(0).unsigned_abs();
        let count = distance.div_ceil(step.unsigned_abs());
        if count > MAX_RANGE.unsigned_abs() {
            return Err(too_big());
        }
        self.budget.step(count as usize / 16)?;
        let numbers = (0..count as i128).map(|i| Value::Int(start + i * step)).collect();
        self.budget.sequence(Kind::Range, numbers)
    }

    /// What a macro writes.
    fn call_macro(&self, closure: &Closure, args: Args) -> Result<Value, Error> {
        let (of, budget) = (&closure.of, self.budget);
        let name = of.name.as_deref().unwrap_or("caller");
        let Args { mut positional, mut named } = args;
        let scope = Scope::inside(&closure.scope)?;
        let more = positional.split_off(positional.len().min(of.parameters.len()));
        let mut given = positional.into_iter();
        for (place, parameter) in of.parameters.iter().enumerate() {
            let by_name = named.iter().position(|(known, _)| known == parameter);
            let value = match (given.next(), by_name) {
                (Some(_), Some(_)) => {
                    return Err(Error::invalid(format!("macro {name} got two values for {parameter}")));
                }
                (Some(value), None) => value,
                (None, Some(at)) => named.remove(at).1,
                (None, None) => {
                    let first_default = of.parameters.len() - of.defaults.len();
                    match place.checked_sub(first_default).and_then(|place| of.defaults.get(place)) {
                        Some(default) => self.value(default, &scope)?,
                        None => Value::undefined(format!("parameter '{parameter}' was not provided")),
                    }
                }
            };
            scope.set(parameter, value);
        }
        if of.takes.caller {
            let caller = named.iter().position(|(known, _)| &**known == "caller").map(|at| named.remove(at).1);
            scope.set(&Arc::from("caller"), caller.unwrap_or_else(|| Value::undefined("No caller defined")));
        }
        match (of.takes.named, named.first()) {
            (true, _) => {
                let entries = named.into_iter().map(|(name, value)| (Value::Text(name), value)).collect();
                scope.set(&Arc::from("kwargs"), Value::Dict(Rc::new(Dict::new(entries, budget)?)));
            }
            (false, Some((unknown, _))) => {
                return Err(Error::invalid(format!("macro {name} takes no keyword argument {unknown}")));
            }
            (false, None) => {}
        }
        match (of.takes.positional, more.is_empty()) {
            (true, _) => scope.set(&Arc::from("varargs"), budget.sequence(Kind::Tuple, more)?),
            (false, false) => {
                let count = of.parameters.len();
                return Err(Error::invalid(format!("macro {name} takes not more than {count} argument(s)")));
            }
            (false, true) => {}
        }
        let mut out = Draft::new(budget);
        budget.deeper(|| self.body(&of.body, &scope, &mut out))?;
        out.value()
    }
}
