//! The function door: HTTP on a function's one port, with gRPC beside it.
//!
//! `POST /` takes a prompt and answers it; `/_/health`, `/_/ready` and `/metrics` are there on every stage. What is not for clients
//! may be [on a port of its own](routers_apart). OpenFaaS' contract decides much here: bodies arrive in chunks without a length, health must be 200 while weights load, streams need a last
//! event since a cut one looks like a whole one, and the answer's Content-Type is always set.

use crate::call::CallIds;
use crate::grpc;
use crate::stages::Stages;
use crate::workroom::Workroom;
use crate::{Intake, Readiness};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bodies::Bodies;
use stageline_base::{Fault, FaultClass, StageIndex};
use stageline_metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

mod answer;
mod ask;
mod bodies;
pub(crate) mod body;
mod delivery;
mod fields;
mod framing;
mod go_duration;
pub(crate) mod kinds;
mod messages;
mod opening;
mod parse;
pub(crate) mod refusal;
mod roster;
mod serve;
mod stall;
mod text;
pub(crate) mod visit;
mod watched;

use refusal::{Refusal, json_of};
pub use serve::{SPARE_CONNECTIONS, serve};

/// What one client, and all together, may take.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Most requests at once; more are refused with 429. 0 is no limit, as in OpenFaaS' watchdog.
    pub max_inflight: usize,
    /// Whether `/_/ready` says no while there are so many.
    pub unready_when_full: bool,
    /// Most connections at once. For one more, the one that has waited longest for a request, or for the rest of one, is closed;
    /// if all serve requests, a few more may look at health, readiness and metrics.
    pub max_connections: usize,
    /// Most connections at once from one address; more are closed. 0 is no limit.
    pub max_connections_per_peer: usize,
    /// How long an answer may take where the request says nothing.
    pub default_deadline: Duration,
    /// Longest deadline that a request may ask for.
    pub max_deadline: Duration,
    /// How long a request's head may take to arrive, and a new connection to send anything.
    pub head_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 4 << 20,
            max_inflight: 0,
            unready_when_full: false,
            max_connections: 4096,
            max_connections_per_peer: 0,
            default_deadline: Duration::from_secs(60),
            max_deadline: Duration::from_secs(3600),
            head_timeout: Duration::from_secs(10),
            // Longer than most clients keep an idle connection: they should be the ones that close it.
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// Says whether this stage takes work now.
pub type ReadinessSource = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// What the HTTP services of a stage need.
#[derive(Clone)]
pub struct HttpState {
    /// Where requests go; `None` on every stage but the first.
    pub intake: Option<Arc<dyn Intake>>,
    /// What `/_/ready` asks.
    pub readiness: ReadinessSource,
    /// What `/metrics` shows, and where requests are counted.
    pub metrics: Arc<Metrics>,
    /// The limits.
    pub limits: HttpLimits,
    /// The pipeline's name.
    pub pipeline: String,
    /// This stage.
    pub stage: StageIndex,
    /// The stages here, past the door.
    pub stages: Arc<dyn Stages>,
}

/// What all bodies may take of memory together, in bytes, where each of them may take far less.
const BODIES_BYTES: usize = 64 << 20;

/// The state that requests share.
pub(super) struct Shared {
    pub(super) state: HttpState,
    /// One permit a request, if there is a limit.
    room: Option<Arc<Semaphore>>,
    pub(super) call_ids: CallIds,
    bodies: Arc<Bodies>,
    /// Where long bodies are read.
    workroom: Workroom,
}

/// What is to be had at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Everything.
    Whole,
    /// What clients need: prompts, health and readiness.
    Clients,
    /// What operators need: everything but prompts.
    Admin,
}

impl Shared {
    fn new(state: HttpState) -> Self {
        let room = match state.limits.max_inflight {
            0 => None,
            most => Some(Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))),
        };
        let bodies = Bodies::new(BODIES_BYTES.max(state.limits.max_body_bytes.saturating_mul(4)));
        Self { state, room, call_ids: CallIds::new(), bodies, workroom: Workroom::new() }
    }

    /// Where requests go.
    ///
    /// # Errors
    /// `Misdirected` on every stage but the first.
    pub(super) fn intake(&self) -> Result<&dyn Intake, Fault> {
        let HttpState { intake, pipeline, stage, .. } = &self.state;
        let message = || format!("this stage takes no prompts: send prompts to stage 0 of pipeline {pipeline}");
        intake.as_deref().ok_or_else(|| Fault::new(FaultClass::Misdirected, message()).at_stage(*stage))
    }

    /// A place among the requests at once; `None` where there is no limit.
    ///
    /// # Errors
    /// `Overloaded` if there is none.
    pub(super) fn place(&self) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        let place = self.room.as_ref().map(|room| Arc::clone(room).try_acquire_owned());
        place.transpose().map_err(|_| self.full())
    }

    /// The refusal of a request for which there is no room.
    fn full(&self) -> Fault {
        let most = self.state.limits.max_inflight;
        Fault::new(FaultClass::Overloaded, format!("there is no room: {most} requests are being served"))
    }

    fn is_full(&self) -> bool {
        self.room.as_ref().is_some_and(|room| room.available_permits() == 0)
    }
}

