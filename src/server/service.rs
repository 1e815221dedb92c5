//! The life of a server: it listens, loads, is ready, serves, and drains.

use crate::assemble::Serving;
use crate::host::Host;
use crate::lobby::Lobby;
use crate::ports::{Ports, Served};
use stageline_base::{Fault, StageIndex};
use stageline_door::api::nats::NatsDoor;
use stageline_door::durable::Keeper;
use stageline_door::keys::Keys;
use stageline_door::{Intake, NoStore, SiteSetup};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long answers that have ended may take to reach their clients, once the process is about to end.
const DELIVERY: Duration = Duration::from_secs(2);

/// How a server ends.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// How long whoever routes to it takes to see that it is not ready: until then a door takes new requests.
    pub healthcheck_interval: Duration,
    /// What it has to finish within. What is left then is ended or given back.
    pub drain_timeout: Duration,
}

/// What the doors of a server know of clients and their requests.
#[derive(Clone)]
pub struct Doors {
    /// Keys of clients, where they are asked for.
    pub keys: Option<Arc<Keys>>,
    /// Who keeps durable requests, or why nobody does.
    pub keeper: Result<Arc<Keeper>, NoStore>,
}

impl Default for Doors {
    /// They ask nobody who it is, and keep nothing.
    fn default() -> Self {
        Self { keys: None, keeper: Err(NoStore::Unasked) }
    }
}

/// Answers at `ports` from the first moment, has `start` load, serves `stage` of `host`, and drains when `stop` resolves. The stage is
/// the first one that is served here. What clients may is said by `doors`.
///
/// # Errors
/// What `start` says, or that the pump has ended unasked.
pub async fn serve(
    (host, stage): (&Host, StageIndex),
    (ports, doors): (Ports, Doors),
    ending: Ending,
    start: impl Future<Output = Result<Serving, Fault>>,
    stop: impl Future<Output = ()>,
) -> Result<(), Fault> {
    let address = ports.address()?;
    let (pipeline, options) = (host.pipeline.overview(), &host.pipeline.options);
    let lobby = Arc::new(Lobby::new(pipeline, (options.max_queue, options.stage_timeout)));
    let site = site((host, stage), &lobby, (&ports, doors.clone()));
    let answering = ports.serve(site);
    let mut stop = std::pin::pin!(stop);
    let started = tokio::select! {
        serving = start => serving.map(Some),
        () = &mut stop => Ok(None),
    };
    let mut serving = match started {
        Ok(Some(serving)) => serving,
        not_serving => {
            lobby.fail("the stage does not start: send the request to another replica");
            answering.end(DELIVERY).await;
            return not_serving.map(|_| ());
        }
    };
    let reception = serving.reception.clone().map(|reception| reception as Arc<dyn Intake>);
    lobby.open(reception, serving.access.clone());
    let held = serving.held.clone();
    tracing::info!(stage, %address, pipeline = host.pipeline.name, "ready");
    let closing_nats = CancellationToken::new();
    let release = CancellationToken::new();
    let keeper = doors.keeper.ok().filter(|_| stage == 0);
    let owning = keeper.clone().map(|keeper| {
        let (closing, release) = (serving.drain.begin.clone(), release.clone());
        tokio::spawn(keeper.work(lobby.clone(), closing, release))
    });
    let on_nats = if stage == 0 { answer_nats(&serving, &answering, &closing_nats) } else { None };
    tokio::select! {
        () = &mut stop => {}
        never = lobby.follow(held) => match never {},
        done = serving.ended() => {
            done?;
            return Err(Fault::internal("the pump has ended unasked"));
        }
    }
    let last = Instant::now() + ending.drain_timeout;
    tracing::info!(stage, "draining");
    lobby.close();
    if stage == 0 {
        // Whoever routes to us has not seen yet that we are not ready: until they have, their requests are welcome.
        tokio::time::sleep(ending.healthcheck_interval.min(ending.drain_timeout)).await;
    }
    closing_nats.cancel();
    serving.drain.begin.cancel();
    let done = match timeout_at(last, serving.ended()).await {
        Ok(done) => Ok(done),
        Err(_) => {
            tracing::warn!(stage, "drain_timeout has passed: what is left is ended or given back");
            serving.drain.end.cancel();
            timeout(DELIVERY, serving.ended()).await
        }
    };
    match done {
        Ok(done) => done?,
        Err(_) => tracing::warn!(stage, "the device is still at work: it ends with the process"),
    }
    release.cancel();
    if let Some(keeper) = keeper {
        keeper.leave();
    }
    if let Some(mut owning) = owning
        && timeout(DELIVERY, &mut owning).await.is_err()
    {
        owning.abort();
        tracing::warn!("the store does not answer: durable requests are another door's when their leases have run out");
    }
    // With the broker away the door on NATS would wait for it.
    let on_nats = async {
        if let Some(answering) = on_nats {
            delivered(answering).await;
        }
    };
    tokio::join!(answering.end(DELIVERY), on_nats);
    tracing::info!(stage, "drained");
    Ok(())
}

fn site((host, stage): (&Host, StageIndex), lobby: &Arc<Lobby>, (ports, doors): (&Ports, Doors)) -> SiteSetup {
    SiteSetup {
        intake: (stage == 0).then(|| lobby.clone() as Arc<dyn Intake>),
        readiness: lobby.readiness(),
        metrics: host.metrics.clone(),
        limits: ports.limits().clone(),
        pipeline: host.pipeline.name.clone(),
        stage,
        keys: doors.keys,
        keeper: doors.keeper,
        stages: lobby.clone(),
    }
}

/// Answers what comes by NATS, where there is a broker, until `closing`.
fn answer_nats(serving: &Serving, answering: &Served, closing: &CancellationToken) -> Option<JoinHandle<Vec<()>>> {
    let net = serving.net.clone()?;
    let subjects = [net.subjects().ask(), net.subjects().ask_digest()];
    let doors = subjects.map(|subject| {
        let door = NatsDoor::new(net.client().clone(), net.errors(), answering.site.clone());
        door.serve(subject, closing.clone())
    });
    Some(tokio::spawn(futures::future::join_all(doors)))
}

/// Waits until the last answers are with their clients; one that does not take its answer does not keep the process.
async fn delivered<T>(mut answering: JoinHandle<T>) {
    if tokio::time::timeout(DELIVERY, &mut answering).await.is_err() {
        answering.abort();
    }
}
