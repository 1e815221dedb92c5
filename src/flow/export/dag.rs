//! A flow as faas-flow's `?export-dag=true` told it, for those who move: its names of fields, in its own spelling.

use super::{deed, leaves};
use crate::definition::{Call, Does, Flow, Graph, Node, Target};
use serde_json::{Map, Value as Json, json};

/// The flow as a DAG of faas-flow. Where it has several starts or ends, which faas-flow had not, there is none by name.
pub fn dag(flow: &Flow) -> Json {
    graph(&flow.graph, "0")
}

fn graph(graph: &Graph, id: &str) -> Json {
    let only = |mut nodes: Vec<&Node>| match (nodes.pop(), nodes.is_empty()) {
        (Some(node), true) => node.id.clone(),
        _ => String::new(),
    };
    let nodes = &graph.nodes;
    let starts = nodes.iter().filter(|node| node.parents.is_empty()).collect();
    let mut children: Vec<Map<String, Json>> = vec![Map::new(); nodes.len()];
    for node in nodes {
        for parent in &node.parents {
            if let Some(children) = children.get_mut(*parent) {
                children.insert(node.id.clone(), Json::Bool(!node.sources.contains(parent)));
            }
        }
    }
    let brings_nothing = nodes.iter().all(|node| node.sources.is_empty());
    let branches =
        nodes.iter().any(|node| node.parents.len() > 1) || children.iter().any(|children| children.len() > 1);
    let told: Map<String, Json> = nodes
        .iter()
        .enumerate()
        .zip(children)
        .map(|((index, node), children)| {
            (node.id.clone(), told(node, index + 1, children, &format!("{id}_{}", index + 1)))
        })
        .collect();
    json!({
        "id": id,
        "start-node": only(starts),
        "end-node": only(leaves(nodes).collect()),
        "has-branch": branches,
        "has-edge": nodes.iter().any(|node| !node.parents.is_empty()),
        "exec-only-dag": brings_nothing,
        "nodes": told,
        "is-valid": true,
    })
}

fn told(node: &Node, index: usize, children: Map<String, Json>, unique: &str) -> Json {
    let (is_foreach, is_condition) = (node.each.is_some(), node.when.is_some());
    let names: Vec<&String> = children.keys().collect();
    let mut told = json!({
        "id": node.id,
        "node-index": index,
        "unique-id": format!("{unique}_{}", node.id),
        "is-dynamic": is_foreach || is_condition,
        "is-condition": is_condition,
        "is-foreach": is_foreach,
        "has-aggregator": node.sources.len() > 1,
        "has-sub-aggregator": false,
        "has-subdag": matches!(node.does, Does::Group(_) | Does::Flow(_)),
        "in-degree": node.parents.len(),
        "out-degree": names.len(),
        "dynamic-exec-only": false,
        "childrens": names,
        "child-exec-only": children,
    });
    let Json::Object(fields) = &mut told else { return told };
    if let Does::Group(inner) = &node.does {
        let inner = graph(inner, unique);
        match (is_foreach, is_condition) {
            (true, _) => fields.insert("foreach-dag".into(), inner),
            (false, true) => fields.insert("conditional-dags".into(), json!({"true": inner})),
            (false, false) => fields.insert("sub-dag".into(), inner),
        };
    } else {
        let is = |what: bool| json!([what.to_string()]);
        let target = if let Does::Call(Call { target, .. }) = &node.does { Some(target) } else { None };
        let operation = json!({"name": deed(node), "properties": {
            "isMod": is(matches!(node.does, Does::Set(_))),
            "isFunction": is(matches!(target, Some(Target::Function { .. }))),
            "isHttpRequest": is(matches!(target, Some(Target::Url(_)))),
            "hasFailureHandler": is(node.on_error.is_some()),
            "hasResponseHandler": is(false),
        }});
        fields.insert("operations".into(), json!([operation]));
    }
    told
}
