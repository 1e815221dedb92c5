//! A flow for other eyes: drawn by Graphviz or Mermaid, as JSON, and as faas-flow told it. What a flow of the file does for another is
//! named, not repeated.

mod dag;
mod drawn;
mod outline;

pub use dag::dag;
pub use drawn::{dot, mermaid};
pub use outline::json;

use crate::definition::{Call, Does, Node, Target};

/// What a node does, in a few words: `function resize`.
pub(crate) fn deed(node: &Node) -> String {
    match &node.does {
        Does::Call(Call { target: Target::Function { name, .. }, .. }) => format!("function {name}"),
        Does::Call(Call { target: Target::Pipeline(name), .. }) => format!("pipeline {name}"),
        Does::Call(Call { target: Target::Url(url), .. }) => format!("url {url}"),
        Does::Set(_) => "set".into(),
        Does::Wait(_) => "wait".into(),
        Does::Group(_) => "nodes".into(),
        Does::Flow(name) => format!("flow {name}"),
    }
}

/// Nodes that no other node of their graph waits for.
pub(crate) fn leaves(nodes: &[Node]) -> impl Iterator<Item = &Node> {
    let mut waited = vec![false; nodes.len()];
    for parent in nodes.iter().flat_map(|node| &node.parents) {
        if let Some(waited) = waited.get_mut(*parent) {
            *waited = true;
        }
    }
    nodes.iter().zip(waited).filter(|(_, waited)| !waited).map(|(node, _)| node)
}
