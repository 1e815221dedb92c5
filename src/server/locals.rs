//! Pipelines that flows ask in their own process: by the same store, so that what was asked is not computed again after any death.

use crate::assemble::new_replica;
use futures::future::join_all;
use stageline_base::{Fault, FaultClass};
use stageline_door::Intake;
use stageline_door::api::forms::AllForms;
use stageline_door::durable::{Keeper, KeeperSetup, Question};
use stageline_door::outgoing::Outgoing;
use stageline_flow::run::{CallOutcome, Calling, FailureClass};
use stageline_metrics::Metrics;
use stageline_runner::{Answered, Asking, Pipelines};
use stageline_store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a question may take that names no time, and how long its answer is kept: longer than its run's next owner needs to ask.
const TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const KEPT: Duration = Duration::from_secs(3600);

/// A pipeline in this process.
#[derive(Clone)]
pub struct Local {
    /// What flows call it.
    pub name: String,
    /// Its manifest's digest, in hexadecimal.
    pub manifest: String,
    /// Who takes its requests.
    pub intake: Arc<dyn Intake>,
    /// Most requests at once.
    pub at_once: usize,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// See the module. What is not here is asked for at the broker, where there is one.
pub struct Locals {
    here: BTreeMap<String, (Arc<Keeper>, Arc<dyn Intake>)>,
    others: Option<Asking>,
}

impl Locals {
    /// With what is asked and answered kept in `store`.
    ///
    /// # Errors
    /// A manifest's digest is none.
    pub fn new(locals: &[Local], store: &Arc<dyn Store>, others: Option<Asking>) -> Result<Self, Fault> {
        let mut here = BTreeMap::new();
        for local in locals {
            let keeper = Keeper::new(KeeperSetup {
                store: Arc::clone(store),
                me: new_replica(),
                manifest: local.manifest.clone(),
                at_once: local.at_once,
                timeout: TIMEOUT,
                keep: KEPT,
                name: local.name.clone(),
                outgoing: Outgoing::default(),
                callback_url: None,
                join_always: false,
                metrics: Arc::clone(&local.metrics),
                forms: &AllForms,
            })?;
            here.insert(local.name.clone(), (keeper, Arc::clone(&local.intake)));
        }
        Ok(Self { here, others })
    }

    /// Whether nobody could be asked.
    pub fn is_empty(&self) -> bool {
        self.here.is_empty() && self.others.is_none()
    }

    /// Has what is asked be answered, until `closing`.
    pub fn work(&self, closing: &CancellationToken, release: &CancellationToken) -> impl Future<Output = ()> + use<> {
        let working: Vec<_> = self
            .here
            .values()
            .map(|(keeper, intake)| Arc::clone(keeper).work(Arc::clone(intake), closing.clone(), release.clone()))
            .collect();
        async move { drop(join_all(working).await) }
    }
}

fn failed(fault: Fault) -> CallOutcome {
    let (class, transient, counts) = match fault.class {
        FaultClass::DeadlineExceeded => (FailureClass::Timeout, true, true),
        FaultClass::Overloaded | FaultClass::Unavailable => (FailureClass::Status(fault.class.row().http), true, false),
        class => (FailureClass::Status(class.row().http), false, true),
    };
    CallOutcome { class, reason: fault.message, retry_after: fault.retry_after, transient, counts }
}

#[async_trait::async_trait]
impl Pipelines for Locals {
    async fn ask(&self, pipeline: &str, call: &Calling, body: (&str, bytes::Bytes)) -> Answered {
        let Some((keeper, intake)) = self.here.get(pipeline) else {
            return match &self.others {
                Some(others) => others.ask(pipeline, call, body).await,
                None => {
                    let fault = Fault::invalid(format!(
                        "there is no pipeline `{pipeline}` here: name it under `pipelines` in the file, or say --nats URL"
                    ));
                    Err(failed(fault))
                }
            };
        };
        let question = Question { call_id: &call.id, body: (body.0, &body.1), time: call.timeout };
        let (status, kind, text) = keeper.ask(&**intake, question).await.map_err(failed)?;
        match status {
            200 => Ok((kind.to_owned(), text.into())),
            status => {
                let class = FailureClass::Status(status);
                Err(CallOutcome { class, reason: text, retry_after: None, transient: false, counts: true })
            }
        }
    }
}
