//! The outline of a flow as JSON.

use super::deed;
use crate::definition::{Does, Flow, Graph, Node};
use serde_json::{Value as Json, json};

/// The flow: `name`, `timeout_s`, `nodes`, `on_failure` and `finally`. A node has `id`, `does` (`function resize`), `line`, `after` (an
/// object of the ids that it waits for: whether they bring something), `async` and `stream` where they are true, `when` and `foreach`
/// as they are written, and, if it is a group, its `nodes`.
pub fn json(flow: &Flow) -> Json {
    json!({
        "name": flow.name,
        "timeout_s": flow.timeout.as_secs_f64(),
        "nodes": graph(&flow.graph),
        "on_failure": graph(&flow.on_failure),
        "finally": graph(&flow.finally),
    })
}

fn graph(graph: &Graph) -> Json {
    graph.nodes.iter().map(|node| outline(node, graph)).collect()
}

fn outline(node: &Node, around: &Graph) -> Json {
    let after: serde_json::Map<String, Json> = node
        .parents
        .iter()
        .filter_map(|i| Some((around.nodes.get(*i)?.id.clone(), Json::Bool(node.sources.contains(i)))))
        .collect();
    let mut outline = json!({"id": node.id, "does": deed(node), "line": node.place.line, "after": after});
    let mut add = |name: &str, value: Option<Json>| {
        if let (Some(value), Json::Object(outline)) = (value, &mut outline) {
            outline.insert(name.to_owned(), value);
        }
    };
    add("async", node.is_async.then_some(Json::Bool(true)));
    add("stream", node.streams.then_some(Json::Bool(true)));
    add("when", node.when.as_ref().map(|when| json!(when.source())));
    add("foreach", node.each.as_ref().map(|each| json!(each.over.source())));
    add("nodes", if let Does::Group(inner) = &node.does { Some(graph(inner)) } else { None });
    outline
}
