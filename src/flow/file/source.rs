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

    /// Where the bytes `at` of `value`, in their order, stand, which is written at `place` in `style`. Where YAML's escapes keep that from
    /// being told, it is `place`.
    pub(super) fn inside(&self, place: Place, style: ScalarStyle, value: &str, at: &[usize]) -> Vec<Place> {
        let mut written = Written { left: self.from(place).chars().peekable(), here: place, lost: false };
        if let ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted = style {
            written.next();
        }
        let mut begin = 0;
        let place_of = |at: &usize| {
            written.pass(value.get(begin..*at).unwrap_or_default(), style);
            begin = begin.max(*at);
            if written.lost { place } else { written.here }
        };
        at.iter().map(place_of).collect()
    }
}

/// What is still to be walked over, and where that is.
struct Written<'t> {
    left: std::iter::Peekable<std::str::Chars<'t>>,
    here: Place,
    /// It is not written as it is read.
    lost: bool,
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

    /// Goes on behind `text`, and behind white space. White space may be written as line breaks and indents.
    fn pass(&mut self, text: &str, style: ScalarStyle) {
        for c in text.chars().filter(|c| !c.is_whitespace()) {
            self.skip_space();
            let doubled = c == '\'' && style == ScalarStyle::SingleQuoted;
            self.lost |= self.next() != Some(c) || (doubled && self.next() != Some(c));
            if self.lost {
                return;
            }
        }
        self.skip_space();
    }

    fn skip_space(&mut self) {
        while self.left.peek().is_some_and(|c| c.is_whitespace()) {
            self.next();
        }
    }
}
