//! Files that are right, and what is made of them.

use serde_json::{Value as Json, json};
use stageline_flow::definition::{
    Call, Does, File, Graph, Input, Node, Piece, Place, Target, Template, Tolerate, Wait,
};
use stageline_flow::file;
use std::time::Duration;

pub const STACK: &str = include_str!("files/stack.yml");
pub const CALLBACK: &str = include_str!("files/callback.yml");
pub const ASYNC_WORKFLOW: &str = include_str!("files/async-workflow.yml");
pub const VOICE_NOTES: &str = include_str!("files/voice-notes.yml");

/// The file that `text` is, without a problem, and its warnings.
pub fn read(text: &str) -> (File, Vec<String>) {
    let read = file::read(text);
    let told: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{told:#?}\n{text}");
    (read.file.expect("nothing is wrong"), read.warnings.iter().map(ToString::to_string).collect())
}

/// The graph of a flow that has these nodes, in YAML.
fn nodes(text: &str) -> Graph {
    let indented: String = text.lines().map(|line| format!("      {line}\n")).collect();
    let (mut file, warnings) = read(&format!("flows:\n  f:\n    nodes:\n{indented}"));
    assert_eq!(warnings, [""; 0]);
    file.flows.remove("f").expect("it is there").graph
}

/// What waits for what: `a<b,c` for an `a` that waits for `b` and `c`; what only comes first is in brackets.
fn edges(graph: &Graph) -> Vec<String> {
    let shown = |node: &Node| {
        let parent = |i: &usize| match (&graph.nodes[*i].id, node.sources.contains(i)) {
            (id, true) => id.clone(),
            (id, false) => format!("({id})"),
        };
        let parents: Vec<String> = node.parents.iter().map(parent).collect();
        if parents.is_empty() { node.id.clone() } else { format!("{}<{}", node.id, parents.join(",")) }
    };
    graph.nodes.iter().map(shown).collect()
}

fn call(node: &Node) -> &Call {
    match &node.does {
        Does::Call(call) => call,
        other => panic!("{} is no call: {other:?}", node.id),
    }
}

/// A template as YAML might say it.
fn said(template: &Template) -> Json {
    match template {
        Template::Plain(value) => value.clone(),
        Template::Value(expression) => json!(format!("<{}>", expression.source())),
        Template::Text(pieces) => json!(
            pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Plain(text) => text.clone(),
                    Piece::Value(expression) => format!("<{}>", expression.source()),
                })
                .collect::<String>()
        ),
        Template::List(items) => Json::Array(items.iter().map(said).collect()),
        Template::Map(entries) => Json::Object(entries.iter().map(|(key, value)| (key.clone(), said(value))).collect()),
    }
}

fn input(node: &Node) -> Option<Json> {
    match &node.input {
        Input::Usual => None,
        Input::Given(template) => Some(said(template)),
    }
}

fn function(name: &str) -> Target {
    Target::Function { name: name.into(), calls_back: false }
}

#[test]
fn the_stack_that_was_asked_for_is_a_chain() {
    let (file, warnings) = read(STACK);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(file.gateway.as_deref(), Some("http://localhost:8080"));
    assert_eq!(file.flows.keys().collect::<Vec<_>>(), ["worker-1"]);
    let flow = &file.flows["worker-1"];
    assert_eq!(edges(&flow.graph), ["worker-1", "worker-2<worker-1", "worker-3<worker-2"]);
    assert!(flow.graph.nodes.iter().all(|node| input(node).is_none() && call(node).target == function(&node.id)));
    assert_eq!(flow.graph.nodes[0].place, Place { line: 20, column: 13 });
    assert_eq!(
        (flow.callback_url.as_deref(), flow.timeout, flow.retain),
        (None, Duration::from_secs(3600), Duration::from_secs(86_400))
    );
    // The other sample has functions only.
    let (file, warnings) = read(CALLBACK);
    assert!(file.flows.is_empty());
    assert_eq!(
        warnings,
        [
            "1:1: the file has no flow: neither `flows` nor `async_hooks`",
            "6:21: the URL is taken to be `https://my-callback-url.com/`, without the angle brackets",
        ]
    );
}

#[test]
fn hooks_join_fan_out_and_say_who_is_told() {
    let functions: String = ["a", "b", "c", "d", "e", "x"].map(|name| format!("  {name}: {{lang: go}}\n")).concat();
    let hook = |(from, to): (&str, &str)| format!("  - {{source: {from}, destination: {to}}}\n");
    let hooks: String = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("x", "d"), ("d", "e")].map(hook).concat();
    let text = format!("functions:\n{functions}async_hooks:\n{hooks}")
        .replace("e: {lang: go}", "e: {annotations: {callback_url: 'http://me/'}}");
    let (file, _) = read(&text);
    assert_eq!(file.flows.keys().collect::<Vec<_>>(), ["a", "x"]);
    // Only what the entry reaches is waited for.
    assert_eq!(edges(&file.flows["a"].graph), ["a", "b<a", "c<a", "d<b,c", "e<d"]);
    assert_eq!(edges(&file.flows["x"].graph), ["d<x", "x", "e<d"]);
    assert_eq!(file.flows["x"].callback_url.as_deref(), Some("http://me/"));
}

