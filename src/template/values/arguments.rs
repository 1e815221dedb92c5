//! What a call is given, once it is evaluated.

use super::budget::Budget;
use super::value::Value;
use crate::error::Error;
use std::sync::Arc;

/// The values of a call's arguments.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Those without a name.
    pub positional: Vec<Value>,
    /// Those with one.
    pub named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// The values of the parameters `names` of `of`; `None` where one is not given.
    ///
    /// # Errors
    /// If there are more arguments than parameters, an unknown name, or two values for one.
    pub fn bind<const N: usize>(self, of: &str, names: [&str; N]) -> Result<[Option<Value>; N], Error> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return Err(Error::invalid(format!("{of} takes at most {N} arguments")));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let place = names.iter().position(|known| *known == &*name);
            match place.map(|place| &mut bound[place]) {
                Some(slot @ None) => *slot = Some(value),
                Some(_) => return Err(Error::invalid(format!("{of} got two values for {name}"))),
                None => return Err(Error::invalid(format!("{of} takes no argument {name}"))),
            }
        }
        Ok(bound)
    }
}

/// A count or an index that was given, or `default`.
pub(crate) fn int(value: Option<&Value>, default: i128) -> Result<i128, Error> {
    match value {
        None => Ok(default),
        Some(value) => {
            used(value)?;
            let wrong =
                || Error::invalid(format!("'{}' object cannot be interpreted as an integer", value.type_name()));
            value.as_int().ok_or_else(wrong)
        }
    }
}

/// As [`int`], but what is negative counts as 0, and what is larger than any memory as that.
pub(crate) fn size(value: Option<&Value>, default: usize) -> Result<usize, Error> {
    Ok(int(value, default as i128)?.clamp(0, u32::MAX.into()) as usize)
}

/// A string that was given.
pub(crate) fn text<'v>(value: Option<&'v Value>, what: &str) -> Result<&'v str, Error> {
    match value {
        Some(value) => {
            used(value)?;
            let wrong = || Error::invalid(format!("{what} must be str, not {}", value.type_name()));
            value.as_text().ok_or_else(wrong)
        }
        None => Err(Error::invalid(format!("{what} is missing"))),
    }
}

/// An argument that must be there.
pub(crate) fn needed(value: Option<Value>, of: &str, name: &str) -> Result<Value, Error> {
    value.ok_or_else(|| Error::invalid(format!("{of} needs the argument {name}")))
}

/// An error if `value` is undefined: where it is used, something is missing.
pub(crate) fn used(value: &Value) -> Result<(), Error> {
    match value {
        Value::Undefined(words) => Err(Error::invalid(&**words)),
        _ => Ok(()),
    }
}

/// `value` as `str()` makes it.
pub(crate) fn printed(value: &Value, budget: &Budget) -> Result<Arc<str>, Error> {
    if let Value::Text(text) = value {
        return Ok(Arc::clone(text));
    }
    let mut out = super::budget::Draft::new(budget);
    super::print::show(value, &mut out)?;
    Ok(Arc::from(out.finish()))
}
