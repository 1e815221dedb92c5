//! The stages at work in this process, for whoever calls them directly.

use crate::pump::DirectCall;
use futures::future::BoxFuture;
use stageline_base::{Fault, FaultClass, StageIndex};
use stageline_core::{DirectOutput, DirectRun};
use stageline_door::stages::{Here, Overview, Stages};
use stageline_wire::Status;
use tokio::sync::{mpsc, oneshot, watch};

/// One stage, and where its pump takes calls.
pub(super) struct Entry {
    pub(super) here: Here,
    pub(super) calls: mpsc::Sender<DirectCall>,
}

/// See the module.
pub struct StageAccess {
    /// The pipeline without what is here and who lives.
    pub(super) pipeline: Overview,
    pub(super) entries: Vec<Entry>,
    pub(super) replicas: watch::Receiver<Vec<Status>>,
}

impl StageAccess {
    async fn run_there(&self, stage: Option<StageIndex>, run: DirectRun) -> Result<DirectOutput, Fault> {
        let entry = self.entries.iter().find(|entry| stage.is_none_or(|stage| entry.here.stage == stage));
        let entry = entry.ok_or_else(|| {
            let here: Vec<String> = self.entries.iter().map(|entry| entry.here.stage.to_string()).collect();
            let words = format!("this process does not serve that stage, only {}", here.join(", "));
            Fault::new(FaultClass::Misdirected, words)
        })?;
        let closed = || {
            let words = "the stage is shutting down: send the rows again, to another replica";
            Fault::new(FaultClass::Unavailable, words).at_stage(entry.here.stage)
        };
        let (reply, outcome) = oneshot::channel();
        // Dropped with this future: then nobody waits any more.
        let (_alive, gone) = oneshot::channel();
        entry.calls.send(DirectCall { run, reply, gone }).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }
}

impl Stages for StageAccess {
    fn run(&self, stage: Option<StageIndex>, run: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
        Box::pin(self.run_there(stage, run))
    }

    fn overview(&self) -> Overview {
        Overview {
            here: self.entries.iter().map(|entry| entry.here.clone()).collect(),
            replicas: self.replicas.borrow().clone(),
            ..self.pipeline.clone()
        }
    }
}
