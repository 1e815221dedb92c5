//! YAML as a tree whose nodes know where they stand, bounded: text, depth, and what aliases make of it.

use super::report::{Problem, Report, quoted};
use super::scalars;
use super::source::Source;
use crate::definition::Place;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::Value as Json;
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

/// Longest text of a file, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of lists and maps.
const MAX_DEPTH: u32 = 64;
/// Most scalars, lists and maps, with what aliases repeat.
const MAX_NODES: u64 = 100_000;
/// Longest text of all scalars together, with what aliases repeat, in bytes.
const MAX_TEXT: u64 = 4 << 20;

/// A scalar, a list or a map.
#[derive(Debug)]
pub(super) struct Tree {
    pub place: Place,
    pub what: What,
    size: Size,
}

#[derive(Debug)]
pub(super) enum What {
    Scalar {
        text: String,
        value: Json,
        style: ScalarStyle,
    },
    List(Vec<Rc<Tree>>),
    /// No key is there twice.
    Map(Vec<(Key, Rc<Tree>)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub text: String,
    pub place: Place,
}

/// How large a tree is, with all that aliases repeat in it.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    depth: u32,
    nodes: u64,
    text: u64,
}

impl Tree {
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.what, What::Scalar { value: Json::Null, .. })
    }

    /// What it is, in a word.
    pub(super) fn kind(&self) -> &'static str {
        match &self.what {
            What::List(_) => "a list",
            What::Map(_) => "a map",
            What::Scalar { value, .. } => match value {
                Json::Null => "nothing",
                Json::Bool(_) => "true or false",
                Json::Number(_) => "a number",
                _ => "a text",
            },
        }
    }
}

