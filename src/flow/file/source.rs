//! The text of a file, and where in it things stand.

use crate::definition::Place;
use saphyr_parser::ScalarStyle;

/// A text whose lines can be found.
#[derive(Debug)]
pub(super) struct Source<'t> {
    text: &'t str,
    /// The first byte of each line.
    lines: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, lines: std::iter::once(0).chain(breaks).collect() }
    }

    /// Line `line`, from 1.
    pub(super) fn line(&self, line: u32) -> &'t str {
        let from = |line: u32| self.lines.get(line.saturating_sub(1) as usize).copied().unwrap_or(self.text.len());
        self.text.get(from(line)..from(line + 1)).unwrap_or_default()
    }

    /// All of the text from `place` on.
    fn from(&self, place: Place) -> &'t str {
        let start = self.lines.get(place.line.saturating_sub(1) as usize).copied().unwrap_or(self.text.len());
        let line = self.text.get(start..).unwrap_or_default();
        let column = place.column.saturating_sub(1) as usize;
        line.char_indices().nth(column).and_then(|(at, _)| line.get(at..)).unwrap_or_default()
    }

    /// Where byte `at` of `value` stands, which is written at `place` in `style`. Where YAML's escapes keep that from being told, it
    /// is `place`.
    pub(super) fn inside(&self, place: Place, style: ScalarStyle, value: &str, at: usize) -> Place {
        self.walk(place, style, value, at).unwrap_or(place)
    }

    fn walk(&self, place: Place, style: ScalarStyle, value: &str, at: usize) -> Option<Place> {
        let mut written = Written { left: self.from(place).chars().peekable(), here: place };
        if let ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted = style {
            written.next();
        }
        // White space may be written as line breaks and indents.
        for c in value.get(..at)?.chars().filter(|c| !c.is_whitespace()) {
            written.skip_space();
            let same = written.next()? == c;
            let doubled = c == '\'' && style == ScalarStyle::SingleQuoted;
            if !same || (doubled && written.next()? != c) {
                return None;
            }
        }
        written.skip_space();
        Some(written.here)
    }
}

/// What is still to be walked over, and where that is.
struct Written<'t> {
    left: std::iter::Peekable<std::str::Chars<'t>>,
    here: Place,
}

impl Written<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.left.next()?;
        self.here = match next {
            '\n' => Place { line: self.here.line + 1, column: 1 },
            _ => Place { column: self.here.column + 1, ..self.here },
        };
        Some(next)
    }

    fn skip_space(&mut self) {
        while self.left.peek().is_some_and(|c| c.is_whitespace()) {
            self.next();
        }
    }
}