/// The HTTP and gRPC services of a stage.
pub fn router(state: HttpState) -> Router {
    routes(Arc::new(Shared::new(state)), Port::Whole)
}

/// The same on two ports: one for clients (prompts, health and readiness), one for operators (everything else, health and
/// readiness too).
pub fn routers_apart(state: HttpState) -> (Router, Router) {
    let shared = Arc::new(Shared::new(state));
    (routes(Arc::clone(&shared), Port::Clients), routes(shared, Port::Admin))
}

fn routes(shared: Arc<Shared>, port: Port) -> Router {
    // A route's `head` must be named, or `get` would answer it.
    let mut routes = Router::new()
        .route("/_/health", get(health).head(get_only).fallback(get_only))
        .route("/_/ready", get(ready).head(get_only).fallback(get_only));
    if port != Port::Admin {
        routes = routes.route("/", post(ask::ask).fallback(post_only));
    }
    if port != Port::Clients {
        routes = routes.route("/metrics", get(metrics).head(get_only).fallback(get_only));
    }
    let unknown = move |State(shared): State<Arc<Shared>>, request: Request| unknown_path(shared, port, request);
    let routes = routes.fallback(unknown).with_state(Arc::clone(&shared));
    routes.merge(grpc::routes(shared, port)).layer(from_fn(timed))
}

/// Says how long an answer took to be ready, as OpenFaaS' watchdog does. When a stream will be, nobody knows yet.
async fn timed(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let mut response = next.run(request).await;
    let whole = response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| {
        let kind = kind.as_bytes();
        kind != b"text/event-stream" && !kind.starts_with(b"application/grpc")
    });
    if let (true, Ok(seconds)) = (whole, HeaderValue::from_str(&format!("{:.6}", begun.elapsed().as_secs_f64()))) {
        response.headers_mut().insert(HeaderName::from_static("x-duration-seconds"), seconds);
    }
    response
}

/// Alive, loading or not: OpenFaaS kills a function that says otherwise while it loads its weights.
async fn health() -> Response {
    plain("OK")
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match (shared.state.readiness)() {
        Readiness::NotReady(reason) => Refusal::from(Fault::new(FaultClass::Unavailable, reason)).into_response(),
        Readiness::Ready if shared.state.limits.unready_when_full && shared.is_full() => {
            Refusal::from(shared.full()).into_response()
        }
        Readiness::Ready => plain("OK"),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], shared.state.metrics.render()).into_response()
}

async fn unknown_path(shared: Arc<Shared>, port: Port, request: Request) -> Response {
    let known = match port {
        Port::Whole => "send prompts with POST /; there are /_/health, /_/ready and /metrics",
        Port::Clients => "send prompts with POST /; there are /_/health and /_/ready",
        Port::Admin => "there are /_/health, /_/ready and /metrics; prompts have a port of their own",
    };
    let refusal = Refusal::with_status(StatusCode::NOT_FOUND, format!("there is nothing at this path: {known}"));
    unread(shared, refusal, request).await
}

async fn get_only(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    wrong_method(shared, request, "GET").await
}

async fn post_only(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    wrong_method(shared, request, "POST").await
}

async fn wrong_method(shared: Arc<Shared>, request: Request, allowed: &'static str) -> Response {
    let message = format!("this path takes {allowed} only");
    let refusal = Refusal::with_status(StatusCode::METHOD_NOT_ALLOWED, message);
    let mut response = unread(shared, refusal, request).await;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Refuses `request` without reading what it says.
async fn unread(shared: Arc<Shared>, refusal: Refusal, request: Request) -> Response {
    let (head, body) = request.into_parts();
    body::unwanted(refusal, &head.headers, body, &shared.state.limits).await.into_response()
}

/// The JSON body that tells `fault`, outside a request.
pub(super) fn fault_body(fault: &Fault) -> String {
    json_of(fault, None).to_string()
}

fn plain(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
}
