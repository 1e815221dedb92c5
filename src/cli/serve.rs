//! `serve`: one stage of a pipeline, as a function's pod runs it.

use crate::cli::lobby::Lobby;
use crate::cli::pipeline::Site;
use crate::cli::ports::Ports;
use crate::cli::split::said;
use crate::config::{DoorConfig, ServeConfig};
use anyhow::{Context, bail};
use stageline_base::StageIndex;
use stageline_base::hex;
use stageline_door::Intake;
use stageline_door::SiteSetup;
use stageline_door::api::nats::NatsDoor;
use stageline_door::stages::Overview;
use stageline_server::{Pipeline, Serving};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long answers that have ended may take to reach their clients, once the process is about to end.
const DELIVERY: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// One line that says what is wrong.
pub async fn serve(config: ServeConfig) -> anyhow::Result<ExitCode> {
    // Before anything else takes its time: as the first process of a container it would not hear of a signal without a handler.
    let mut stop = Box::pin(until_told_to_stop());
    let site = Site::distributed(&config)?;
    let stages = site.pipeline.stages;
    if config.stage >= stages {
        bail!("there is no stage {}: the pipeline has {stages}, numbered from 0", config.stage);
    }
    match &config.nats {
        Some(nats) => {
            // Before the port is open: where only /_/health is asked, an open port takes all requests from the replica before.
            let broker = tokio::select! {
                broker = site.reach(config.stage, nats) => broker?,
                () = &mut stop => return Ok(ExitCode::SUCCESS),
            };
            let start = site.start_stage(config.stage, broker, &config.hop);
            answer_http(&site, config.stage, &config.door, start, stop).await
        }
        None if stages == 1 => answer_http(&site, 0, &config.door, site.start_embedded(), stop).await,
        None => {
            bail!("the pipeline has {stages} stages: say with --nats how they reach each other, or use `stageline up`")
        }
    }
}

/// Answers HTTP from the first moment, loads, serves, and drains when `stop` resolves.
pub async fn answer_http(
    site: &Site,
    stage: StageIndex,
    door: &DoorConfig,
    start: impl Future<Output = anyhow::Result<Serving>>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<ExitCode> {
    // Before the weights: whoever probes must find the function alive while it loads.
    let ports = Ports::bind(door, site.pipeline.options.longest).await?;
    let address = ports.address()?;
    let lobby = Arc::new(lobby(&site.pipeline));
    let readiness = lobby.clone();
    let intake: Option<Arc<dyn Intake>> = if stage == 0 { Some(lobby.clone()) } else { None };
    let state = SiteSetup {
        intake,
        readiness: Arc::new(move || readiness.readiness()),
        metrics: site.metrics.clone(),
        limits: ports.limits().clone(),
        pipeline: site.pipeline.name.clone(),
        stage,
        stages: lobby.clone(),
    };
    let closing_nats = CancellationToken::new();
    let answering = ports.serve(state);
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
            return not_serving.map(|_| ExitCode::SUCCESS);
        }
    };
    let reception = serving.reception.clone().map(|reception| reception as Arc<dyn Intake>);
    lobby.open(reception, serving.access.clone(), serving.held.clone());
    tracing::info!(stage, %address, pipeline = site.pipeline.name, "ready");
    let on_nats = serving.net.clone().filter(|_| stage == 0).map(|net| {
        let subjects = [net.subjects().ask(), net.subjects().ask_digest()];
        let doors = subjects.map(|subject| {
            let door = NatsDoor::new(net.client().clone(), net.errors(), answering.router.clone());
            door.serve(subject, closing_nats.clone())
        });
        tokio::spawn(futures::future::join_all(doors))
    });
    tokio::select! {
        () = &mut stop => {}
        done = &mut serving.done => {
            done.context("the pump's thread has gone")?.map_err(said)?;
            bail!("the pump has ended unasked");
        }
    }
    let last = Instant::now() + door.drain_timeout;
    tracing::info!(stage, "draining");
    lobby.close();
    if stage == 0 {
        // Whoever routes to us has not seen yet that we are not ready: until they have, their requests are welcome.
        tokio::time::sleep(door.healthcheck_interval.min(door.drain_timeout)).await;
    }
    closing_nats.cancel();
    serving.drain.begin.cancel();
    let done = match tokio::time::timeout_at(last, &mut serving.done).await {
        Ok(done) => Ok(done),
        Err(_) => {
            tracing::warn!(stage, "drain_timeout has passed: what is left is ended or given back");
            serving.drain.end.cancel();
            tokio::time::timeout(DELIVERY, serving.done).await
        }
    };
    match done {
        Ok(done) => done.context("the pump's thread has gone")?.map_err(said)?,
        Err(_) => tracing::warn!(stage, "the device is still at work: it ends with the process"),
    }
    // With the broker away the door on NATS would wait for it.
    let on_nats = async {
        if let Some(answering) = on_nats {
            delivered(answering).await;
        }
    };
    tokio::join!(answering.end(DELIVERY), on_nats);
    tracing::info!(stage, "drained");
    Ok(ExitCode::SUCCESS)
}

/// Waits until the last answers are with their clients; one that does not take its answer does not keep the process.
async fn delivered<T>(mut answering: JoinHandle<T>) {
    if tokio::time::timeout(DELIVERY, &mut answering).await.is_err() {
        answering.abort();
    }
}

/// Where requests wait while the stage loads.
fn lobby(pipeline: &Pipeline) -> Lobby {
    let (manifest, cut) = (hex(&pipeline.digest), pipeline.cut.clone());
    let (task, vocab) = (pipeline.task, pipeline.vocab);
    let closed = Overview { manifest, cut, task, vocab, ..Overview::default() };
    Lobby::new(closed, (pipeline.options.max_queue, pipeline.options.stage_timeout))
}

/// Resolves at SIGTERM or SIGINT, from its making on.
pub fn until_told_to_stop() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        match signals {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            // Without handlers the signals end the process by themselves.
            _ => std::future::pending().await,
        }
    }
}
