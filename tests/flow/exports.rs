//! Flows for other eyes.

use crate::good::{ASYNC_WORKFLOW, VOICE_NOTES, read};
use serde_json::json;
use stageline_flow::definition::{File, Flow};
use stageline_flow::export::{dag, dot, json, mermaid};

/// What every export holds to, whatever people wrote.
pub fn hold(file: &File) {
    for flow in file.flows.values() {
        let drawn = dot(flow);
        let outside: String = drawn.replace("\\\\", "").replace("\\\"", "").split('"').step_by(2).collect();
        let known = |c: char| c.is_ascii_alphanumeric() || "_-><=[]{},; \n".contains(c);
        assert!(outside.chars().all(known), "what was written stands outside of quotes:\n{drawn}");
        assert_eq!(outside.matches('{').count(), outside.matches('}').count(), "{drawn}");
        let drawn = mermaid(flow);
        let (begun, ended) = (drawn.matches("\n  subgraph ").count(), drawn.matches("\n  end\n").count());
        assert_eq!(begun, ended, "{drawn}");
        assert!(drawn.lines().all(|line| line.matches('"').count() % 2 == 0 && !line.contains('{')), "{drawn}");
        assert_eq!(json(flow)["nodes"].as_array().map(Vec::len), Some(flow.graph.nodes.len()));
        assert_eq!(dag(flow)["nodes"].as_object().map(serde_json::Map::len), Some(flow.graph.nodes.len()));
    }
}

fn only(text: &str) -> Flow {
    read(text).0.flows.into_values().next().expect("it has a flow")
}

#[test]
fn a_flow_is_drawn() {
    let flow = only(ASYNC_WORKFLOW);
    assert_eq!(
        mermaid(&flow),
        "flowchart LR\n  n0[\"worker-1\"]\n  n1[\"worker-2\"]\n  style n1 stroke-dasharray: 4\n  n2[\"worker-3\"]\n  \
         style n2 stroke-dasharray: 4\n  n3[\"worker-4\"]\n  n4[\"worker-5\"]\n  n0 -.-> n1\n  n0 -.-> n2\n  n0 -.-> n3\n  n3 -.-> n4\n"
    );
    let drawn = dot(&only(VOICE_NOTES));
    for line in [
        "digraph \"voice-notes\" {",
        "  n1 [label=\"asr\\npipeline whisper-tiny-en\\nfor each of vad.segments\"];",
        "  n2 -> n3;",
        "  subgraph cluster_e {",
    ] {
        assert!(drawn.lines().any(|drawn| drawn == line), "{line}:\n{drawn}");
    }
}

#[test]
fn groups_are_drawn_around_their_nodes() {
    let flow = only(
        "flows: {f: {nodes: {a: {set: 1}, g: {foreach: '{{ [\"<\", a] }}', nodes: {x: {set: 1}, y: {after: x, set: 2}}}, z: {after: g, set: 3}}}}",
    );
    let (drawn, chart) = (dot(&flow), mermaid(&flow));
    assert!(drawn.contains("label=\"g\\nfor each of [\\\"<\\\", a]\";"), "{drawn}");
    assert!(drawn.contains("  n0 -> n1x0 [lhead=cluster_n1];\n"), "{drawn}");
    assert!(drawn.contains("  n1x0 -> n2 [ltail=cluster_n1, style=dashed];\n"), "{drawn}");
    assert!(
        chart.contains("  subgraph n1[\"g<br/>for each of [#34;#60;#34;, a]\"]\n    n1x0[\"x<br/>set\"]"),
        "{chart}"
    );
    assert!(chart.contains("  end\n  n2[\"z<br/>set\"]\n  n0 --> n1\n  n1 -.-> n2\n"), "{chart}");
    let outline = json(&flow);
    assert_eq!(outline["nodes"][1]["nodes"][1], json!({"id": "y", "does": "set", "line": 1, "after": {"x": false}}));
}

#[test]
fn a_flow_is_told_as_faas_flow_told_it() {
    let told = dag(&only(ASYNC_WORKFLOW));
    assert_eq!((&told["start-node"], &told["end-node"]), (&json!("worker-1"), &json!("")));
    assert_eq!((&told["has-branch"], &told["exec-only-dag"]), (&json!(true), &json!(true)));
    let node = &told["nodes"]["worker-4"];
    assert_eq!(node["childrens"], json!(["worker-5"]));
    assert_eq!(node["child-exec-only"], json!({"worker-5": true}));
    assert_eq!((&node["in-degree"], &node["operations"][0]["name"]), (&json!(1), &json!("function worker-4")));
    let told = dag(&only("flows: {f: {nodes: {g: {foreach: '{{ input }}', nodes: {x: }}}}}"));
    assert_eq!(told["nodes"]["g"]["foreach-dag"]["nodes"]["x"]["unique-id"], json!("0_1_1_x"));
}
