//! What a rendering may use up: steps, memory, output, depth.
//!
//! Memory is counted as it is taken and never given back: it bounds the work on values too. Working through bytes costs steps.

use super::value::{Kind, List, Value};
use crate::error::{Error, ErrorKind};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that cost as much as one step.
const BYTES_A_STEP: usize = 256;
/// What a string, a list or a dict takes beside what is in it, in bytes.
const BYTES_A_VALUE: usize = 48;
/// What a place in a list takes, in bytes.
const BYTES_AN_ITEM: usize = size_of::<Value>();
/// Deepest nesting of a value: lists and dicts in each other.
pub const MAX_VALUE_DEPTH: u32 = 100;
/// Deepest nesting of what is being evaluated: expressions, blocks and calls in each other.
pub(crate) const MAX_EVALUATION_DEPTH: u32 = 500;

/// Deepest nesting of what is evaluated of an expression alone.
const MAX_STRICT_DEPTH: u32 = 64;

/// The most that one rendering may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Steps: parts of expressions evaluated, items looked at, 256 bytes worked through.
    pub steps: u64,
    /// Bytes of all values that it makes.
    pub bytes: usize,
    /// Bytes of what it writes.
    pub output_bytes: usize,
}

/// What is left of [`Limits`].
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    steps: Cell<u64>,
    bytes: Cell<usize>,
    depth: Cell<u32>,
    strict: Cell<bool>,
}

impl Budget {
    /// All of `limits`.
    pub fn new(limits: Limits) -> Self {
        let (steps, bytes) = (Cell::new(limits.steps), Cell::new(limits.bytes));
        Self { limits, steps, bytes, depth: Cell::new(0), strict: Cell::new(false) }
    }

    pub(crate) fn output_bytes(&self) -> usize {
        self.limits.output_bytes
    }

    pub(crate) fn steps_left(&self) -> u64 {
        self.steps.get()
    }

    /// Takes `count` steps.
    pub(crate) fn step(&self, count: usize) -> Result<(), Error> {
        let left = self.steps.get().checked_sub(count as u64);
        let spent = || Error::new(ErrorKind::Steps, format!("it takes more than {} steps", self.limits.steps));
        self.steps.set(left.ok_or_else(spent)?);
        Ok(())
    }

    /// Takes the steps that it costs to work through `bytes`.
    pub(crate) fn look(&self, bytes: usize) -> Result<(), Error> {
        self.step(bytes / BYTES_A_STEP)
    }

    /// Takes `bytes` of memory, before they are.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), Error> {
        let left = self.bytes.get().checked_sub(bytes);
        let spent = || Error::new(ErrorKind::Memory, format!("its values take more than {} bytes", self.limits.bytes));
        self.bytes.set(left.ok_or_else(spent)?);
        self.look(bytes)
    }

    /// Runs `inner` one level deeper.
    pub(crate) fn deeper<T>(&self, inner: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let depth = self.depth.get() + 1;
        let most = if self.is_strict() { MAX_STRICT_DEPTH } else { MAX_EVALUATION_DEPTH };
        if depth > most {
            return Err(Error::new(ErrorKind::Depth, format!("it is more than {most} calls deep")));
        }
        self.depth.set(depth);
        let result = inner();
        self.depth.set(depth - 1);
        result
    }

    /// Runs `inner` by the rules of an expression alone: what is not there is an error wherever it is used, all fields of none are
    /// none, and a dict's items come before its methods.
    pub(crate) fn strictly<T>(&self, inner: impl FnOnce() -> T) -> T {
        let before = self.strict.replace(true);
        let result = inner();
        self.strict.set(before);
        result
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.strict.get()
    }

    /// A string.
    pub(crate) fn text(&self, text: &str) -> Result<Value, Error> {
        self.take(text.len() + BYTES_A_VALUE)?;
        Ok(Value::Text(Arc::from(text)))
    }

    /// Room for a sequence of `count` values.
    pub(crate) fn room(&self, count: usize) -> Result<(), Error> {
        self.take(count.saturating_mul(BYTES_AN_ITEM).saturating_add(BYTES_A_VALUE))
    }

    /// A sequence of `kind`.
    pub(crate) fn sequence(&self, kind: Kind, items: Vec<Value>) -> Result<Value, Error> {
        self.room(items.len())?;
        Ok(Value::List(Rc::new(List::new(kind, items)?)))
    }

    /// A list.
    pub(crate) fn list(&self, items: Vec<Value>) -> Result<Value, Error> {
        self.sequence(Kind::List, items)
    }
}

/// A string while it is written: every byte is taken from the budget first.
#[derive(Debug)]
pub(crate) struct Draft<'b> {
    budget: &'b Budget,
    text: String,
    limit_bytes: usize,
}

impl<'b> Draft<'b> {
    /// An empty one.
    pub(crate) fn new(budget: &'b Budget) -> Self {
        Self { budget, text: String::new(), limit_bytes: usize::MAX }
    }

    /// An empty one for the output, which has a limit of its own and takes no memory of values.
    pub(crate) fn output(budget: &'b Budget) -> Self {
        Self { budget, text: String::new(), limit_bytes: budget.output_bytes() }
    }

    pub(crate) fn push(&mut self, text: &str) -> Result<(), Error> {
        if self.limit_bytes == usize::MAX {
            self.budget.take(text.len())?;
        } else if self.text.len() + text.len() > self.limit_bytes {
            return Err(Error::new(ErrorKind::Output, format!("it writes more than {} bytes", self.limit_bytes)));
        } else {
            self.budget.look(text.len())?;
        }
        self.text.push_str(text);
        Ok(())
    }

    pub(crate) fn push_char(&mut self, c: char) -> Result<(), Error> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    /// `text`, `count` times.
    pub(crate) fn repeat(&mut self, text: &str, count: usize) -> Result<(), Error> {
        self.budget.step(count / 16)?;
        for _ in 0..if text.is_empty() { 0 } else { count } {
            self.push(text)?;
        }
        Ok(())
    }

    pub(crate) fn budget(&self) -> &'b Budget {
        self.budget
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    /// What was written, as a value.
    pub(crate) fn value(self) -> Result<Value, Error> {
        self.budget.text(&self.text)
    }
}
