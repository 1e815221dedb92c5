//! What an expression sees: where values are, and which nodes are seen from where.

mod names;

use super::datum::{Blob, Datum};
use super::logged::{Failure, FailureClass, Given};
use super::state::{Key, NodeState, SlotState, Spot, State};
use crate::definition::{File, Graph, Input, Node, Piece, Template};
use serde_json::{Map, Value as Json};
use stageline_template::{Budget, Error, Expression, Limits, Part};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The most that one evaluation may use.
const LIMITS: Limits = Limits { steps: 5_000_000, bytes: 64 << 20, output_bytes: 16 << 20 };
/// The largest blob that an expression may look into.
const LARGEST_BLOB: u64 = 16 << 20;

/// Why there is no value.
#[derive(Debug)]
pub(super) enum Hole {
    /// It is in a blob that has not been read.
    Blob(Arc<Blob>),
    /// There is none.
    Failure(FailureClass, String),
}

impl From<Error> for Hole {
    fn from(error: Error) -> Self {
        Self::Failure(FailureClass::Expression, error.to_string())
    }
}

/// What a node is done for, item by item.
#[derive(Debug)]
pub(super) struct Items {
    /// Of a map.
    pub(super) keys: Option<Vec<String>>,
    pub(super) values: Vec<Json>,
}

/// What was read once and may be needed again. Nothing of it is more than the log says.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Of those that are gone, nothing.
    pub(super) blobs: BTreeMap<String, Option<Datum>>,
    pub(super) items: RefCell<HashMap<(usize, usize), Arc<Items>>>,
}

/// What is seen from a slot.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) state: &'a State,
    pub(super) file: &'a File,
    pub(super) known: &'a Known,
    /// The run's token.
    pub(super) run: &'a str,
    pub(super) frame: usize,
    pub(super) node: usize,
    pub(super) item: Option<u32>,
    /// What `error` is where that is not the run's.
    pub(super) error: Option<&'a Failure>,
    /// What `output` is, in what takes back.
    pub(super) output: Option<&'a Json>,
}

impl<'a> Scope<'a> {
    fn at(self, frame: usize, node: usize, item: Option<u32>) -> Self {
        Self { frame, node, item, ..self }
    }

