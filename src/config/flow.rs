//! The settings of flows, checked.

use crate::config::check::{MANY, batching, device, nats};
use crate::config::door::hosts;
use crate::config::raw::Reader;
use crate::config::{BatchingConfig, DeviceConfig, NatsConfig, parse, settings as s};
use stageline_door::outgoing::Allowed;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `stageline flow`.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowConfig {
    /// What to do.
    pub order: FlowOrder,
    /// With what a flow is run: text, `@` and a file, or `-`.
    pub input: Option<String>,
    /// Show what happens in it.
    pub follow: bool,
    /// How it is exported.
    pub format: FlowShape,
    /// JSON rather than text.
    pub json: bool,
    /// Where functions are, whatever the file says.
    pub gateway: Option<String>,
    /// Where secrets are.
    pub secrets: PathBuf,
    /// The flow of `POST /`.
    pub only: Option<String>,
    /// Most runs in hand.
    pub max_runs: usize,
    /// Largest value of a run.
    pub max_value_bytes: u64,
    /// What the file's pipelines run on.
    pub device: DeviceConfig,
    /// How they batch.
    pub batching: BatchingConfig,
    /// The broker, where runs are kept there.
    pub nats: Option<NatsConfig>,
    /// The file, where they are kept in one that is named.
    pub store: Option<PathBuf>,
    /// Whether nothing is answered before it is on the disk.
    pub sync: bool,
    /// Most bytes that are kept.
    pub max_store_bytes: u64,
    /// Most runs that wait.
    pub max_stored: u64,
    /// Hosts that calls of URLs and callbacks may go to.
    pub allow: Vec<Allowed>,
    /// What callbacks are signed with.
    pub secret_file: Option<PathBuf>,
    /// Where the door is.
    pub http: SocketAddr,
    /// Who may ask.
    pub api_keys: Option<PathBuf>,
    /// Most requests at once.
    pub max_inflight: Option<u32>,
    /// Most connections, and from one address.
    pub max_connections: (usize, usize),
    /// How long a caller may wait for a run's end.
    pub exec_timeout: Option<Duration>,
    /// How long whoever routes here takes to see that it is not ready.
    pub healthcheck_interval: Duration,
    /// What it has to end within.
    pub drain_timeout: Duration,
    /// The engine that is asked.
    pub target: String,
    /// The key that it asks for.
    pub key: Option<String>,
    /// How many runs are listed, of which flow, and how they stand.
    pub listed: (usize, Option<String>, Option<String>),
    /// From which node on.
    pub from: Option<String>,
    /// Whether what was done is taken back.
    pub undo: bool,
}

/// What to do with flows and runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowOrder {
    /// Say what is wrong with a file.
    Check(PathBuf),
    /// Serve its flows.
    Up(PathBuf),
    /// Run one of them here.
    Run(PathBuf, String),
    /// Draw one of them.
    Export(PathBuf, String),
    /// List runs.
    List,
    /// Show one.
    Show(String),
    /// Give one an order: its word.
    Order(String, &'static str),
    /// Say something to one, of that name.
    Signal(String, String, Option<String>),
}

/// How a flow is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowShape {
    /// Mermaid's.
    #[default]
    Mermaid,
    /// Graphviz'.
    Dot,
    /// Ours.
    Json,
    /// faas-flow's.
    Dag,
}

fn url(text: &str) -> Result<String, String> {
    match ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err("a URL is expected, such as http://127.0.0.1:8080".into()),
    }
}

