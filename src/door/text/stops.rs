//! Finds stop strings in a text that comes in pieces.

/// What may be shown of the text so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Text that is certain: no stop string can swallow it any more.
    pub text: String,
    /// Whether a stop string was found; the text ends before it.
    pub stopped: bool,
}

/// The search for stop strings: of all matches the one that ends first counts, of those that end together the longest,
/// however the text is cut into pieces.
#[derive(Clone, Debug)]
pub(super) struct Stops {
    strings: Vec<String>,
    /// The end of the text that may yet become a stop string: shorter than the longest of them.
    held: String,
    stopped: bool,
}

impl Stops {
    /// A search for `strings`; empty ones are none.
    pub(super) fn new(mut strings: Vec<String>) -> Self {
        strings.retain(|s| !s.is_empty());
        Self { strings, held: String::new(), stopped: false }
    }

    /// Takes in the next `text`.
    pub(super) fn push(&mut self, text: &str) -> Piece {
        if self.stopped {
            return Piece { text: String::new(), stopped: true };
        }
        self.held.push_str(text);
        if let Some(start) = self.first_match() {
            self.stopped = true;
            self.held.truncate(start);
            return Piece { text: std::mem::take(&mut self.held), stopped: true };
        }
        let rest = self.held.split_off(self.certain_bytes());
        Piece { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The text ends here: what was held is certain.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the match that counts begins.
    fn first_match(&self) -> Option<usize> {
        let ends = self.strings.iter().filter_map(|s| self.held.find(s.as_str()).map(|start| (start + s.len(), start)));
        ends.min().map(|(_, start)| start)
    }

    /// Length of the held text without its longest end that begins a stop string.
    fn certain_bytes(&self) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest);
        let begins = |tail: &[u8]| self.strings.iter().any(|s| s.as_bytes().starts_with(tail));
        // No stop string begins in the middle of a character, so none of these is in the middle of one.
        (from..self.held.len()).find(|&i| begins(&self.held.as_bytes()[i..])).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_pieces(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut search = Stops::new(stops.iter().map(|s| s.to_string()).collect());
        let mut out: Vec<String> = pieces.iter().map(|p| search.push(p).text).collect();
        let stopped = search.push("").stopped;
        out.push(search.finish());
        (out, stopped)
    }

    #[test]
    fn text_is_held_only_while_a_stop_string_may_swallow_it() {
        let check = |stops: &[&str], pieces: &[&str], want: &[&str], stopped: bool| {
            let (got, end) = all_pieces(stops, pieces);
            assert_eq!((got.iter().map(String::as_str).collect::<Vec<_>>(), end), (want.to_vec(), stopped));
        };
        check(&[], &["a", "b"], &["a", "b", ""], false);
        check(&["END"], &["xE", "N", "D", "y"], &["x", "", "", "", ""], true);
        check(&["END"], &["xE", "N", "x"], &["x", "", "ENx", ""], false);
        check(&["END"], &["EEN", "D"], &["E", "", ""], true);
        check(&["\n\n"], &["a\n", "b\n"], &["a", "\nb", "\n"], false);
        check(&["é!"], &["caf", "é", "?"], &["caf", "", "é?", ""], false);
        check(&["abc", "b"], &["ab", "c"], &["a", "", ""], true);
        check(&["", "x"], &["ax"], &["a", ""], true);
    }

    /// The text before the match that counts, char by char.
    fn cut<'a>(text: &'a str, stops: &[String]) -> Option<&'a str> {
        let ends = text.char_indices().map(|(i, c)| i + c.len_utf8());
        ends.into_iter().find_map(|end| {
            let longest = stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(|s| s.len()).max();
            longest.map(|len| &text[..end - len])
        })
    }

    proptest! {
        #[test]
        fn the_cut_does_not_depend_on_the_pieces(
            pieces in proptest::collection::vec("[abé]{0,4}", 0..20),
            stops in proptest::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let text = pieces.concat();
            let mut search = Stops::new(stops.clone());
            let mut shown = String::new();
            let mut stopped = false;
            for piece in &pieces {
                let piece = search.push(piece);
                shown += &piece.text;
                stopped = piece.stopped;
                let full = cut(&text, &stops).unwrap_or(&text);
                prop_assert!(full.starts_with(&shown), "{shown} was shown of {full}");
            }
            shown += &search.finish();
            prop_assert_eq!(stopped, cut(&text, &stops).is_some());
            prop_assert_eq!(shown.as_str(), cut(&text, &stops).unwrap_or(&text));
        }
    }
}
