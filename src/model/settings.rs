//! The settings of a JSON object, each read by somebody or refused.

use serde_json::{Map, Value};
use stageline_base::Fault;
use std::collections::BTreeSet;
use std::fmt::Display;

/// Largest width of a tensor (hidden, intermediate, vocabulary, positions): far above any model, and low enough that no
/// size computed from a few of them overflows.
pub(crate) const MAX_WIDTH: usize = 1 << 24;

/// An object whose keys are struck off as they are read; problems are collected, so that all are told at once.
///
/// A reader returns some number even where it found a problem: [`Settings::finish`] then fails, so nobody sees it.
pub(crate) struct Settings<'a> {
    file: &'a str,
    object: &'a Map<String, Value>,
    unread: BTreeSet<&'a str>,
    problems: Vec<String>,
}

impl<'a> Settings<'a> {
    /// The settings of `value`, from the file called `file`.
    pub(crate) fn of(file: &'a str, value: &'a Value) -> Result<Self, Fault> {
        let object = value.as_object().ok_or_else(|| Fault::invalid(format!("{file} is not a JSON object")))?;
        let unread = object.keys().map(String::as_str).collect();
        Ok(Self { file, object, unread, problems: Vec::new() })
    }

    /// The value of `key`, which counts as read; an absent key and `null` are the same.
    pub(crate) fn take(&mut self, key: &str) -> Option<&'a Value> {
        self.unread.remove(key);
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, if only as `null`.
    pub(crate) fn says(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// Notes a problem.
    pub(crate) fn problem(&mut self, problem: impl Display) {
        self.problems.push(problem.to_string());
    }

    /// Whether nothing was wrong so far: only then do numbers say something about each other.
    pub(crate) fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Notes that `key` is `value`, which is not supported.
    pub(crate) fn refuse(&mut self, key: &str, value: &Value, expected: impl Display) {
        self.problem(format_args!("{key} = {} is not supported ({expected})", shown(value)));
    }

    /// A whole number in 1..=`max`, if it is set.
    pub(crate) fn count_if_set(&mut self, key: &str, max: usize) -> Option<usize> {
        let value = self.take(key)?;
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n));
        if count.is_none() {
            self.refuse(key, value, format_args!("a whole number in 1..={max}"));
        }
        Some(count.unwrap_or(1))
    }

    /// A whole number in 1..=`max` that must be set.
    pub(crate) fn count(&mut self, key: &str, max: usize) -> usize {
        self.count_if_set(key, max).unwrap_or_else(|| {
            self.problem(format_args!("{key} is missing"));
            1
        })
    }

    /// A positive, finite number; `default` if it is not set.
    pub(crate) fn positive(&mut self, key: &str, default: f64) -> f64 {
        let Some(value) = self.take(key) else { return default };
        let number = value.as_f64().filter(|n| *n > 0.0 && n.is_finite());
        number.unwrap_or_else(|| {
            self.refuse(key, value, "a positive number");
            default
        })
    }

    /// A flag; `default` if it is not set.
    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        let Some(value) = self.take(key) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.refuse(key, value, "true or false");
            default
        })
    }

    /// A setting that must be one of `accepted` if it is set: what follows from them is how the model is computed here.
    pub(crate) fn only(&mut self, key: &str, accepted: &[Value]) {
        let Some(value) = self.take(key) else { return };
        let same = |one: &Value| one == value || (one.is_number() && one.as_f64() == value.as_f64());
        if !accepted.iter().any(same) {
            let accepted: Vec<String> = accepted.iter().map(shown).collect();
            let expected = if accepted.is_empty() { "unset".into() } else { accepted.join(" or ") };
            self.refuse(key, value, format_args!("only {expected}"));
        }
    }

    /// `architectures`, the first of which must be one of `known`: what is behind it are other uses of the same weights.
    pub(crate) fn architectures(&mut self, known: &[&str]) {
        let Some(value) = self.take("architectures") else { return };
        let is_known = |one: &Value| one.as_str().is_some_and(|one| known.contains(&one));
        if !value.as_array().is_some_and(|list| list.first().is_none_or(is_known)) {
            self.refuse("architectures", value, format_args!("only {}", known.join(" or ")));
        }
    }

    /// Settings that change nothing of what is computed here.
    pub(crate) fn inert(&mut self, keys: &[&str]) {
        for &key in keys {
            self.unread.remove(key);
        }
    }

    /// Settings that change nothing, known by their names.
    pub(crate) fn inert_if(&mut self, is_inert: impl Fn(&str) -> bool) {
        self.unread.retain(|key| !is_inert(key));
    }

    /// Whether nothing was wrong and every key was read, or is `null`.
    pub(crate) fn finish(mut self) -> Result<(), Fault> {
        for key in std::mem::take(&mut self.unread) {
            let value = &self.object[key];
            if value.is_null() {
                continue;
            }
            let key: String = key.chars().take(60).collect();
            self.problem(format_args!("{key} = {} is not known, and so not ignored", shown(value)));
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(Fault::invalid(format!("{}: {}", self.file, self.problems.join("; "))))
    }
}

/// The beginning of a value's JSON.
pub(crate) fn shown(value: &Value) -> String {
    let json = value.to_string();
    match json.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json,
    }
}
