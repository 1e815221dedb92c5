//! Every key of a flow file: where it stands, what it may be, what it means. The reader refuses what is not here, and the JSON Schema
//! for editors and the reference are made of it.

/// A map of the file that has keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// The file itself. Keys beside these are left to OpenFaaS.
    File,
    /// A flow.
    Flow,
    /// A node of a flow.
    Node,
    /// One of `steps`.
    Step,
    /// `wait` of a node.
    Wait,
    /// `retry` of a node.
    Retry,
    /// `on_error` of a node.
    OnError,
    /// `undo` of a node.
    Undo,
    /// One of `async_hooks`.
    Hook,
    /// One of `targets`.
    Target,
    /// One of `pipelines`.
    Pipeline,
}

/// What the value of a key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything; texts in it may hold `{{ }}`.
    Any,
    /// Anything, which is not looked at.
    Foreign,
    /// A text.
    Text,
    /// One expression in `{{ }}`, or true or false.
    Condition,
    /// One expression in `{{ }}`.
    Expression,
    /// A time: `90` seconds, `500ms`, `1m30s`, `2d`.
    Duration,
    /// A whole number within these bounds.
    Count(u32, u32),
    /// A number within these bounds.
    Number(u32, u32),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A text, or a list of them.
    Texts,
    /// How many items may fail: a number, or `10%`.
    Share,
    /// Calls in a time: `50/s`.
    Rate,
    /// After what failures: words, statuses of HTTP, or a list of them.
    Failures,
    /// A map of texts that may hold `{{ }}`.
    TextMap,
    /// A map with the keys of a section.
    In(Section),
    /// A map with the keys of a section, or one of these words; `false` is one of them where the words say so.
    InOr(Section, &'static [&'static str]),
    /// A map of names to maps with the keys of a section.
    MapOf(Section),
    /// A list of maps with the keys of a section.
    ListOf(Section),
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What its value may be.
    pub shape: Shape,
    /// What counts where it is not written; empty: nothing.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn key(name: &'static str, shape: Shape, default: &'static str, meaning: &'static str) -> Key {
    Key { name, shape, default, meaning }
}

use Section as In;
use Shape::{
    Any, Condition, Count, Duration, Expression, Failures, Flag, Foreign, InOr, ListOf, MapOf, Number, Rate, Share,
};
use Shape::{Text, TextMap, Texts, Words};

const FILE: &[Key] = &[
    key("flows", MapOf(In::Flow), "", "The flows, by name: a DNS label, which is a path of the door's too."),
    key(
        "async_hooks",
        ListOf(In::Hook),
        "",
        "Functions that get another's output. Each one that is only a source begins a flow of its name.",
    ),
    key("targets", MapOf(In::Target), "", "What functions (by name) and URLs bear, from all engines together."),
    key(
        "pipelines",
        MapOf(In::Pipeline),
        "",
        "Pipelines that may run in the flow's own process, by name: a model's folder, or a map.",
    ),
    key("provider", Foreign, "", "OpenFaaS's: `gateway` is where functions are called."),
    key(
        "functions",
        Foreign,
        "",
        "OpenFaaS's: the functions. `annotations.callback_url` of the last one of hooks is told a run's end.",
    ),
];

const FLOW: &[Key] = &[
    key("nodes", MapOf(In::Node), "", "What the flow does, by id. A node waits for those that it names."),
    key("steps", ListOf(In::Step), "", "In the place of `nodes`: functions one after the other."),
    key("output", Any, "the last node's output; of several last ones, each by its id", "What a run gives."),
    key("timeout", Duration, "1h", "The longest that a run may take."),
    key("retain", Duration, "24h", "How long an ended run is kept."),
    key("callback_url", Text, "", "Who is told of a run's end, where its caller names nobody."),
    key("max_live", Count(1, 1_000_000), "", "Most runs that have not ended; more are refused."),
    key("priority", Count(0, 1), "0", "1: its runs go first."),
    key("on_failure", MapOf(In::Node), "", "Nodes for a run that failed. They see `error` and all nodes of the flow."),
    key(
        "finally",
        MapOf(In::Node),
        "",
        "Nodes for the end of each run. They see `run.state`, `error` and all nodes of the flow.",
    ),
];

