//! `async_hooks`: functions that get another's output.

use super::graph::{circles, shown};
use super::keys::Section;
use super::reading::Reading;
use super::report::quoted;
use super::tree::{Tree, What};
use super::{calls, flows, nodes};
use crate::definition::{Call, Does, Flow, Graph, Input, Node, Place, Retry};
use std::collections::{BTreeMap, BTreeSet};

/// Functions and what of them follows what.
#[derive(Default)]
struct Hooks {
    /// The functions, and where each is named first.
    functions: Vec<(String, Place)>,
    places: BTreeMap<String, usize>,
    /// For each function those that it follows, and where that is said.
    sources: Vec<BTreeMap<usize, Place>>,
    /// For each function those that follow it.
    destinations: Vec<Vec<usize>>,
}

/// Most hooks of a file.
const MAX_HOOKS: usize = 2_000;

/// The flows of `async_hooks`: one for each function that is only a source.
pub(super) fn flows(reading: &mut Reading<'_>, tree: &Tree) -> Vec<(Flow, Place)> {
    let What::List(items) = &tree.what else {
        if !tree.is_null() {
            let words = format!(
                "`async_hooks` is a list of hooks, each with `source` and `destination`: this is {}",
                tree.kind()
            );
            reading.problem(tree.place, words);
        }
        return Vec::new();
    };
    if items.len() > MAX_HOOKS {
        reading.problem(tree.place, format!("the file has more than {MAX_HOOKS} hooks"));
        return Vec::new();
    }
    let mut hooks = Hooks::default();
    for item in items {
        let Some([from, to]) = hook(reading, item) else { continue };
        let [from, to] = [from, to].map(|(name, place)| hooks.place(name, place));
        if let Some(first) = hooks.sources.get_mut(to).and_then(|sources| sources.insert(from, item.place)) {
            reading.report.warning(item.place, format!("this hook is there already, in line {}", first.line));
        } else if let Some(destinations) = hooks.destinations.get_mut(from) {
            destinations.push(to);
        }
    }
    let parents: Vec<Vec<usize>> = hooks.sources.iter().map(|sources| sources.keys().copied().collect()).collect();
    for circle in circles(&parents) {
        let way: Vec<&str> =
            circle.iter().chain(circle.first()).filter_map(|i| Some(&*hooks.functions.get(*i)?.0)).collect();
        let place = circle.first().zip(circle.last()).and_then(|(first, last)| hooks.sources.get(*first)?.get(last));
        reading.problem(place.copied().unwrap_or(tree.place), format!("hooks go in a circle: {}", shown(&way)));
    }
    if !reading.report.is_good() {
        return Vec::new();
    }
    let entries = (0..hooks.functions.len()).filter(|i| parents.get(*i).is_some_and(Vec::is_empty));
    entries.filter_map(|entry| hooks.flow(reading, entry)).collect()
}

/// The two functions of a hook, each with its place.
fn hook(reading: &mut Reading<'_>, item: &Tree) -> Option<[(String, Place); 2]> {
    let fields = reading.fields(item, Section::Hook, "a hook");
    let mut ends = Vec::new();
    for name in ["source", "destination"] {
        let Some((_, tree)) = fields.get(name) else {
            if fields.whole {
                reading.problem(item.place, format!("a hook has `source` and `destination`: `{name}` is missing"));
            }
            continue;
        };
        let Some(function) = reading.text(&fields, name) else { continue };
        match &reading.functions {
            Some(functions) if functions.contains_key(&function) => ends.push((function, tree.place)),
            functions => {
                let known: Vec<&str> = functions.iter().flat_map(|known| known.keys().map(String::as_str)).collect();
                let meant = reading.report.meant(&function, known);
                reading.problem(tree.place, format!("`{name}`: the file has no function {}{meant}", quoted(&function)));
            }
        }
    }
    ends.try_into().ok()
}

impl Hooks {
    /// The place of a function among all.
    fn place(&mut self, name: String, place: Place) -> usize {
        let next = self.functions.len();
        let at = *self.places.entry(name.clone()).or_insert(next);
        if at == next {
            self.functions.push((name, place));
            self.sources.push(BTreeMap::new());
            self.destinations.push(Vec::new());
        }
        at
    }

    /// The flow of what can be reached from `entry`, and where that is named.
    fn flow(&self, reading: &mut Reading<'_>, entry: usize) -> Option<(Flow, Place)> {
        let mut reached = BTreeMap::from([(entry, 0)]);
        let mut next = vec![entry];
        while let Some(from) = next.pop() {
            for to in self.destinations.get(from).into_iter().flatten() {
                if reached.insert(*to, 0).is_none() {
                    next.push(*to);
                }
            }
        }
        reached.values_mut().enumerate().for_each(|(place, of)| *of = place);
        let order: Vec<usize> = reached.keys().copied().collect();
        reading.take_nodes(order.len(), self.functions.get(entry)?.1)?;
        let mut nodes = Vec::with_capacity(order.len());
        let mut leaves: BTreeSet<usize> = (0..order.len()).collect();
        for function in &order {
            let (name, place) = self.functions.get(*function)?;
            let parents: Vec<usize> =
                self.sources.get(*function)?.keys().filter_map(|from| reached.get(from).copied()).collect();
            parents.iter().for_each(|parent| {
                leaves.remove(parent);
            });
            nodes.push(node(name, *place, parents));
        }
        let (name, place) = self.functions.get(entry)?.clone();
        let annotated = |leaf: &usize| reading.functions.as_ref()?.get(&nodes.get(*leaf)?.id)?.clone();
        let urls: BTreeSet<String> = leaves.iter().filter_map(annotated).collect();
        if urls.len() > 1 {
            let words = format!(
                "the flow {} ends in functions with several a `callback_url`: none of them counts",
                quoted(&name)
            );
            reading.report.warning(place, words);
        }
        let callback_url = if urls.len() == 1 { urls.into_iter().next() } else { None };
        let (timeout, retain) = (flows::TIMEOUT, flows::RETAIN);
        let (on_failure, finally) = (Graph::default(), Graph::default());
        let graph = Graph { nodes };
        let (output, max_live, priority) = (None, None, 0);
        Some((
            Flow { name, graph, output, timeout, retain, callback_url, max_live, priority, on_failure, finally },
            place,
        ))
    }
}

fn node(name: &str, place: Place, parents: Vec<usize>) -> Node {
    Node {
        id: name.to_owned(),
        place,
        does: Does::Call(Call::plain(calls::function(false, name))),
        input: Input::Usual,
        sources: parents.clone(),
        parents,
        when: None,
        each: None,
        timeout: nodes::CALL,
        retry: Retry::default(),
        on_error: None,
        undo: None,
        is_async: false,
        streams: false,
    }
}
