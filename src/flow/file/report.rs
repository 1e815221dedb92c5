//! What is wrong with a file, and what it may have meant instead.

use crate::definition::Place;

/// Most problems that are told one by one.
const MOST: usize = 100;
/// Longest word of a file that is quoted whole, in characters.
const LONGEST_QUOTE: usize = 60;

/// Something to tell about a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and what to do.
    pub words: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.words)
    }
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    more: usize,
}

impl Report {
    pub(super) fn problem(&mut self, place: Place, words: impl Into<String>) {
        // The same part of a file, used again by an alias, has the same problems.
        let problem = Problem { place, words: words.into() };
        if self.is_full() {
            self.more += 1;
        } else if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub(super) fn warning(&mut self, place: Place, words: impl Into<String>) {
        let warning = Problem { place, words: words.into() };
        if self.warnings.len() < MOST && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// How many problems there are.
    pub(super) fn count(&self) -> usize {
        self.problems.len() + self.more
    }

    /// Whether more problems are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.problems.len() >= MOST
    }

    pub(super) fn is_good_in(&self, line: u32) -> bool {
        self.problems.iter().all(|problem| problem.place.line != line)
    }

    pub(super) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// `, did you mean …?` if one of `known` is nearly `word`. Asked for as many problems as are told.
    pub(super) fn meant<'k>(&self, word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
        let enough = self.is_full() || word.len() > 63;
        let most = [0, 0, 0, 1, 1].get(word.len()).copied().unwrap_or(2);
        let near = known.into_iter().take(if enough { 0 } else { 1_000 }).map(|known| (distance(word, known), known));
        match near.min().filter(|(far, _)| *far <= most) {
            Some((_, known)) => format!(", did you mean `{known}`?"),
            None => String::new(),
        }
    }

    /// All problems and warnings in the order of the file.
    pub(super) fn told(mut self) -> (Vec<Problem>, Vec<Problem>) {
        self.problems.sort();
        self.warnings.sort();
        if self.more > 0
            && let Some(last) = self.problems.last()
        {
            let words = format!("{} more problems are not told: mend these first", self.more);
            self.problems.push(Problem { place: last.place, words });
        }
        (self.problems, self.warnings)
    }
}

/// A word of the file as it is quoted.
pub(super) fn quoted(word: &str) -> String {
    format!("`{}`", cut(word))
}

/// A text of the file on one line, and not too long.
pub(super) fn cut(text: &str) -> String {
    let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let more = if text.chars().nth(LONGEST_QUOTE).is_some() { "…" } else { "" };
    text.chars().take(LONGEST_QUOTE).map(visible).chain([more.to_owned()]).collect()
}

/// How many letters must be added, taken away, changed or swapped with their neighbour to make `b` of `a`; at least the difference of
/// their lengths, which is all that is told where that is above 2.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return a.len().abs_diff(b.len());
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut rows: [Vec<usize>; 3] = [Vec::new(), Vec::new(), (0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[2][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = changed.min(rows[2][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[1][j - 2] + 1);
            }
            row.push(best);
        }
        rows.rotate_left(1);
        rows[2] = row;
    }
    rows[2].last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_near() {
        for (a, b, far) in
            [("", "", 0), ("a", "b", 1), ("foreach", "for_each", 1), ("tiemout", "timeout", 1), ("x", "xyz", 2)]
        {
            assert_eq!(distance(a, b), far, "{a} {b}");
        }
        let report = Report::default();
        assert_eq!(report.meant("tymeout", ["time", "timeout"]), ", did you mean `timeout`?");
        assert_eq!(report.meant("colour", ["time", "timeout"]), "");
    }
}