#[test]
fn steps_are_the_sample_line_by_line() {
    let (file, _) = read(ASYNC_WORKFLOW);
    let graph = &file.flows["async-workflow"].graph;
    let expected =
        ["worker-1", "worker-2<(worker-1)", "worker-3<(worker-1)", "worker-4<(worker-1)", "worker-5<(worker-4)"];
    assert_eq!(edges(graph), expected);
    assert_eq!(graph.nodes.iter().map(|node| node.is_async).collect::<Vec<_>>(), [false, true, true, false, false]);
    assert_eq!(input(&graph.nodes[0]), Some(json!({"message": "Hello, world!"})));
    assert!(graph.nodes[1..].iter().all(|node| input(node) == Some(json!(null))));
    let (file, _) = read(
        "flows: {f: {steps: [apply: a, apply_async: a, then: a, then: a-2, {apply: b, id: a-3}, {then: c, foreach: \"{{ input }}\"}]}}",
    );
    let graph = &file.flows["f"].graph;
    assert_eq!(edges(graph), ["a", "a-2<a", "a-4<a", "a-2-2<a-4", "a-3<a-2-2", "c<(a-3)"]);
    assert_eq!(
        graph.nodes.iter().map(input).collect::<Vec<_>>()[3..],
        [Some(json!("<nodes['a-4']>")), Some(json!("<nodes['a-2-2']>")), None]
    );
    assert_eq!(call(&graph.nodes[3]).target, function("a-2"));
}

#[test]
fn a_real_flow_is_what_it_says() {
    let (file, warnings) = read(VOICE_NOTES);
    assert_eq!(warnings, [""; 0]);
    let flow = &file.flows["voice-notes"];
    assert_eq!(edges(&flow.graph), ["vad", "asr<vad", "text<asr", "summary<text", "embedding<text"]);
    let [vad, asr, text, summary, _] = &flow.graph.nodes[..] else { panic!("{:?}", flow.graph) };
    assert_eq!((vad.timeout, input(vad)), (Duration::from_secs(30), Some(json!("<input.audio>"))));
    assert_eq!(call(vad).target, function("vad"));
    let each = asr.each.as_ref().expect("it is done for each");
    assert_eq!((each.over.source(), each.parallel, each.tolerate), ("vad.segments", 8, Tolerate::Percent(10.0)));
    assert_eq!(
        input(asr),
        Some(json!({"audio": "<input.audio>", "from_ms": "<item.start_ms>", "to_ms": "<item.end_ms>"}))
    );
    assert!(matches!(&text.does, Does::Set(Template::Value(_))));
    assert_eq!(call(summary).target, Target::Pipeline("smollm2".into()));
    assert_eq!(input(summary), Some(json!({"prompt": "Summarise in three sentences: <text>", "max_tokens": 200})));
    assert_eq!(
        flow.graph.nodes.iter().map(|node| node.streams).collect::<Vec<_>>(),
        [false, false, false, true, false]
    );
    assert_eq!(
        flow.output.as_ref().map(said),
        Some(json!({"text": "<text>", "summary": "<summary.text>", "embedding": "<embedding.embedding>"}))
    );
    assert_eq!(call(&flow.on_failure.nodes[0]).target, Target::Url("https://ops.example.com/hook".into()));
    assert_eq!(call(&flow.finally.nodes[0]).target, function("delete-audio"));
    assert_eq!(
        (flow.timeout, flow.callback_url.as_deref()),
        (Duration::from_secs(600), Some("https://notes.example.com/done"))
    );
}

#[test]
fn groups_wait_for_what_is_named_inside() {
    let graph = nodes(
        "list: {set: [1, 2]}\n\
         other: {set: 1}\n\
         each:\n  foreach: \"{{ list }}\"\n  nodes:\n    one: {set: \"{{ item + other }}\"}\n    \
         two: {set: \"{{ one }}\", after: [other]}\n    deep: {nodes: {far: {set: \"{{ nodes.two + index }}\"}}}\n\
         last: {after: each, wait: {for: \"{{ other }}s\"}}\n\
         called: {when: \"{{ each }}\", function: g, after: [last]}",
    );
    assert_eq!(edges(&graph), ["list", "other", "each<list,other", "last<other,(each)", "called<each,(last)"]);
    // What comes first and is named too brings something.
    assert_eq!(edges(&nodes("a: \nb: {after: a, input: \"{{ a }}\"}")), ["a", "b<a"]);
    let Does::Group(inner) = &graph.nodes[2].does else { panic!("{:?}", graph.nodes[2]) };
    assert_eq!(edges(inner), ["one", "two<one", "deep<two"]);
}

