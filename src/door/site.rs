//! What the doors of a stage share, whatever they speak: where requests go, who has room, how long things may take.

use crate::bodies::Bodies;
use crate::call_ids::CallIds;
use crate::durable::Keeper;
use crate::keys::Keys;
use crate::stages::Stages;
use crate::workroom::Workroom;
use crate::{Intake, Readiness};
use axum::http::HeaderMap;
use stageline_base::{Fault, FaultClass, StageIndex};
use stageline_metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// What one client, and all together, may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Most requests at once, if there is a limit; more are refused with 429.
    pub max_inflight: Option<u32>,
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 4 << 20,
            max_inflight: None,
            unready_when_full: false,
            max_connections: 4096,
            max_connections_per_peer: 0,
            default_deadline: Duration::from_secs(300),
            max_deadline: Duration::from_secs(300),
            head_timeout: Duration::from_secs(10),
            // Longer than most clients keep an idle connection: they should be the ones that close it.
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The most time that a request may take whose client has such `patience`: nobody is served for longer than the longest
    /// deadline, whatever a client waits for.
    pub(crate) fn longest(&self, patience: Option<Duration>) -> Duration {
        patience.unwrap_or(self.max_deadline).min(self.max_deadline)
    }
}

/// Why a door keeps no requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoStore {
    /// It was started without a store.
    Unasked,
    /// Its store cannot be used, for this reason.
    Unusable(String),
}

impl NoStore {
    /// What a client is told.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Unasked => "this door keeps no requests: start it with --store FILE, or with --nats".to_owned(),
            Self::Unusable(why) => format!("this door keeps no requests: {why}"),
        }
    }
}

/// What the doors of a stage need.
#[derive(Clone)]
pub struct SiteSetup {
    /// Where requests go; `None` on every stage but the first.
    pub intake: Option<Arc<dyn Intake>>,
    /// Whether this stage takes work: what `/_/ready` and gRPC's health tell.
    pub readiness: watch::Receiver<Readiness>,
    /// What `/metrics` shows, and where requests are counted.
    pub metrics: Arc<Metrics>,
    /// The limits.
    pub limits: Limits,
    /// The pipeline's name.
    pub pipeline: String,
    /// This stage.
    pub stage: StageIndex,
    /// Keys of clients, where they are asked for.
    pub keys: Option<Arc<Keys>>,
    /// Who keeps durable requests, or why nobody does.
    pub keeper: Result<Arc<Keeper>, NoStore>,
    /// The stages here, past the door.
    pub stages: Arc<dyn Stages>,
}

/// What all bodies may take of memory together, in bytes, where each of them may take far less.
const BODIES_BYTES: usize = 64 << 20;

/// What all doors of a stage, whatever they speak, have in common: its setup, and what requests share.
pub struct Site {
    pub(crate) setup: SiteSetup,
    /// One permit a request, if there is a limit.
    room: Option<Arc<Semaphore>>,
    pub(crate) call_ids: CallIds,
    pub(crate) bodies: Arc<Bodies>,
    /// Where long bodies are read.
    pub(crate) workroom: Workroom,
}

/// What is to be had at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// Everything.
    Whole,
    /// What clients need: prompts, health and readiness.
    Clients,
    /// What operators need: everything but prompts.
    Admin,
}

impl Site {
    /// A site without requests.
    pub fn new(setup: SiteSetup) -> Arc<Self> {
        let room = setup.limits.max_inflight.map(|most| Arc::new(Semaphore::new(most as usize)));
        let bodies = Bodies::new(BODIES_BYTES.max(setup.limits.max_body_bytes.saturating_mul(4)));
        Arc::new(Self { setup, room, call_ids: CallIds::new(), bodies, workroom: Workroom::new() })
    }

    /// Where it is counted what happens.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.setup.metrics
    }

    /// Where requests go.
    ///
    /// # Errors
    /// `Misdirected` on every stage but the first.
    pub(crate) fn intake(&self) -> Result<&dyn Intake, Fault> {
        let SiteSetup { intake, pipeline, stage, .. } = &self.setup;
        let message = || format!("this stage takes no prompts: send prompts to stage 0 of pipeline {pipeline}");
        intake.as_deref().ok_or_else(|| Fault::new(FaultClass::Misdirected, message()).at_stage(*stage))
    }

    /// Whether clients need keys.
    pub(crate) fn asks_for_keys(&self) -> bool {
        self.setup.keys.is_some()
    }

    /// Whose request it is that comes with `headers`: nobody's where no keys are asked for.
    ///
    /// # Errors
    /// `Unauthenticated`.
    pub(crate) fn principal(&self, headers: &HeaderMap) -> Result<Arc<str>, Fault> {
        self.setup.keys.as_ref().map_or(Ok("".into()), |keys| keys.name(headers))
    }

    /// A place among the requests at once; `None` where there is no limit.
    ///
    /// # Errors
    /// `Overloaded` if there is none.
    pub(crate) fn place(&self) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        let place = self.room.as_ref().map(|room| Arc::clone(room).try_acquire_owned());
        place.transpose().map_err(|_| self.full())
    }

    /// The refusal of a request for which there is no room.
    pub(crate) fn full(&self) -> Fault {
        let most = self.setup.limits.max_inflight.unwrap_or(u32::MAX);
        Fault::new(FaultClass::Overloaded, format!("there is no room: {most} requests are being served"))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.room.as_ref().is_some_and(|room| room.available_permits() == 0)
    }
}
