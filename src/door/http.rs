//! The function door: HTTP on a function's one port, with gRPC beside it.
//!
//! `POST /` takes a prompt and answers it; `/_/health`, `/_/ready` and `/metrics` are there on every stage. OpenFaaS' contract
//! decides much here: bodies arrive in chunks without a length, health must be 200 while weights load, streams need a last
//! event since a cut one looks like a whole one, and the answer's Content-Type is always set.

use crate::base::{Fault, FaultClass, StageIndex};
use crate::door::call::{Call, CallIds};
use crate::door::grpc;
use crate::door::stages::Stages;
use crate::door::{Intake, Readiness};
use crate::server::metrics::Metrics;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

mod answer;
mod ask;
mod body;
mod fields;
mod go_duration;
mod opening;
mod parse;
mod refusal;
mod serve;
mod stall;

use refusal::{Refusal, json_of};
pub use serve::serve;

/// What one client, and all together, may take.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Most requests at once; more are refused with 429. 0 is no limit, as in OpenFaaS' watchdog.
    pub max_inflight: usize,
    /// Most connections at once; more wait.
    pub max_connections: usize,
    /// How long an answer may take where the request says nothing.
    pub default_deadline: Duration,
    /// Longest deadline that a request may ask for.
    pub max_deadline: Duration,
    /// How long a request's head may take to arrive, and a connection may be idle.
    pub head_timeout: Duration,
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
            max_connections: 4096,
            default_deadline: Duration::from_secs(60),
            max_deadline: Duration::from_secs(3600),
            // Longer than most clients keep an idle connection: they should be the ones that close it.
            head_timeout: Duration::from_secs(75),
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

/// The state that requests share.
pub(super) struct Shared {
    pub(super) state: HttpState,
    /// One permit a request, if there is a limit.
    pub(super) room: Option<Arc<Semaphore>>,
    pub(super) call_ids: CallIds,
}

impl Shared {
    /// Where requests go.
    ///
    /// # Errors
    /// `Misdirected` on every stage but the first.
    pub(super) fn intake(&self) -> Result<&dyn Intake, Fault> {
        let HttpState { intake, pipeline, stage, .. } = &self.state;
        let message = || format!("this stage takes no prompts: send prompts to stage 0 of pipeline {pipeline}");
        intake.as_deref().ok_or_else(|| Fault::new(FaultClass::Misdirected, message()).at_stage(*stage))
    }

    /// Gives `call` its place among the requests at once.
    ///
    /// # Errors
    /// `Overloaded` if there is none.
    pub(super) fn take_room(&self, call: &mut Call) -> Result<(), Fault> {
        if let Some(room) = &self.room {
            call.takes(Arc::clone(room).try_acquire_owned().map_err(|_| self.full())?);
        }
        Ok(())
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
pub fn router(state: HttpState) -> axum::Router {
    let room = match state.limits.max_inflight {
        0 => None,
        most => Some(Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))),
    };
    let shared = Arc::new(Shared { state, room, call_ids: CallIds::new() });
    // A route's `head` must be named, or `get` would answer it.
    axum::Router::new()
        .route("/", post(ask::ask).fallback(|| wrong_method("POST")))
        .route("/_/health", get(health).head(|| wrong_method("GET")).fallback(|| wrong_method("GET")))
        .route("/_/ready", get(ready).head(|| wrong_method("GET")).fallback(|| wrong_method("GET")))
        .route("/metrics", get(metrics).head(|| wrong_method("GET")).fallback(|| wrong_method("GET")))
        .with_state(shared.clone())
        .merge(grpc::routes(shared))
        .fallback(unknown_path)
}

/// Alive, loading or not: OpenFaaS kills a function that says otherwise while it loads its weights.
async fn health() -> Response {
    plain("OK")
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match (shared.state.readiness)() {
        Readiness::NotReady(reason) => Refusal::from(Fault::new(FaultClass::Unavailable, reason)).into_response(),
        Readiness::Ready if shared.is_full() => Refusal::from(shared.full()).into_response(),
        Readiness::Ready => plain("OK"),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], shared.state.metrics.render()).into_response()
}

async fn unknown_path() -> Response {
    let known = "there is nothing at this path: send prompts with POST /; there are /_/health, /_/ready and /metrics";
    Refusal::with_status(StatusCode::NOT_FOUND, known).into_response()
}

async fn wrong_method(allowed: &'static str) -> Response {
    let message = format!("this path takes {allowed} only");
    let mut response = Refusal::with_status(StatusCode::METHOD_NOT_ALLOWED, message).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The JSON body that tells `fault`, outside a request.
pub(super) fn fault_body(fault: &Fault) -> String {
    json_of(fault, None).to_string()
}

fn plain(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
}
