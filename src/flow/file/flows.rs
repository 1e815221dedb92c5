//! One flow, and the steps that are another way to say its nodes.

use super::graph::Level;
use super::keys::Section;
use super::reading::{Fields, Reading, Sight};
use super::report::{cut, quoted};
use super::tree::{Key, Tree, What};
use super::{calls, names, nodes};
use crate::definition::{Does, Flow, Graph, Input, Node, Place, Template};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// The longest that a run may take, and how long it is kept, where nobody says.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3600);
pub(super) const RETAIN: Duration = Duration::from_secs(24 * 3600);

/// The flow of an entry of `flows`.
pub(super) fn flow(reading: &mut Reading<'_>, key: &Key, tree: &Tree) -> Flow {
    if let Err(words) = names::label(&key.text, "flow") {
        reading.problem(key.place, words);
    }
    let what = format!("the flow {}", quoted(&key.text));
    let fields = reading.fields(tree, Section::Flow, &what);
    let timeout = reading.duration(&fields, "timeout").unwrap_or(TIMEOUT);
    (reading.flow_timeout, reading.stream, reading.sight) = (timeout, None, Sight::default());
    let used = reading.used.len();
    let (graph, mut level) = graph(reading, &fields, key, &what);
    // What comes after the nodes sees all of them and waits for none.
    level.close();
    reading.levels.push(level);
    let output = fields.get("output").map(|(_, tree)| reading.template(tree));
    reading.sight.ended = true;
    let mut after = |name: &str| match fields.get(name) {
        Some((_, tree)) if !tree.is_null() => reading.graph(tree, name).0,
        _ => Graph::default(),
    };
    let (on_failure, finally) = (after("on_failure"), after("finally"));
    reading.levels.pop();
    reading.sight = Sight::default();
    for (by, ..) in &mut reading.used[used..] {
        by.clone_from(&key.text);
    }
    Flow {
        name: key.text.clone(),
        graph,
        output,
        timeout,
        retain: reading.parsed(&fields, "retain", crate::times::duration).unwrap_or(RETAIN),
        callback_url: callback_url(reading, &fields),
        max_live: reading.number(&fields, "max_live", 1..=1_000_000),
        priority: reading.number(&fields, "priority", 0..=1_u32).unwrap_or(0) as u8,
        on_failure,
        finally,
    }
}

fn callback_url(reading: &mut Reading<'_>, fields: &Fields<'_>) -> Option<String> {
    let text = reading.text(fields, "callback_url")?;
    let (_, tree) = fields.get("callback_url")?;
    url(reading, &text, tree.place)
}

/// A URL, without the angle brackets that come from a document's markup.
pub(super) fn url(reading: &mut Reading<'_>, text: &str, place: Place) -> Option<String> {
    let bare = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
    if let Some(bare) = bare {
        reading.report.warning(place, format!("the URL is taken to be {}, without the angle brackets", quoted(bare)));
    }
    let url = bare.unwrap_or(text);
    match names::url(url) {
        Ok(()) => Some(url.to_owned()),
        Err(words) => {
            reading.problem(place, words);
            None
        }
    }
}

fn graph(reading: &mut Reading<'_>, fields: &Fields<'_>, flow: &Key, what: &str) -> (Graph, Level) {
    match (fields.get("nodes"), fields.get("steps")) {
        (Some(_), Some((steps, _))) => {
            reading.problem(steps.place, format!("{what} has `nodes` already: `steps` are another way to say them"));
        }
        (Some((_, tree)), None) if !is_empty(tree) => return reading.graph(tree, "nodes"),
        (None, Some((_, tree))) if !is_empty(tree) => return steps(reading, tree),
        (Some((key, tree)), None) | (None, Some((key, tree))) => {
            reading
                .problem(tree.place.max(key.place), format!("`{}` is empty: a flow has at least one node", key.text));
        }
        (None, None) if fields.whole => {
            reading.problem(flow.place, format!("{what} does nothing: it needs `nodes` or `steps`"));
        }
        (None, None) => {}
    }
    Default::default()
}

fn is_empty(tree: &Tree) -> bool {
    match &tree.what {
        What::Map(entries) => entries.is_empty(),
        What::List(items) => items.is_empty(),
        What::Scalar { .. } => tree.is_null(),
    }
}

