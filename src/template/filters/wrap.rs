//! The filter `wordwrap`: lines that are no longer than a width, cut as Python's `textwrap` cuts them.

use crate::error::Error;
use crate::values::arguments::{Args, int, printed};
use crate::values::budget::{Budget, Draft};
use crate::values::methods::letters::is_space;
use crate::values::methods::text::lines;
use crate::values::value::Value;

/// Where lines may end.
struct Wrap {
    width: usize,
    break_words: bool,
    break_hyphens: bool,
}

pub(super) fn wrapped(text: &str, args: Args, budget: &Budget) -> Result<Value, Error> {
    let [width, words, between, hyphens] =
        args.bind("wordwrap", ["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
    let is_set = |value: Option<Value>| value.is_none_or(|value| value.is_true());
    let between = match between {
        None | Some(Value::None) => "\n".into(),
        Some(between) => printed(&between, budget)?,
    };
    let width = usize::try_from(int(width.as_ref(), 79)?).unwrap_or(0);
    let wrap = Wrap { width, break_words: is_set(words), break_hyphens: is_set(hyphens) };
    let mut out = Draft::new(budget);
    for (i, line) in lines(text, false, budget)?.into_iter().enumerate() {
        // Its letters are taken apart, and put together again to lines that may be of one.
        budget.take(128 * line.len())?;
        budget.step(line.len() / 8)?;
        if width == 0 {
            return Err(Error::invalid("wordwrap needs a width above 0"));
        }
        let letters: Vec<char> = line.chars().collect();
        let lines = wrap.line(&letters);
        out.push(if i == 0 { "" } else { &between })?;
        for (i, line) in lines.into_iter().enumerate() {
            out.push(if i == 0 { "" } else { &between })?;
            out.push(&line)?;
        }
    }
    out.value()
}

/// White space at which lines are cut: ASCII's alone.
fn is_gap(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ')
}

fn is_blank(chunk: &[char]) -> bool {
    chunk.iter().all(|c| is_space(*c))
}

impl Wrap {
    /// The lines of one line.
    fn line(&self, letters: &[char]) -> Vec<String> {
        let mut chunks = self.chunks(letters).into_iter().peekable();
        // What is left of a word that was too long.
        let mut left: Option<&[char]> = None;
        let mut lines: Vec<String> = Vec::new();
        loop {
            if !lines.is_empty() && left.or(chunks.peek().copied()).is_some_and(is_blank) && left.take().is_none() {
                chunks.next();
            }
            let Some(mut next) = left.take().or_else(|| chunks.next()) else { return lines };
            let (mut parts, mut length, mut more) = (Vec::new(), 0, true);
            while more && length + next.len() <= self.width {
                parts.push(next);
                length += next.len();
                match chunks.next() {
                    Some(chunk) => next = chunk,
                    None => more = false,
                }
            }
            if more && next.len() > self.width {
                if self.break_words {
                    let (part, rest) = next.split_at(self.end_of(next, self.width - length));
                    parts.push(part);
                    next = rest;
                } else if parts.is_empty() {
                    parts.push(next);
                    more = false;
                }
            }
            left = (more && !next.is_empty()).then_some(next);
            if parts.last().is_some_and(|part| is_blank(part)) {
                parts.pop();
            }
            if !parts.is_empty() {
                lines.push(parts.concat().into_iter().collect());
            }
        }
    }

    /// Where a word is cut of which `room` letters fit: behind a hyphen, if there is one.
    fn end_of(&self, word: &[char], room: usize) -> usize {
        let hyphen = word[..room.min(word.len())].iter().rposition(|c| *c == '-');
        let hyphen = hyphen.filter(|at| self.break_hyphens && word[..*at].iter().any(|c| *c != '-'));
        hyphen.map_or(room, |at| at + 1)
    }

    /// Words, parts of hyphenated words, dashes and gaps.
    fn chunks<'t>(&self, letters: &'t [char]) -> Vec<&'t [char]> {
        let mut chunks = Vec::new();
        let mut at = 0;
        while at < letters.len() {
            let rest = &letters[at..];
            let end = if is_gap(rest[0]) {
                rest.iter().position(|c| !is_gap(*c)).unwrap_or(rest.len())
            } else if !self.break_hyphens {
                rest.iter().position(|c| is_gap(*c)).unwrap_or(rest.len())
            } else {
                dash(letters, at).unwrap_or_else(|| word_end(letters, at) - at)
            };
            chunks.push(&rest[..end]);
            at += end;
        }
        chunks
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn is_letter(c: char) -> bool {
    is_word(c) && !c.is_numeric()
}

/// The letters of the dash of two hyphens or more at `at`, between words.
fn dash(letters: &[char], at: usize) -> Option<usize> {
    let behind_word = at > 0 && (is_word(letters[at - 1]) || "!\"'&.,?".contains(letters[at - 1]));
    if !behind_word {
        return None;
    }
    let hyphens = letters[at..].iter().take_while(|c| **c == '-').count();
    let before_word = letters.get(at + hyphens).is_some_and(|c| is_word(*c));
    (hyphens >= 2 && before_word).then_some(hyphens)
}

/// Where the word or the part of one is over that begins at `at`.
fn word_end(letters: &[char], at: usize) -> usize {
    let letter = |place: usize| letters.get(place).is_some_and(|c| is_letter(*c));
    for end in at + 1..=letters.len() {
        // A hyphen in a word: two letters, or one behind another hyphen, stand before it, and two letters behind.
        let hyphen = end < letters.len() && letters[end] == '-' && end > 1 && letter(end - 1);
        let before = hyphen && (letter(end - 2) || (letters[end - 2] == '-' && end > 2 && letter(end - 3)));
        let after = letter(end + 1) && (letter(end + 2) || (letters.get(end + 2) == Some(&'-') && letter(end + 3)));
        if before && after {
            return end + 1;
        }
        if letters.get(end).is_none_or(|c| is_gap(*c)) || dash(letters, end).is_some() {
            return end;
        }
    }
    letters.len()
}
