//! A file while it is read: what is known of it, what is wrong with it, and its simplest values.

use super::graph::Level;
use super::keys::Section;
use super::report::{Report, quoted};
use super::source::Source;
use super::tree::{Key, Tree, What};
use crate::definition::{Place, Target};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

/// A file while it is read.
pub(super) struct Reading<'t> {
    pub source: &'t Source<'t>,
    pub report: Report,
    /// The graphs around the place, from the outermost.
    pub levels: Vec<Level>,
    pub sight: Sight,
    /// Nodes of all flows so far.
    pub nodes: usize,
    /// The longest that a run of the flow may take.
    pub flow_timeout: Duration,
    /// Where the flow's stream is.
    pub stream: Option<Place>,
    /// Functions and URLs that are called, and where.
    pub called: Vec<(Target, Place)>,
    /// Flows that are used, by whom, and where.
    pub used: Vec<(String, String, Place)>,
    /// The functions of the file, each with its callback URL, if it has any functions.
    pub functions: Option<BTreeMap<String, Option<String>>>,
}

/// What an expression may name beside nodes, `input` and `run`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sight {
    /// `item`, `index` and `key`.
    pub item: bool,
    /// What is done for each item.
    pub each: bool,
    /// `error`.
    pub failed: bool,
    /// `run.state`.
    pub ended: bool,
    /// `output`.
    pub output: bool,
    /// `secrets`.
    pub secrets: bool,
}

/// The entries of a map whose keys are known.
pub(super) struct Fields<'a> {
    pub place: Place,
    /// Whether what is missing in it can be told: it is a map, or nothing, and all of its keys are known. Else it has its problem.
    pub whole: bool,
    entries: &'a [(Key, Rc<Tree>)],
}

impl<'a> Fields<'a> {
    /// The entries of a map that may hold what it likes; none where it is no map.
    pub(super) fn loose(tree: &'a Tree) -> Self {
        let entries = if let What::Map(entries) = &tree.what { entries.as_slice() } else { &[] };
        Self { place: tree.place, whole: true, entries }
    }

    pub(super) fn get(&self, name: &str) -> Option<(&'a Key, &'a Tree)> {
        self.entries.iter().find(|(key, _)| key.text == name).map(|(key, value)| (key, &**value))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Those of `names` that are there, in the file's order.
    pub(super) fn of(&self, names: &[&str]) -> Vec<(&'a Key, &'a Tree)> {
        self.entries.iter().filter(|(key, _)| names.contains(&&*key.text)).map(|(key, value)| (key, &**value)).collect()
    }
}

impl Reading<'_> {
    pub(super) fn problem(&mut self, place: Place, words: impl Into<String>) {
        self.report.problem(place, words);
    }

    /// The entries of a map that is `what`; none where nothing is written.
    pub(super) fn entries<'a>(&mut self, tree: &'a Tree, what: &str) -> &'a [(Key, Rc<Tree>)] {
        match &tree.what {
            What::Map(entries) => entries,
            What::Scalar { value: Json::Null, .. } => &[],
            _ => {
                self.problem(tree.place, format!("{what} is a map: this is {}", tree.kind()));
                &[]
            }
        }
    }

    /// The entries of a map that is `what`, all of whose keys are of `section`.
    pub(super) fn fields<'a>(&mut self, tree: &'a Tree, section: Section, what: &str) -> Fields<'a> {
        let entries = self.entries(tree, what);
        let known = section.names();
        let mut whole = matches!(tree.what, What::Map(_)) || tree.is_null();
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&&*key.text)) {
            whole = false;
            let meant = match &*key.text {
                "depends_on" | "needs" | "depends" => ", did you mean `after`?".into(),
                "if" | "condition" => ", did you mean `when`?".into(),
                "retries" => ", did you mean `retry: {attempts: …}`?".into(),
                "for_each" | "loop" | "with_items" => ", did you mean `foreach`?".into(),
                word => self.report.meant(word, known.iter().copied()),
            };
            let meant = if meant.is_empty() { format!(": it knows {}", known.join(", ")) } else { meant };
            self.problem(key.place, format!("{what} has no key {}{meant}", quoted(&key.text)));
        }
        Fields { place: tree.place, whole, entries }
    }

    /// The value of `name`, as `parse` reads it.
    pub(super) fn parsed<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (key, tree) = fields.get(name)?;
        self.scalar(tree, &key.text, parse)
    }

    /// A scalar, as `parse` reads it. It is the value of `name`.
    pub(super) fn scalar<T>(
        &mut self,
        tree: &Tree,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let words = match &tree.what {
            What::Scalar { text, .. } => match parse(text) {
                Ok(value) => return Some(value),
                Err(words) => words,
            },
            _ => format!("one value is expected, this is {}", tree.kind()),
        };
        self.problem(tree.place, format!("`{name}`: {words}"));
        None
    }

    /// A text that is not empty and has no expressions.
    pub(super) fn text(&mut self, fields: &Fields<'_>, name: &str) -> Option<String> {
        if let Some((_, tree)) = fields.get(name)
            && tree.is_null()
        {
            self.problem(tree.place, format!("`{name}`: a text is expected, this is nothing"));
            return None;
        }
        self.parsed(fields, name, |text| match text {
            "" => Err("a text is expected, this is an empty one".into()),
            text if text.contains("{{") => {
                Err("no expression can stand here, only in `input`, `headers`, `query` and such".into())
            }
            text => Ok(text.to_owned()),
        })
    }

    /// A time that is longer than nothing.
    pub(super) fn duration(&mut self, fields: &Fields<'_>, name: &str) -> Option<Duration> {
        self.parsed(fields, name, |text| match crate::times::duration(text)? {
            Duration::ZERO => Err("a time longer than nothing is expected".into()),
            time => Ok(time),
        })
    }

    /// A number in `range`.
    pub(super) fn number<T>(&mut self, fields: &Fields<'_>, name: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        self.parsed(fields, name, |text| within(text, &range))
    }

    pub(super) fn flag(&mut self, fields: &Fields<'_>, name: &str) -> Option<bool> {
        self.parsed(fields, name, |text| match text {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            _ => Err("true or false is expected".into()),
        })
    }

    pub(super) fn word<T: Copy>(&mut self, fields: &Fields<'_>, name: &str, words: &[(&str, T)]) -> Option<T> {
        self.parsed(fields, name, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            found.map(|(_, value)| *value).ok_or_else(|| format!("{} is expected", list.join(" or ")))
        })
    }

    /// A text, or a list of them: each with its place.
    pub(super) fn texts(&mut self, tree: &Tree, name: &str) -> Vec<(String, Place)> {
        let items = match &tree.what {
            What::List(items) => items.iter().map(|item| &**item).collect(),
            _ => vec![tree],
        };
        let text = |item: &&Tree| self.scalar(item, name, |text| Ok(text.to_owned())).map(|text| (text, item.place));
        items.iter().filter_map(text).collect()
    }
}

/// The number that `text` is, if it is in `range`.
pub(super) fn within<T: FromStr + PartialOrd + Display>(text: &str, range: &RangeInclusive<T>) -> Result<T, String> {
    let plain = text.strip_prefix('+').unwrap_or(text);
    let number = plain.parse::<T>().ok().filter(|number| range.contains(number));
    let whole = if std::mem::size_of::<T>() == 4 { "whole " } else { "" };
    number.ok_or_else(|| format!("a {whole}number from {} to {} is expected", range.start(), range.end()))
}