/// The graph that steps are another way to say.
fn steps(reading: &mut Reading<'_>, tree: &Tree) -> (Graph, Level) {
    const KINDS: [&str; 3] = ["apply", "apply_async", "then"];
    let What::List(items) = &tree.what else {
        reading.problem(tree.place, format!("`steps` is a list, as in [apply: worker-1]: this is {}", tree.kind()));
        return Default::default();
    };
    if reading.take_nodes(items.len(), tree.place).is_none() {
        return Default::default();
    }
    let (mut steps, mut taken) = (Vec::new(), HashSet::new());
    for item in items {
        if let What::Scalar { value: serde_json::Value::String(name), .. } = &item.what {
            reading.problem(item.place, format!("a step is a map, as in {{apply: {}}}", cut(name)));
            continue;
        }
        let fields = reading.fields(item, Section::Step, "a step");
        let kinds = fields.of(&KINDS);
        let Some((kind, _)) = kinds.first() else {
            if fields.whole {
                reading.problem(item.place, "a step says what it calls: `apply`, `apply_async` or `then`");
            }
            continue;
        };
        if let Some((second, _)) = kinds.get(1) {
            reading.problem(second.place, format!("a step makes one call: it has `{}` already", kind.text));
        }
        let name = reading.text(&fields, &kind.text);
        let id = if fields.has("id") { reading.text(&fields, "id") } else { None };
        steps.push((fields, *kind, name.unwrap_or_default(), id));
    }
    // Ids that are given count; a name that is there twice gets a number.
    for (fields, _, _, id) in &steps {
        if let (Some(id), Some((_, tree))) = (id, fields.get("id")) {
            let twice = format!("the id {} is there twice", quoted(id));
            let checked = names::id(id).and_then(|()| if taken.insert(id.clone()) { Ok(()) } else { Err(twice) });
            checked.unwrap_or_else(|words| reading.problem(tree.place, words));
        }
    }
    let (mut ids, mut last_of) = (Vec::new(), HashMap::new());
    for (_, kind, name, id) in &steps {
        let last: &mut usize = last_of.entry(name).or_insert(0);
        let mut next = || {
            *last += 1;
            if *last == 1 { name.clone() } else { format!("{name}-{last}") }
        };
        let free = || std::iter::repeat_with(&mut next).find(|id| !taken.contains(id));
        let id = id.clone().or_else(free).unwrap_or_default();
        taken.insert(id.clone());
        ids.push(Key { text: id, place: kind.place });
    }
    let mut last = None;
    reading.graph_of(ids.iter().map(|key| key.text.clone()).collect(), |reading, i| {
        let ((fields, kind, name, _), key) = (steps.get(i)?, ids.get(i)?);
        let before = last.and_then(|last: usize| Some((last, &*ids.get(last)?.text)));
        let mut node = step(reading, fields, key, name);
        if let Some((from, id)) = before {
            let brings = matches!(node.input, Input::Usual) && node.each.is_none();
            reading.follows(from, key.place, brings);
            if brings {
                let source = format!("nodes['{id}']");
                node.input = stageline_template::Expression::new(&source)
                    .map_or(Input::Usual, |e| Input::Given(Template::Value(e)));
            }
        }
        node.is_async = kind.text == "apply_async";
        if !node.is_async {
            last = Some(i);
        }
        Some(node)
    })
}

fn step(reading: &mut Reading<'_>, fields: &Fields<'_>, key: &Key, name: &str) -> Node {
    if let (false, Err(words)) = (name.is_empty(), names::function(name)) {
        reading.problem(key.place, words);
    } else if let (false, Err(words)) = (fields.has("id"), names::id(&key.text)) {
        reading.problem(key.place, format!("{words}; `id` gives the step another"));
    }
    if fields.whole {
        nodes::only_takers(reading, fields, "function");
    }
    let begun = nodes::begin(reading, fields);
    let target = calls::function(nodes::calls_back(fields), name);
    let call = calls::call(reading, fields, target, key.place);
    nodes::end(reading, fields, key, (Does::Call(call), begun))
}