/// The tree of `source`; `None` and one problem where it is no YAML or too large.
pub(super) fn read(text: &str, source: &Source<'_>, report: &mut Report) -> Option<Rc<Tree>> {
    if text.len() > MAX_BYTES {
        let words = format!("the file has {} bytes: at most {MAX_BYTES} are read", text.len());
        report.problem(Place { line: 1, column: 1 }, words);
        return None;
    }
    let mut reader =
        Reader { parser: Parser::new_from_str(text), source, anchors: HashMap::new(), total: Size::default(), report };
    match reader.document() {
        Ok(tree) => tree,
        Err(problem) => {
            // What is wrong in a line already is why the rest of it cannot be read.
            if report.is_good_in(problem.place.line) {
                report.problem(problem.place, problem.words);
            }
            None
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    source: &'t Source<'t>,
    /// What has an anchor; `None` while it is still being read.
    anchors: HashMap<usize, Option<Rc<Tree>>>,
    total: Size,
    report: &'t mut Report,
}

type Next<'t> = (Event<'t>, Place);

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Next<'t>, Problem> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place_of(&span))),
            Some(Err(error)) => Err(self.no_yaml(&error)),
            None => Ok((Event::StreamEnd, Place::default())),
        }
    }

    /// What is wrong with the text; what people often mean is told too.
    fn no_yaml(&self, error: &ScanError) -> Problem {
        let place = Place { line: error.marker().line() as u32, column: error.marker().col() as u32 + 1 };
        let near = [place.line, place.line.saturating_sub(1)].map(|line| self.source.line(line));
        let bare = |line: &&str| line.contains(": {{") || line.contains("- {{");
        let hint = if near.iter().any(bare) {
            ": a text with {{ }} needs quotes around it"
        } else if error.info().contains("trailing content") && near.iter().any(|line| line.contains("{{")) {
            ": one pair of quotes stands around the whole text, and the other kind of quotes inside of it"
        } else if near.iter().any(|line| line.trim_start_matches(' ').starts_with('\t')) {
            ": lines begin with blanks, never with tabs"
        } else {
            ""
        };
        let words = match error.info() {
            "recursion limit exceeded" => format!("lists and maps nest more than {MAX_DEPTH} deep"),
            wrong => format!("this is no YAML: {wrong}{hint}"),
        };
        Problem { place, words }
    }

    /// The one document.
    fn document(&mut self) -> Result<Option<Rc<Tree>>, Problem> {
        let mut tree = None;
        loop {
            let (event, place) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(tree),
                Event::DocumentStart(_) if tree.is_some() => {
                    let words = "a second document begins here: a file has one".to_string();
                    return Err(Problem { place, words });
                }
                Event::DocumentStart(_) => {
                    let first = self.next()?;
                    tree = Some(self.tree(first, 0)?);
                }
                _ => {}
            }
        }
    }

    fn tree(&mut self, (event, place): Next<'t>, depth: u32) -> Result<Rc<Tree>, Problem> {
        let fails = |words: String| Err(Problem { place, words });
        if depth > MAX_DEPTH {
            return fails(format!("lists and maps nest more than {MAX_DEPTH} deep"));
        }
        let (anchor, what) = match event {
            Event::Alias(anchor) => {
                return match self.anchors.get(&anchor).cloned() {
                    Some(Some(tree)) if depth + tree.size.depth > MAX_DEPTH => {
                        fails(format!("lists and maps nest more than {MAX_DEPTH} deep, by this alias"))
                    }
                    Some(Some(tree)) => {
                        self.count(tree.size, place)?;
                        Ok(tree)
                    }
                    Some(None) => fails("this alias stands inside of what it repeats".into()),
                    None => fails("this alias repeats nothing: there is no such anchor before it".into()),
                };
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), place);
                (anchor, What::Scalar { text: text.into_owned(), value, style })
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag, place, "seq");
                self.anchors.insert(anchor, None);
                (anchor, What::List(self.list(depth)?))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag, place, "map");
                self.anchors.insert(anchor, None);
                (anchor, What::Map(self.map(depth, place)?))
            }
            _ => return fails("this is no YAML: a value is missing".into()),
        };
        let mut size = Size { depth: 0, nodes: 1, text: 0 };
        let mut hold = |inner: &Tree| {
            size.depth = size.depth.max(inner.size.depth + 1);
            size.nodes += inner.size.nodes;
            size.text += inner.size.text;
        };
        match &what {
            What::Scalar { text, .. } => size.text = text.len() as u64,
            What::List(items) => items.iter().for_each(|item| hold(item)),
            What::Map(entries) => entries.iter().for_each(|(_, value)| hold(value)),
        }
        let own = Size { nodes: 1, text: if size.depth == 0 { size.text } else { 0 }, depth: 0 };
        self.count(own, place)?;
        let tree = Rc::new(Tree { place, what, size });
        if anchor > 0 {
            self.anchors.insert(anchor, Some(Rc::clone(&tree)));
        }
        Ok(tree)
    }

    fn count(&mut self, size: Size, place: Place) -> Result<(), Problem> {
        self.total.nodes += size.nodes;
        self.total.text += size.text;
        if self.total.nodes > MAX_NODES {
            return Err(Problem {
                place,
                words: format!("the file has more than {MAX_NODES} values, aliases counted"),
            });
        }
        if self.total.text > MAX_TEXT {
            return Err(Problem {
                place,
                words: format!("the file's texts have more than {MAX_TEXT} bytes, aliases counted"),
            });
        }
        Ok(())
    }

    fn list(&mut self, depth: u32) -> Result<Vec<Rc<Tree>>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                item => items.push(self.tree(item, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: u32, begin: Place) -> Result<Vec<(Key, Rc<Tree>)>, Problem> {
        let mut entries = Vec::new();
        let mut places: HashMap<String, Place> = HashMap::new();
        let mut merged: Vec<Rc<Tree>> = Vec::new();
        loop {
            let next = match self.next()? {
                (Event::MappingEnd, _) => break,
                next => next,
            };
            let key = self.tree(next, depth + 1)?;
            let value = self.next()?;
            let value = self.tree(value, depth + 1)?;
            let What::Scalar { text, style, .. } = &key.what else {
                let place = if let What::Map(_) = key.what { begin } else { key.place };
                let words = "a key must be a text; an expression needs quotes around it, as in \"{{ input.text }}\"";
                self.report.problem(place, words);
                continue;
            };
            if text == "<<" && *style == ScalarStyle::Plain {
                self.merge(&value, &mut merged);
            } else if let Some(first) = places.get(text) {
                let words = format!(
                    "the key {} is there twice: first in line {}, column {}",
                    quoted(text),
                    first.line,
                    first.column
                );
                self.report.problem(key.place, words);
            } else {
                places.insert(text.clone(), key.place);
                entries.push((Key { text: text.clone(), place: key.place }, value));
            }
        }
        for from in merged {
            let What::Map(more) = &from.what else { continue };
            for (key, value) in more.iter().filter(|(key, _)| !places.contains_key(&key.text)).collect::<Vec<_>>() {
                self.count(value.size, begin)?;
                places.insert(key.text.clone(), key.place);
                entries.push((key.clone(), Rc::clone(value)));
            }
        }
        Ok(entries)
    }

    /// Notes the maps whose entries `<<` takes over.
    fn merge(&mut self, value: &Rc<Tree>, merged: &mut Vec<Rc<Tree>>) {
        let parts = match &value.what {
            What::List(parts) => parts.as_slice(),
            _ => std::slice::from_ref(value),
        };
        for part in parts {
            match &part.what {
                What::Map(_) => merged.push(Rc::clone(part)),
                _ => {
                    self.report.problem(part.place, format!("`<<` takes over a map's entries: this is {}", part.kind()))
                }
            }
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Json {
        let read = match tag {
            Some(tag) if tag.is_yaml_core_schema() => scalars::tagged(text, &tag.suffix),
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(Json::from(text)),
            Some(tag) => Err(unknown(tag)),
            None if style == ScalarStyle::Plain => scalars::plain(text),
            None => Ok(Json::from(text)),
        };
        read.unwrap_or_else(|words| {
            self.report.problem(place, words);
            Json::from(text)
        })
    }

    fn check_tag(&mut self, tag: Option<Cow<'_, Tag>>, place: Place, expected: &str) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == expected)
        {
            self.report.problem(place, unknown(&tag));
        }
    }
}

fn unknown(tag: &Tag) -> String {
    format!("the tag {} means nothing here: leave it out", quoted(&format!("{}{}", tag.handle, tag.suffix)))
}

fn place_of(span: &Span) -> Place {
    Place { line: span.start.line() as u32, column: span.start.col() as u32 + 1 }
}
