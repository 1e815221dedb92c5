//! A flow file: a stack.yml of OpenFaaS with flows in it, or a file of its own. All that is wrong with it is told at once, each with its
//! line and column; whatever a file holds, reading it takes little time and memory.
//!
//! Reading order: `tree` (YAML, bounded), `keys` (what may be said), `nodes` and `calls`, `values` (expressions), `graph` (edges).

mod calls;
mod flows;
mod graph;
mod hooks;
mod keys;
mod names;
mod nodes;
mod reading;
mod report;
mod scalars;
mod schema;
mod source;
mod stack;
mod tree;
mod values;

pub use keys::{Key, Section, Shape, keys};
pub use report::Problem;
pub use schema::schema;

use crate::definition::{File, Place};
use reading::{Fields, Reading, Sight};
use report::{Report, quoted};
use source::Source;
use std::collections::BTreeMap;
use tree::Tree;

/// Most flows in each other, by `flow`.
const MAX_FLOWS: usize = 8;

/// What came of reading a file.
#[derive(Debug)]
pub struct Read {
    /// The file, if nothing is wrong with it.
    pub file: Option<File>,
    /// All that is wrong, in the file's order: at most 100, and how many more there are.
    pub problems: Vec<Problem>,
    /// What may be meant otherwise than it is taken, in the file's order.
    pub warnings: Vec<Problem>,
}

/// Reads the text of a file: YAML 1.2, of at most 1 MiB.
pub fn read(text: &str) -> Read {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source::new(text);
    let mut report = Report::default();
    let tree = tree::read(text, &source, &mut report);
    let mut reading = Reading {
        source: &source,
        report,
        levels: Vec::new(),
        sight: Sight::default(),
        nodes: 0,
        flow_timeout: flows::TIMEOUT,
        stream: None,
        called: Vec::new(),
        used: Vec::new(),
        functions: None,
    };
    let file = match &tree {
        Some(tree) => file(&mut reading, tree),
        None => {
            if reading.report.is_good() {
                reading
                    .problem(Place { line: 1, column: 1 }, "the file says nothing: it needs `flows` or `async_hooks`");
            }
            File::default()
        }
    };
    let good = reading.report.is_good();
    let (problems, warnings) = reading.report.told();
    Read { file: good.then_some(file), problems, warnings }
}

fn file(reading: &mut Reading<'_>, tree: &Tree) -> File {
    let mut file = File::default();
    let entries = reading.entries(tree, "a flow file");
    let fields = Fields::loose(tree);
    // Other keys are OpenFaaS's, or hold what aliases repeat.
    let own = ["flows", "async_hooks", "targets", "pipelines"];
    for (key, _) in entries.iter().filter(|(key, _)| !own.contains(&&*key.text)) {
        let meant = match &*key.text {
            "version" | "provider" | "functions" | "configuration" | "environment" => continue,
            "nodes" | "steps" => ": they belong to a flow, as in flows: {my-flow: {nodes: …}}".into(),
            word => reading.report.meant(word, own),
        };
        if !meant.is_empty() {
            reading.problem(key.place, format!("a flow file has no key {}{meant}", quoted(&key.text)));
        }
    }
    file.gateway = fields.get("provider").and_then(|(_, tree)| stack::gateway(reading, tree));
    reading.functions = fields.get("functions").map(|(_, tree)| stack::functions(reading, tree));
    if let Some((_, tree)) = fields.get("flows") {
        for (key, tree) in reading.entries(tree, "`flows`") {
            let flow = flows::flow(reading, key, tree);
            file.flows.insert(key.text.clone(), flow);
        }
    }
    if let Some((_, tree)) = fields.get("async_hooks") {
        for (flow, place) in hooks::flows(reading, tree) {
            if file.flows.contains_key(&flow.name) {
                let words = format!("hooks begin a flow {} here, but `flows` has one of that name", quoted(&flow.name));
                reading.problem(place, words);
            }
            file.flows.insert(flow.name.clone(), flow);
        }
    }
    file.limits = fields.get("targets").map(|(_, tree)| stack::targets(reading, tree)).unwrap_or_default();
    file.pipelines = fields.get("pipelines").map(|(_, tree)| stack::pipelines(reading, tree)).unwrap_or_default();
    check_flows_in_flows(reading, &file);
    stack::warn_of_strangers(reading, &file);
    if reading.report.is_good() && file.flows.is_empty() {
        reading.report.warning(tree.place, "the file has no flow: neither `flows` nor `async_hooks`");
    }
    file
}

/// Checks that flows which nodes do are there, that none is inside of itself, and how many are in each other.
fn check_flows_in_flows(reading: &mut Reading<'_>, file: &File) {
    let used = std::mem::take(&mut reading.used);
    let places: BTreeMap<&str, usize> = file.flows.keys().enumerate().map(|(i, name)| (&**name, i)).collect();
    let names: Vec<&str> = file.flows.keys().map(String::as_str).collect();
    let mut inner: Vec<BTreeMap<usize, Place>> = vec![BTreeMap::new(); names.len()];
    for (by, name, place) in &used {
        match (places.get(&**by), places.get(&**name)) {
            (Some(by), Some(of)) => drop(inner[*by].entry(*of).or_insert(*place)),
            _ => {
                let meant = reading.report.meant(name, names.iter().copied());
                reading.problem(*place, format!("the file has no flow {}{meant}", quoted(name)));
            }
        }
    }
    let parents: Vec<Vec<usize>> = inner.iter().map(|inner| inner.keys().copied().collect()).collect();
    let circles = graph::circles(&parents);
    for circle in &circles {
        let mut way: Vec<usize> = circle.iter().rev().chain(circle.last()).copied().collect();
        if let Some(first) = way.iter().enumerate().min_by_key(|(_, flow)| **flow).map(|(at, _)| at) {
            way.pop();
            way.rotate_left(first);
            way.extend(way.first().copied());
        }
        let place = way.first().zip(way.get(1)).and_then(|(by, of)| inner[*by].get(of));
        let way: Vec<&str> = way.iter().map(|flow| names[*flow]).collect();
        reading.problem(place.copied().unwrap_or_default(), format!("flows are in each other: {}", graph::shown(&way)));
    }
    if !circles.is_empty() {
        return;
    }
    // Without a circle, a flow is above the deepest that it uses: as many rounds as are allowed tell who is too deep.
    let mut depth = vec![1; names.len()];
    for _ in 0..MAX_FLOWS {
        depth = inner.iter().map(|inner| 1 + inner.keys().map(|of| depth[*of]).max().unwrap_or(0)).collect();
    }
    for (flow, inner) in inner.iter().enumerate().filter(|(flow, _)| depth[*flow] == MAX_FLOWS + 1) {
        let deepest = inner.iter().find(|(of, _)| depth[**of] == MAX_FLOWS);
        if let Some((_, place)) = deepest {
            let words = format!("the flow {} holds more than {MAX_FLOWS} flows in each other", quoted(names[flow]));
            reading.problem(*place, words);
        }
    }
}