#[test]
fn everything_a_node_may_say_is_read() {
    let graph = nodes(
        "pay:\n  function: charge.shop\n  mode: async\n  method: put\n  headers: {Authorization: \"Bearer {{ secrets.PAY }}\", X-N: 1}\n  \
         query: {q: \"{{ input.q }}\"}\n  retry: {attempts: 2, min: 1s, max: 5, factor: 1.5, on: [connect, timeout, 503, 5xx], within: 1m}\n  \
         on_error: {output: {paid: false}}\n  undo: {url: \"https://a/refund\", input: \"{{ output.id }}\", headers: {T: \"{{ secrets.T }}\"}}\n  \
         timeout: 2m\n\
         ok: {wait: {signal: approved, timeout: 1d}, after: pay}\n\
         ok2: {wait: {signal: approved}}\n\
         then: {wait: {until: 2030-01-01T00:00:00Z}}\n\
         once: {function: f, retry: false, when: true}\n\
         tail:\n  set: |-\n    a\n    {{ ok }}",
    );
    let [pay, ok, ok2, then, once, _] = &graph.nodes[..] else { panic!("{graph:?}") };
    let of = call(pay);
    assert_eq!(of.target, Target::Function { name: "charge.shop".into(), calls_back: true });
    assert_eq!((&*of.method, of.headers.len(), of.query.len()), ("PUT", 2, 1));
    assert_eq!(said(&of.headers[0].1), json!("Bearer <secrets.PAY>"));
    let (retry, seconds) = (&pay.retry, Duration::from_secs);
    assert_eq!(
        (retry.attempts, retry.min, retry.max, retry.factor, retry.within),
        (2, seconds(1), seconds(5), 1.5, Some(seconds(60)))
    );
    assert_eq!(retry.on.as_ref().map(Vec::len), Some(4));
    assert_eq!(pay.on_error.as_ref().map(said), Some(json!({"paid": false})));
    assert!(matches!(&pay.undo, Some(undo) if undo.call.target == Target::Url("https://a/refund".into())));
    assert!(matches!(&ok.does, Does::Wait(Wait::Signal(name)) if name == "approved"));
    assert_eq!((ok.timeout, ok2.timeout), (seconds(86_400), seconds(3600)));
    assert!(matches!(&then.does, Does::Wait(Wait::Until(_))));
    assert_eq!((once.retry.attempts, once.when.is_some(), pay.timeout), (1, true, seconds(120)));
}

#[test]
fn what_yaml_can_do_is_understood() {
    let (file, _) = read(
        "\u{feff}x-base: &base {timeout: 5s, retry: {attempts: 2}}\r\n---\r\n".split("---").next().map(|base| {
            format!("{base}flows:\n  f:\n    nodes:\n      a: &a\n        <<: *base\n        function: fa\n      b: {{<<: [*a], function: fb, 'after': [a]}}\n      \
                     c: !!map {{set: !!str 12}}\n      d:\n        set: >\n          {{{{ b\n          }}}}\n")
        }).expect("one").as_str(),
    );
    let [a, b, c, d] = &file.flows["f"].graph.nodes[..] else { panic!("{file:?}") };
    assert_eq!((a.timeout, b.timeout, b.retry.attempts), (Duration::from_secs(5), Duration::from_secs(5), 2));
    assert_eq!((&call(a).target, &call(b).target), (&function("fa"), &function("fb")));
    assert!(matches!(&c.does, Does::Set(Template::Plain(Json::String(text))) if text == "12"));
    assert!(matches!(&d.does, Does::Set(Template::Value(_))), "{d:?}");
}

#[test]
fn targets_and_pipelines_are_read() {
    let (file, warnings) = read(
        "flows: {f: {nodes: {wroker: , b: {url: 'http://b/x'}}}}\n\
         targets: {wroker: {concurrency: 4}, 'http://b/x': {rate: 30/m, concurrency: 1}, c: {rate: 1/s}}\n\
         pipelines: {small: models/small, big: {model: models/big, stages: 2}}\nfunctions: {worker: {}}\n",
    );
    assert_eq!((file.limits["wroker"].concurrency, file.limits["http://b/x"].rate), (Some(4), Some(0.5)));
    assert_eq!((&*file.pipelines["small"].model, file.pipelines["big"].stages), ("models/small", 2));
    assert_eq!(
        warnings,
        [
            "1:21: the file has no function `wroker`, did you mean `worker`?",
            "2:81: nothing in this file calls the target `c`"
        ]
    );
}