    fn graph(&self, frame: usize) -> Option<&'a Graph> {
        self.state.graph(self.file, frame)
    }

    /// Where a value is said to be, seen from here.
    pub(super) fn datum(self, given: &Given) -> Result<Datum, Hole> {
        match given {
            Given::Here(datum) => Ok(datum.clone()),
            Given::OutputOf(key) => match self.state.spot(self.file, key) {
                Some(Spot::Node { frame, node, item: None }) => self.output_of(frame, node),
                Some(Spot::Node { frame, node, item }) => self.at(frame, node, item).slot_output(),
                _ => Ok(Datum::Nothing),
            },
            Given::Input => self.input_of(self.frame),
            Given::Item => match self.fanned() {
                Some((frame, node, item)) => {
                    let items = self.items(frame, node)?;
                    Ok(items.values.get(item as usize).map_or(Datum::Nothing, Datum::of))
                }
                None => Ok(Datum::Nothing),
            },
            Given::Leaves => {
                let slot = self.state.frames.get(self.frame).and_then(|frame| frame.nodes[self.node].slot(self.item));
                slot.and_then(|slot| slot.inner).map_or(Ok(Datum::Nothing), |frame| self.leaves(frame))
            }
        }
    }

    /// What the leaves of a frame gave.
    pub(super) fn leaves(self, frame: usize) -> Result<Datum, Hole> {
        let Some(graph) = self.graph(frame) else { return Ok(Datum::Nothing) };
        let leaves = graph.leaves();
        if let [leaf] = leaves[..] {
            return self.output_of(frame, leaf);
        }
        let mut map = Map::new();
        for leaf in leaves {
            map.insert(graph.nodes[leaf].id.clone(), self.value(&self.output_of(frame, leaf)?)?);
        }
        Ok(Datum::of(&Json::Object(map)))
    }

    /// What a node gave; nothing where it was not done.
    fn output_of(self, frame: usize, node: usize) -> Result<Datum, Hole> {
        match &self.state.frames[frame].nodes[node] {
            NodeState::Waiting | NodeState::Skipped => Ok(Datum::Nothing),
            NodeState::One(_) => self.at(frame, node, None).slot_output(),
            NodeState::Each(fan) => {
                let given = |item| self.value(&self.at(frame, node, Some(item as u32)).slot_output()?);
                let values = (0..fan.slots.len()).map(given).collect::<Result<Vec<_>, _>>()?;
                Ok(match &self.items(frame, node)?.keys {
                    Some(keys) => Datum::of(&Json::Object(keys.iter().cloned().zip(values).collect())),
                    None => Datum::of(&Json::Array(values)),
                })
            }
        }
    }

    fn slot_output(self) -> Result<Datum, Hole> {
        match self.state.frames[self.frame].nodes[self.node].slot(self.item).map(|slot| &slot.state) {
            Some(SlotState::Done(given)) => self.datum(given),
            _ => Ok(Datum::Nothing),
        }
    }

    /// What the nodes of a frame see as `input`.
    fn input_of(self, frame: usize) -> Result<Datum, Hole> {
        let Some(said) = self.state.frames.get(frame) else { return Ok(Datum::Nothing) };
        match (&said.input, said.up) {
            (Some(given), Some(up)) => self.at(up.frame, up.node, up.item).datum(given),
            (None, Some(up)) => self.input_of(up.frame),
            (_, None) => Ok(self.state.accepted.as_ref().map_or(Datum::Nothing, |run| run.input.clone())),
        }
    }

    /// The node with items that this is in, and which item it is.
    fn fanned(&self) -> Option<(usize, usize, u32)> {
        let (mut frame, mut node, mut item) = (self.frame, self.node, self.item);
        loop {
            if let Some(item) = item {
                return Some((frame, node, item));
            }
            let around = self.state.frames.get(frame)?;
            let up = around.up.filter(|_| around.sees_out)?;
            (frame, node, item) = (up.frame, up.node, up.item);
        }
    }

    /// What a node is done for.
    fn items(self, frame: usize, node: usize) -> Result<Arc<Items>, Hole> {
        if let Some(items) = self.known.items.borrow().get(&(frame, node)) {
            return Ok(Arc::clone(items));
        }
        let NodeState::Each(fan) = &self.state.frames[frame].nodes[node] else {
            return Ok(Arc::new(Items { keys: None, values: Vec::new() }));
        };
        let items = match self.value(&self.at(frame, node, None).datum(&fan.items)?)? {
            Json::Object(map) => {
                let (keys, values) = map.into_iter().unzip();
                Items { keys: Some(keys), values }
            }
            Json::Array(values) => Items { keys: None, values },
            other => Items { keys: None, values: vec![other] },
        };
        let items = Arc::new(items);
        self.known.items.borrow_mut().insert((frame, node), Arc::clone(&items));
        Ok(items)
    }

    /// A value that expressions can look into.
    pub(super) fn value(&self, datum: &Datum) -> Result<Json, Hole> {
        match datum {
            Datum::Nothing => Ok(Json::Null),
            Datum::Json(json) => json.read_whole().ok_or_else(|| {
                let words = "a JSON value is nested too deeply, or has too large a number: it can only be handed on";
                Hole::Failure(FailureClass::Value, words.to_owned())
            }),
            Datum::Body { content_type, bytes } => match Datum::text_of(content_type, bytes) {
                Some(text) => Ok(Json::String(text)),
                None => {
                    let kind = if content_type.is_empty() { "without a Content-Type" } else { content_type };
                    let words = format!(
                        "a body {kind} of {} bytes is neither JSON nor text: it can only be handed on",
                        bytes.len()
                    );
                    Err(Hole::Failure(FailureClass::Value, words))
                }
            },
            Datum::Blob(blob) if blob.bytes > LARGEST_BLOB => {
                let words =
                    format!("a body of {} bytes is too large to be looked into: it can only be handed on", blob.bytes);
                Err(Hole::Failure(FailureClass::Value, words))
            }
            Datum::Blob(blob) => match self.known.blobs.get(&blob.name) {
                Some(Some(datum)) => self.value(datum),
                Some(None) => {
                    let words = "a value that was kept beside the log is gone".to_owned();
                    Err(Hole::Failure(FailureClass::Value, words))
                }
                None => Err(Hole::Blob(Arc::clone(blob))),
            },
        }
    }

    /// What a node is done with, or for: handed on as it is where an expression is nothing but its name.
    pub(super) fn given(self, input: &Input) -> Result<Given, Hole> {
        let template = match input {
            Input::Given(template) => template,
            Input::Usual => return self.usual(),
        };
        self.template(template)
    }

    fn usual(self) -> Result<Given, Hole> {
        let said = self.said();
        if self.item.is_some() {
            return Ok(Given::Item);
        }
        match said.map(|node| &node.sources[..]).unwrap_or_default() {
            [] => Ok(if self.fanned().is_some() { Given::Item } else { Given::Input }),
            [one] => Ok(Given::OutputOf(self.key_of(self.frame, *one))),
            several => {
                let graph = self.graph(self.frame);
                let mut map = Map::new();
                for node in several {
                    let id = graph.and_then(|graph| graph.nodes.get(*node)).map(|node| node.id.clone());
                    map.insert(id.unwrap_or_default(), self.value(&self.output_of(self.frame, *node)?)?);
                }
                Ok(Given::Here(Datum::of(&Json::Object(map))))
            }
        }
    }

    pub(super) fn said(&self) -> Option<&'a Node> {
        self.graph(self.frame)?.nodes.get(self.node)
    }

    fn key_of(&self, frame: usize, node: usize) -> Key {
        let id = self.graph(frame).and_then(|graph| graph.nodes.get(node)).map_or("", |node| &node.id);
        Key::of(&self.state.frames[frame].prefix, id, None)
    }

    /// What a template gives: of one that is nothing but a name, where that is.
    pub(super) fn template(self, template: &Template) -> Result<Given, Hole> {
        if let Template::Value(expression) = template
            && let Some(given) = self.named_alone(expression)
        {
            return Ok(given);
        }
        self.json(template).map(|value| Given::Here(Datum::of(&value)))
    }

    fn named_alone(&self, expression: &Expression) -> Option<Given> {
        let [mention] = expression.mentions() else { return None };
        let id = match (&*mention.name, &mention.part) {
            ("nodes", Part::Field(id)) => {
                let written = [format!("nodes['{id}']"), format!("nodes[\"{id}\"]"), format!("nodes.{id}")];
                if written.iter().any(|written| written == expression.source()) { id } else { return None }
            }
            (name, Part::Whole) if name == expression.source() => match name {
                "input" => return Some(Given::Input),
                "item" => return Some(Given::Item),
                _ => &mention.name,
            },
            _ => return None,
        };
        let (frame, node) = self.find(id)?;
        Some(Given::OutputOf(self.key_of(frame, node)))
    }

    /// The node of that id, of those that are seen from here.
    fn find(&self, id: &str) -> Option<(usize, usize)> {
        let mut frame = self.frame;
        loop {
            if let Some(node) = self.graph(frame)?.place_of(id) {
                return Some((frame, node));
            }
            let around = &self.state.frames[frame];
            frame = match around.up {
                Some(up) if around.sees_out => up.frame,
                Some(_) => return None,
                // What is done at a run's end sees what the run has done.
                None => self.state.roots[0].filter(|root| *root != frame)?,
            };
        }
    }

    pub(super) fn json(self, template: &Template) -> Result<Json, Hole> {
        Ok(match template {
            Template::Plain(value) => value.clone(),
            Template::Value(expression) => self.evaluated(expression)?,
            Template::Text(pieces) => Json::String(self.text(pieces)?),
            Template::List(items) => Json::Array(items.iter().map(|item| self.json(item)).collect::<Result<_, _>>()?),
            Template::Map(entries) => {
                let entry = |(name, value): &(String, Template)| Ok::<_, Hole>((name.clone(), self.json(value)?));
                Json::Object(entries.iter().map(entry).collect::<Result<_, _>>()?)
            }
        })
    }

    fn text(self, pieces: &[Piece]) -> Result<String, Hole> {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Plain(plain) => text.push_str(plain),
                Piece::Value(expression) => {
                    let budget = Budget::new(LIMITS);
                    text.push_str(&self.eval(expression, &budget)?.printed(&budget)?);
                }
            }
            if text.len() > LIMITS.output_bytes {
                let words = format!("a text has more than {} bytes", LIMITS.output_bytes);
                return Err(Hole::Failure(FailureClass::Expression, words));
            }
        }
        Ok(text)
    }
}
