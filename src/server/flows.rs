//! The life of an engine of flows: it keeps runs, owns them, answers, and drains.

use crate::assemble::new_replica;
pub use crate::locals::Local;
use crate::locals::Locals;
use crate::ports::Ports;
use crate::service::Ending;
use futures::future::BoxFuture;
use stageline_base::{Fault, FaultClass, StageIndex};
use stageline_core::{DirectOutput, DirectRun};
use stageline_door::api::flows::{FlowsSetup, router};
use stageline_door::keys::Keys;
use stageline_door::outgoing::Outgoing;
use stageline_door::stages::{Overview, Stages};
use stageline_door::{NoStore, Readiness, Site, SiteSetup};
use stageline_flow::definition::File;
use stageline_metrics::Metrics;
use stageline_runner::{Asking, HttpCaller, Keeper, KeeperSetup, Pipelines};
use stageline_store::{FileSettings, FileStore, Flush, JetStream, Settings, Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a job is its taker's.
const LEASE: Duration = Duration::from_secs(3);
/// How long what is beside the logs is kept: longer than any run and its answer.
const BLOBS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long owners may take to let go of their runs, and answers to reach their clients.
const LETTING_GO: Duration = Duration::from_secs(2);
/// What the engine's part of the broker is called.
const NAME: &str = "flows";

/// Where runs are kept.
#[derive(Clone)]
pub enum Kept {
    /// In a file, of which nothing is answered before it is on the disk where that is asked for.
    File(PathBuf, bool),
    /// At the broker, with other engines.
    Broker(async_nats::Client),
}

/// How flows are run.
#[derive(Clone)]
pub struct FlowsOrder {
    /// The text of their file, and what it says.
    pub text: String,
    /// The file, read.
    pub file: Arc<File>,
    /// Where runs are kept.
    pub kept: Kept,
    /// Most runs that wait, and most bytes of them.
    pub max_stored: u64,
    /// Most bytes that are kept.
    pub max_bytes: u64,
    /// Where functions are, whatever the file says.
    pub gateway: Option<String>,
    /// Where secrets are, a file each.
    pub secrets: Option<PathBuf>,
    /// Whom calls and callbacks may go to.
    pub outgoing: Outgoing,
    /// The key that the doors of pipelines ask for.
    pub key: Option<String>,
    /// Most runs that are owned at once.
    pub max_runs: usize,
    /// Largest value of a run, in bytes.
    pub max_value_bytes: u64,
    /// The pipelines that run in this process.
    pub locals: Vec<Local>,
    /// Where others are.
    pub broker: Option<async_nats::Client>,
}

fn unusable(error: &StoreError) -> Fault {
    Fault::new(FaultClass::Unavailable, error.to_string())
}

impl FlowsOrder {
    /// Who keeps the runs, and the digest by which they know the file.
    ///
    /// # Errors
    /// `Unavailable`, naming the store, if that cannot be used.
    pub async fn keeper(&self) -> Result<(Arc<Keeper>, String, Arc<Locals>), Fault> {
        let store: Arc<dyn Store> = match &self.kept {
            Kept::File(path, sync) => {
                let flush = if *sync { Flush::EachCommit } else { Flush::EverySecond };
                let (max_jobs, max_bytes, blob_age) = (self.max_stored, self.max_bytes, BLOBS_KEPT);
                let settings = FileSettings { flush, lease: LEASE, max_jobs, max_bytes, blob_age };
                Arc::new(FileStore::open(path, settings).map_err(|error| unusable(&error))?)
            }
            Kept::Broker(client) => {
                let settings = Settings {
                    name: format!("stageline-v1-{NAME}"),
                    subject: format!("stageline.v1.{NAME}.store"),
                    lease: LEASE,
                    max_jobs: self.max_stored,
                    max_bytes: self.max_bytes,
                    blob_age: BLOBS_KEPT,
                    replicas: 1,
                };
                Arc::new(JetStream::open(client.clone(), settings).await.map_err(|error| unusable(&error))?)
            }
        };
        let others = self.broker.clone().map(|client| Asking::new(client, self.key.clone()));
        let locals = Arc::new(Locals::new(&self.locals, &store, others)?);
        let pipelines = (!locals.is_empty()).then(|| Arc::clone(&locals) as Arc<dyn Pipelines>);
        let (outgoing, most) = (self.outgoing.clone(), self.max_value_bytes);
        let caller = HttpCaller::new(outgoing.clone(), self.gateway.clone(), pipelines, self.secrets.clone(), most);
        let caller = caller.map_err(|error| Fault::internal(format!("HTTP cannot be set up: {error}")))?;
        let keeper = Keeper::new(KeeperSetup {
            store,
            me: new_replica(),
            at_once: self.max_runs,
            caller: Arc::new(caller),
            outgoing,
            max_value_bytes: self.max_value_bytes,
        })?;
        let definition = keeper.define(&self.text, &self.file).await?;
        Ok((keeper, definition, locals))
    }
}

/// There are no stages of a model here.
struct NoStages;

impl Stages for NoStages {
    fn run(&self, _: Option<StageIndex>, _: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
        let fault = Fault::new(FaultClass::Misdirected, "this is a door of flows: it has no stages");
        Box::pin(async move { Err(fault) })
    }

    fn overview(&self) -> Overview {
        Overview::default()
    }
}

/// Keeps, owns and answers for runs at `ports` until `stop` resolves; `only` is the flow of `POST /`, if it is to be one's.
///
/// # Errors
/// The store cannot be used.
pub async fn serve_flows(
    order: FlowsOrder,
    (ports, keys): (Ports, Option<Arc<Keys>>),
    only: Option<String>,
    ending: Ending,
    stop: impl Future<Output = ()>,
) -> Result<(), Fault> {
    let address = ports.address()?;
    let (keeper, definition, locals) = order.keeper().await?;
    let (told, readiness) = watch::channel(Readiness::Ready);
    let metrics = Arc::new(Metrics::new(NAME, 0..0));
    let site = Site::new(SiteSetup {
        intake: None,
        readiness,
        metrics,
        limits: ports.limits().clone(),
        pipeline: NAME.to_owned(),
        stage: 0,
        keys,
        keeper: Err(NoStore::Unasked),
        stages: Arc::new(NoStages),
    });
    let (file, gateway) = (Arc::clone(&order.file), order.gateway.clone());
    let flows = FlowsSetup { site: Arc::clone(&site), keeper: Arc::clone(&keeper), file, definition, gateway, only };
    let answering = ports.serve_router(router(flows), site);
    let (closing, release) = (CancellationToken::new(), CancellationToken::new());
    let working = (Arc::clone(&keeper).work(closing.clone(), release.clone()), locals.work(&closing, &release));
    let mut owning = tokio::spawn(async move { tokio::join!(working.0, working.1) });
    // Last: whoever waits for this line may ask then.
    tracing::info!(%address, flows = order.file.flows.len(), "ready");
    stop.await;
    tracing::info!("draining");
    told.send_replace(Readiness::NotReady("this replica is shutting down".to_owned()));
    sleep(ending.healthcheck_interval.min(ending.drain_timeout)).await;
    closing.cancel();
    // What is owned goes on elsewhere, or when this engine is back: nothing is waited for but what is being said.
    release.cancel();
    if timeout(LETTING_GO, &mut owning).await.is_err() {
        owning.abort();
        tracing::warn!("the store does not answer: runs are another engine's when their leases have run out");
    }
    answering.end(LETTING_GO).await;
    tracing::info!("drained");
    Ok(())
}
