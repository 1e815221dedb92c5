//! A flow as its file says it, checked: what a run needs to know of it, and nothing else.

use stageline_template::Expression;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Where something stands in a file, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// All that a flow file says.
#[derive(Debug, Default)]
pub struct File {
    /// Its flows, by name: those of `flows:`, and one for each entry of `async_hooks:`.
    pub flows: BTreeMap<String, Flow>,
    /// The gateway of `provider:`, without a slash at the end.
    pub gateway: Option<String>,
    /// What targets bear, by the name of a function or the URL.
    pub limits: BTreeMap<String, TargetLimits>,
    /// Pipelines that may run in the flow's own process, by name.
    pub pipelines: BTreeMap<String, LocalPipeline>,
}

impl File {
    /// What a target bears.
    pub fn limits_of(&self, target: &Target) -> TargetLimits {
        let (Target::Function { name, .. } | Target::Pipeline(name) | Target::Url(name)) = target;
        self.limits.get(name).copied().unwrap_or_default()
    }
}

/// What a target bears, from all engines together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TargetLimits {
    /// Most calls at once.
    pub concurrency: Option<u32>,
    /// Most calls a second.
    pub rate: Option<f64>,
}

/// A pipeline that a process may run for its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPipeline {
    /// The model's folder, or the pipeline's, as the file says it.
    pub model: String,
    /// In how many stages.
    pub stages: u32,
}

/// One flow.
#[derive(Debug)]
pub struct Flow {
    /// A DNS label.
    pub name: String,
    /// What it does.
    pub graph: Graph,
    /// What it gives; `None`: the only leaf's output, or that of each leaf by its id.
    pub output: Option<Template>,
    /// The longest that a run may take.
    pub timeout: Duration,
    /// How long an ended run is kept.
    pub retain: Duration,
    /// Who is told of a run's end whose caller names nobody.
    pub callback_url: Option<String>,
    /// Most runs that have not ended; more are refused.
    pub max_live: Option<u32>,
    /// 0, or 1 for runs that go first.
    pub priority: u8,
    /// What is done when a run has failed. Sees `error`.
    pub on_failure: Graph,
    /// What is done at the end of each run. Sees `run.state`, and `error` (`none` where there is none).
    pub finally: Graph,
}

/// Nodes that wait for each other, without a circle.
#[derive(Debug, Default)]
pub struct Graph {
    /// In the file's order.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// Where the node of that id is among them.
    pub fn place_of(&self, id: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// Where the nodes are that no other waits for.
    pub fn leaves(&self) -> Vec<usize> {
        let waited_for = |place: &usize| self.nodes.iter().any(|node| node.parents.binary_search(place).is_ok());
        (0..self.nodes.len()).filter(|place| !waited_for(place)).collect()
    }
}

/// One thing that a flow does.
#[derive(Debug)]
pub struct Node {
    /// Its name among the nodes of its graph.
    pub id: String,
    /// Where the file says it.
    pub place: Place,
    /// What it does.
    pub does: Does,
    /// With what.
    pub input: Input,
    /// The nodes of the same graph that it waits for: those that its expressions name, those that expressions inside of a group
    /// name, and those of `after`. Sorted, without repetition.
    pub parents: Vec<usize>,
    /// Those of them that bring data: what is in `parents` without those that only `after` names.
    pub sources: Vec<usize>,
    /// It is skipped where this is false.
    pub when: Option<Expression>,
    /// It is done for each item.
    pub each: Option<Each>,
    /// The longest that one call may take; of a wait for a signal, the longest wait.
    pub timeout: Duration,
    /// When a call that failed is made again.
    pub retry: Retry,
    /// What it gives where it failed; `None`: then the run fails.
    pub on_error: Option<Template>,
    /// What takes back what it did, should the run fail later. Sees its output as `output`.
    pub undo: Option<Undo>,
    /// Only the run's end waits for it.
    pub is_async: bool,
    /// Its tokens are the run's stream.
    pub streams: bool,
}

/// What a node does.
#[derive(Debug)]
pub enum Does {
    /// It calls somebody.
    Call(Call),
    /// It gives a value.
    Set(Template),
    /// It waits.
    Wait(Wait),
    /// It does what its nodes do, once or for each item. They see what is around it.
    Group(Graph),
    /// It does what another flow of the file does, in the same run. Its nodes see only its own input.
    Flow(String),
}

/// A call.
#[derive(Debug)]
pub struct Call {
    /// Whom.
    pub target: Target,
    /// HTTP's method; for functions and URLs.
    pub method: String,
    /// Headers beside those that every call has; for functions and URLs.
    pub headers: Vec<(String, Template)>,
    /// What is in the URL behind `?`; for functions and URLs.
    pub query: Vec<(String, Template)>,
}

/// Who is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A function behind the gateway.
    Function {
        /// Its name.
        name: String,
        /// It is called by `/async-function/`, and calls back.
        calls_back: bool,
    },
    /// A pipeline of models.
    Pipeline(String),
    /// Anybody.
    Url(String),
}

/// For what a node waits. Where it is a text of expressions, it is read when the node is begun.
#[derive(Debug)]
pub enum Wait {
    /// So long: `10s`.
    For(Template),
    /// Until then: RFC 3339, or seconds since 1970.
    Until(Template),
    /// Until somebody says this to the run. What was said is the node's output.
    Signal(String),
}

/// With what a node is done.
#[derive(Debug)]
pub enum Input {
    /// Nothing is said: the item of `foreach`; else the output of the one source, or that of each source by its id; else the input of
    /// what it is in.
    Usual,
    /// This; a `null` is nothing at all.
    Given(Template),
}

/// For what items a node is done.
#[derive(Debug)]
pub struct Each {
    /// A list or a map.
    pub over: Expression,
    /// How many at once.
    pub parallel: u32,
    /// How many may fail.
    pub tolerate: Tolerate,
}

/// How many items may fail. What they give is `none`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerate {
    /// So many.
    Items(u32),
    /// So many in a hundred of all.
    Percent(f64),
}

/// When a call that failed is made again.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Calls altogether.
    pub attempts: u32,
    /// The pause before the second.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
    /// How much longer each pause is than the one before.
    pub factor: f64,
    /// After what; `None`: after what may pass by itself.
    pub on: Option<Vec<Failure>>,
    /// The longest that all of them may take.
    pub within: Option<Duration>,
}

impl Default for Retry {
    /// Four calls, with pauses of half a second to a minute.
    fn default() -> Self {
        let (min, max) = (Duration::from_millis(500), Duration::from_secs(60));
        Self { attempts: 4, min, max, factor: 2.0, on: None, within: None }
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody was reached: `connect`.
    Connect,
    /// It took too long: `timeout`.
    Timeout,
    /// An answer with this status of HTTP: `503`; or with any of a hundred: `5xx`, as `5`.
    Status(u16),
}

/// What takes back what a node did.
#[derive(Debug)]
pub struct Undo {
    /// Whom it calls.
    pub call: Call,
    /// With what; the node's output where nothing is said.
    pub input: Input,
}

/// A value with expressions in it.
#[derive(Clone, Debug)]
pub enum Template {
    /// Without any.
    Plain(serde_json::Value),
    /// One expression, whose value keeps its type.
    Value(Expression),
    /// A text with expressions in it.
    Text(Vec<Piece>),
    /// A list.
    List(Vec<Template>),
    /// A map.
    Map(Vec<(String, Template)>),
}

/// A part of a text.
#[derive(Clone, Debug)]
pub enum Piece {
    /// As it is.
    Plain(String),
    /// What this gives.
    Value(Expression),
}