pub(super) fn flow(r: &mut Reader) -> FlowConfig {
    let words = r.all(&s::FLOW_WORDS, parse::text);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_id = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let told = |word: &str| ["cancel", "pause", "resume", "retry"].into_iter().find(|known| *known == word);
    let order = match words[..] {
        ["check", file] => FlowOrder::Check(file.into()),
        ["up", file] => FlowOrder::Up(file.into()),
        ["run", file, name] => FlowOrder::Run(file.into(), name.to_owned()),
        ["export", file, name] => FlowOrder::Export(file.into(), name.to_owned()),
        ["list"] => FlowOrder::List,
        ["show", id] if is_id(id) => FlowOrder::Show(id.to_owned()),
        ["signal", id, name] if is_id(id) => FlowOrder::Signal(id.to_owned(), name.to_owned(), None),
        ["signal", id, name, value] if is_id(id) => {
            FlowOrder::Signal(id.to_owned(), name.to_owned(), Some(value.to_owned()))
        }
        [word, id] if told(word).is_some() && is_id(id) => {
            FlowOrder::Order(id.to_owned(), told(word).unwrap_or("cancel"))
        }
        _ => {
            r.problems.0.push(
                "say what to do: `check FILE`, `up FILE`, `run FILE NAME`, `export FILE NAME`, `list`, or `show`, `cancel`, `pause`, \
                 `resume`, `retry` or `signal` and a run's id, 32 hexadecimal digits; a signal's name and value stand behind it"
                    .into(),
            );
            FlowOrder::List
        }
    };
    let timeout: Duration = r.value(&s::EXEC_TIMEOUT, parse::duration);
    let inflight: u32 = r.value(&s::MAX_INFLIGHT, parse::count(0..=MANY));
    let nats = nats(r);
    let store = r.optional(&s::STORE, parse::path);
    if nats.is_some() && store.is_some() {
        let origin = r.origin(&s::STORE);
        r.problems.0.push(format!("{origin}: runs are kept in a file or, with --nats, at the broker: say one of both"));
    }
    FlowConfig {
        order,
        input: r.optional(&s::FLOW_INPUT, |text| Ok(text.to_owned())),
        follow: r.switch(&s::FOLLOW),
        format: r.value(
            &s::FLOW_FORMAT,
            parse::word(&[
                ("mermaid", FlowShape::Mermaid),
                ("dot", FlowShape::Dot),
                ("json", FlowShape::Json),
                ("dag", FlowShape::Dag),
            ]),
        ),
        json: r.switch(&s::JSON),
        gateway: r.optional(&s::GATEWAY, url),
        secrets: r.value(&s::SECRETS, parse::path),
        only: r.optional(&s::ONLY, parse::text),
        max_runs: r.value(&s::MAX_RUNS, parse::count(1..=MANY)),
        max_value_bytes: r.value(&s::MAX_VALUE_BYTES, parse::bytes),
        device: device(r),
        batching: batching(r),
        nats,
        store,
        sync: r.value(&s::STORE_SYNC, parse::word(&[("second", false), ("always", true)])),
        max_store_bytes: r.value(&s::MAX_STORE_BYTES, parse::bytes),
        max_stored: r.value(&s::MAX_STORED, parse::count(1..=u64::from(u32::MAX))),
        allow: r.all(&s::CALLBACK_ALLOW, hosts).into_iter().flatten().collect(),
        secret_file: r.optional(&s::CALLBACK_SECRET_FILE, parse::file),
        http: r.optional(&s::HTTP, parse::address).unwrap_or_else(|| ([127, 0, 0, 1], 0).into()),
        api_keys: r.optional(&s::API_KEYS, parse::file),
        max_inflight: (inflight > 0).then_some(inflight),
        max_connections: (
            r.value(&s::MAX_CONNECTIONS, parse::count(1..=MANY)),
            r.value(&s::MAX_CONNECTIONS_PER_PEER, parse::count(0..=MANY)),
        ),
        exec_timeout: (!timeout.is_zero()).then_some(timeout),
        healthcheck_interval: r.value(&s::HEALTHCHECK_INTERVAL, parse::duration),
        drain_timeout: r.value(&s::DRAIN_TIMEOUT, parse::duration),
        target: r.value(&s::FLOW_TARGET, url),
        key: r.optional(&s::KEY, parse::text),
        listed: (
            r.value(&s::LIMIT, parse::count(1..=10_000)),
            r.optional(&s::FLOW_NAME, parse::text),
            r.optional(&s::FLOW_STATUS, parse::text),
        ),
        from: r.optional(&s::FROM, parse::text),
        undo: r.switch(&s::UNDO),
    }
}
