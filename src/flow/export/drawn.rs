//! Drawings: DOT and Mermaid. Whole lines are what brings something, dashed ones what only comes first; a node that nobody waits for is
//! dashed too.

use super::deed;
use crate::definition::{Does, Flow, Graph, Node};
use std::fmt::Write;

/// The flow in Graphviz's language.
pub fn dot(flow: &Flow) -> String {
    let mut out = format!("digraph {} {{\n", dotted(&flow.name));
    out.push_str("  rankdir=LR;\n  compound=true;\n  node [shape=box];\n");
    draw(&Dot, flow, &mut out);
    out + "}\n"
}

/// The flow in Mermaid's language.
pub fn mermaid(flow: &Flow) -> String {
    let mut out = "flowchart LR\n".to_owned();
    draw(&Mermaid, flow, &mut out);
    out
}

/// How a language draws. Names of what is drawn are letters and digits; what people wrote stands in labels only.
trait Pen {
    fn node(&self, out: &mut String, name: &str, node: &Node, indent: &str);
    fn begin(&self, out: &mut String, name: &str, label: &str, indent: &str);
    fn end(&self, out: &mut String, indent: &str);
    /// An edge between two nodes, each with its name and whether it is a group.
    fn edge(&self, out: &mut String, from: &(String, &Node), to: &(String, &Node), brings: bool);
}

fn draw(pen: &dyn Pen, flow: &Flow, out: &mut String) {
    graph(pen, &flow.graph, "n", "  ", out);
    for (graph_of, prefix, label) in [(&flow.on_failure, "e", "on_failure"), (&flow.finally, "f", "finally")] {
        if !graph_of.nodes.is_empty() {
            pen.begin(out, prefix, label, "  ");
            graph(pen, graph_of, prefix, "    ", out);
            pen.end(out, "  ");
        }
    }
}

fn graph(pen: &dyn Pen, graph_of: &Graph, prefix: &str, indent: &str, out: &mut String) {
    let named = |i: usize| Some((format!("{prefix}{i}"), graph_of.nodes.get(i)?));
    for (name, node) in (0..graph_of.nodes.len()).filter_map(named) {
        match &node.does {
            Does::Group(inner) => {
                pen.begin(out, &name, &label(node, "\n"), indent);
                graph(pen, inner, &format!("{name}x"), &format!("{indent}  "), out);
                pen.end(out, indent);
            }
            _ => pen.node(out, &name, node, indent),
        }
    }
    for to in (0..graph_of.nodes.len()).filter_map(named) {
        for (parent, from) in to.1.parents.iter().filter_map(|i| Some((*i, named(*i)?))) {
            out.push_str(indent);
            pen.edge(out, &from, &to, to.1.sources.contains(&parent));
        }
    }
}

fn label(node: &Node, line: &str) -> String {
    let mut label = node.id.clone();
    let deed = deed(node);
    if deed != format!("function {}", node.id) && deed != "nodes" {
        label += &format!("{line}{deed}");
    }
    if let Some(each) = &node.each {
        label += &format!("{line}for each of {}", each.over.source());
    }
    if let Some(when) = &node.when {
        label += &format!("{line}when {}", when.source());
    }
    label
}

struct Dot;

impl Pen for Dot {
    fn node(&self, out: &mut String, name: &str, node: &Node, indent: &str) {
        let style = if node.is_async { ", style=dashed" } else { "" };
        let _ = writeln!(out, "{indent}{name} [label={}{style}];", dotted(&label(node, "\n")));
    }

    fn begin(&self, out: &mut String, name: &str, label: &str, indent: &str) {
        let _ = writeln!(out, "{indent}subgraph cluster_{name} {{\n{indent}  label={};", dotted(label));
    }

    fn end(&self, out: &mut String, indent: &str) {
        let _ = writeln!(out, "{indent}}}");
    }

    fn edge(&self, out: &mut String, from: &(String, &Node), to: &(String, &Node), brings: bool) {
        // Graphviz has edges between nodes only, which can be cut at the border of what they stand in.
        let mut how: Vec<String> = Vec::new();
        for ((name, node), end) in [(from, "ltail"), (to, "lhead")] {
            if let Does::Group(_) = node.does {
                how.push(format!("{end}=cluster_{name}"));
            }
        }
        if !brings {
            how.push("style=dashed".into());
        }
        let how = if how.is_empty() { String::new() } else { format!(" [{}]", how.join(", ")) };
        let _ = writeln!(out, "{} -> {}{how};", first(from), first(to));
    }
}

/// The name of the first node in a group, or of what is none.
fn first((name, node): &(String, &Node)) -> String {
    let inner = if let Does::Group(inner) = &node.does { inner.nodes.first() } else { None };
    inner.map_or_else(|| name.clone(), |inner| first(&(format!("{name}x0"), inner)))
}

fn dotted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

struct Mermaid;

impl Pen for Mermaid {
    fn node(&self, out: &mut String, name: &str, node: &Node, indent: &str) {
        let _ = writeln!(out, "{indent}{name}[{}]", quoted(&label(node, "\n")));
        if node.is_async {
            let _ = writeln!(out, "{indent}style {name} stroke-dasharray: 4");
        }
    }

    fn begin(&self, out: &mut String, name: &str, label: &str, indent: &str) {
        let _ = writeln!(out, "{indent}subgraph {name}[{}]", quoted(label));
    }

    fn end(&self, out: &mut String, indent: &str) {
        let _ = writeln!(out, "{indent}end");
    }

    fn edge(&self, out: &mut String, (from, _): &(String, &Node), (to, _): &(String, &Node), brings: bool) {
        let _ = writeln!(out, "{from} {} {to}", if brings { "-->" } else { "-.->" });
    }
}

/// A label. What means something to Mermaid or to HTML is written by its number.
fn quoted(text: &str) -> String {
    let mut label = "\"".to_owned();
    for c in text.chars() {
        match c {
            '\n' => label.push_str("<br/>"),
            c if c.is_alphanumeric() || " .,:_-/()[]='+?!".contains(c) => label.push(c),
            c => label += &format!("#{};", u32::from(c)),
        }
    }
    label + "\""
}
