//! What can be wrong with a template or happen while it is rendered.

use std::fmt;

/// Longest words of an error, in characters: they may quote what the template was given.
const MAX_WORDS: usize = 300;

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The source is no template.
    Syntax,
    /// The template does what its values do not allow.
    Invalid,
    /// The template itself refused its input, in its own words.
    Raised,
    /// It took more steps than it may.
    Steps,
    /// Its values took more memory than they may.
    Memory,
    /// Its output is longer than it may be.
    Output,
    /// It nests deeper than it may: its source, its calls or its values.
    Depth,
}

/// An error: what kind, in which line, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind it is.
    pub kind: ErrorKind,
    /// The line of the source, from 1; 0 if it is in none.
    pub line: u32,
    /// What is wrong, in words.
    pub what: String,
    /// Where in the source that is, in bytes, if it cannot be read; its line breaks count as `\n`.
    pub byte: Option<usize>,
}

impl Error {
    /// An error of `kind` that has no line yet.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        let what: String = what.into();
        let what = match what.char_indices().nth(MAX_WORDS) {
            Some((end, _)) => format!("{}…", &what[..end]),
            None => what,
        };
        Self { kind, line: 0, what, byte: None }
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }

    /// The same error in line `line`, if it has none.
    pub(super) fn at(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }

    /// The same error at `byte`, if it has no place yet.
    pub(super) fn at_byte(mut self, byte: usize) -> Self {
        self.byte.get_or_insert(byte);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.what),
            line => write!(f, "line {line}: {}", self.what),
        }
    }
}

impl std::error::Error for Error {}