const NODE: &[Key] = &[
    key("function", Text, "the node's id", "The function that is called, through the gateway."),
    key("pipeline", Text, "", "The pipeline that is called."),
    key("url", Text, "", "The URL that is called: http or https, without expressions."),
    key("flow", Text, "", "The flow of this file that is done, in the same run."),
    key("set", Any, "", "The value that the node gives."),
    key("wait", Shape::In(In::Wait), "", "For what the node waits."),
    key("nodes", MapOf(In::Node), "", "A group: nodes that are done together, once or for each item."),
    key(
        "input",
        Any,
        "the item of `foreach`; else the output of the nodes that it names; else what the flow was given",
        "With what it is done. `null` is nothing at all.",
    ),
    key("after", Texts, "", "Nodes that come first, without giving anything."),
    key("when", Condition, "true", "Where this is false the node is skipped, and its output is `none`."),
    key("foreach", Expression, "", "A list or a map: the node is done for each `item` (with `index`, or `key`)."),
    key("parallel", Count(1, 10_000), "8", "Most items at once."),
    key("tolerate", Share, "0", "How many items may fail; what they give is `none`."),
    key(
        "timeout",
        Duration,
        "60s; of `wait: {signal}` the flow's",
        "The longest that one call or the signal may take.",
    ),
    key("retry", InOr(In::Retry, &["false", "none"]), "4 attempts", "When a call that failed is made again."),
    key("on_error", InOr(In::OnError, &["fail"]), "fail", "What the node gives where it failed."),
    key(
        "undo",
        Shape::In(In::Undo),
        "",
        "The call that takes back what the node did, should the run fail later. It sees `output`.",
    ),
    key("async", Flag, "false", "Nobody but the run's end waits for the node."),
    key(
        "stream",
        Flag,
        "false",
        "Its tokens are the run's stream: one node of a flow, which calls a pipeline or a URL.",
    ),
    key("mode", Words(&["sync", "async"]), "sync", "How a function is called: it answers, or it calls back."),
    key("method", Text, "POST", "The method of HTTP; for functions and URLs."),
    key("headers", TextMap, "", "Headers; for functions and URLs."),
    key("query", TextMap, "", "What stands in the URL behind `?`; for functions and URLs."),
];

/// What a step has like a node.
const LIKE_A_NODE: [&str; 13] = [
    "input", "when", "foreach", "parallel", "tolerate", "timeout", "retry", "on_error", "undo", "mode", "method",
    "headers", "query",
];

const STEP: &[Key] = &[
    key("apply", Text, "", "The function that is called after the last `apply` or `then`."),
    key("apply_async", Text, "", "The same, but nobody but the run's end waits for it."),
    key("then", Text, "", "Another word for `apply`."),
    key("id", Text, "the function's name", "Its id."),
];

const WAIT: &[Key] = &[
    key("for", Any, "", "So long: `10s`."),
    key("until", Any, "", "Until then: RFC 3339, or seconds since 1970."),
    key("signal", Text, "", "Until somebody says this to the run; what comes with it is the node's output."),
    key("timeout", Duration, "the flow's", "The longest wait for the signal."),
];

const RETRY: &[Key] = &[
    key("attempts", Count(1, 100), "4", "Calls altogether."),
    key("min", Duration, "500ms", "The pause before the second."),
    key("max", Duration, "60s", "The longest pause."),
    key("factor", Number(1, 100), "2", "How much longer each pause is than the one before."),
    key("on", Failures, "what may pass by itself", "After what: `connect`, `timeout`, `503`, `5xx`."),
    key("within", Duration, "", "The longest that all calls and pauses may take."),
];

const ON_ERROR: &[Key] = &[key("output", Any, "", "The value with which the flow goes on.")];

/// What the call of an undo has like a node.
const UNDO: [&str; 7] = ["function", "pipeline", "url", "input", "method", "headers", "query"];

const HOOK: &[Key] = &[
    key("source", Text, "", "The function whose output it is."),
    key("destination", Text, "", "The function that gets it."),
];

const TARGET: &[Key] = &[
    key("concurrency", Count(1, 1_000_000), "", "Most calls at once, of all engines together."),
    key("rate", Rate, "", "Most calls in a time, of each engine: `50/s`, `100/m`, `1000/h`."),
];

const PIPELINE: &[Key] = &[
    key("model", Text, "", "The model's folder, or the pipeline's."),
    key("stages", Count(1, 256), "1", "In how many stages."),
];

/// Every section with its name, what it is, and its keys.
pub fn keys() -> Vec<(Section, &'static str, Vec<Key>)> {
    let like = |names: &[&str]| NODE.iter().filter(|key| names.contains(&key.name)).copied().collect::<Vec<_>>();
    vec![
        (Section::File, "file", FILE.to_vec()),
        (Section::Flow, "flow", FLOW.to_vec()),
        (Section::Node, "node", NODE.to_vec()),
        (Section::Step, "step", STEP.iter().copied().chain(like(&LIKE_A_NODE)).collect()),
        (Section::Wait, "wait", WAIT.to_vec()),
        (Section::Retry, "retry", RETRY.to_vec()),
        (Section::OnError, "on_error", ON_ERROR.to_vec()),
        (Section::Undo, "undo", like(&UNDO)),
        (Section::Hook, "hook", HOOK.to_vec()),
        (Section::Target, "target", TARGET.to_vec()),
        (Section::Pipeline, "pipeline", PIPELINE.to_vec()),
    ]
}

impl Section {
    /// Its keys.
    pub(super) fn names(self) -> Vec<&'static str> {
        let of = |keys: &[Key]| keys.iter().map(|key| key.name).collect::<Vec<_>>();
        match self {
            Self::File => of(FILE),
            Self::Flow => of(FLOW),
            Self::Node => of(NODE),
            Self::Step => of(STEP).into_iter().chain(LIKE_A_NODE).collect(),
            Self::Wait => of(WAIT),
            Self::Retry => of(RETRY),
            Self::OnError => of(ON_ERROR),
            Self::Undo => UNDO.to_vec(),
            Self::Hook => of(HOOK),
            Self::Target => of(TARGET),
            Self::Pipeline => of(PIPELINE),
        }
    }
}
