//! `serve`: one stage of a pipeline, as a function's pod runs it.

use crate::cli::pipeline::{Loading, hosted_stage, start};
use crate::cli::split::as_error;
use crate::config::{DoorConfig, NatsConfig, ServeConfig};
use anyhow::bail;
use stageline_base::{Fault, StageIndex};
use stageline_door::keys::Keys;
use stageline_door::{Limits, NoStore};
use stageline_server::{Broker, BrokerAccess, Doors, Ending, Host, Ports, Serving, reach};
use std::process::ExitCode;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// One line that says what is wrong.
pub async fn serve(config: ServeConfig) -> anyhow::Result<ExitCode> {
    // Before anything else takes its time: as the first process of a container it would not hear of a signal without a handler.
    let mut stop = Box::pin(until_told_to_stop());
    let host = hosted_stage(&config)?;
    match &config.nats {
        Some(nats) => {
            // Before the port is open: where only /_/health is asked, an open port takes all requests from the replica before.
            let broker = tokio::select! {
                broker = reach(&host.pipeline, config.stage, access(nats), &host.metrics) => broker.map_err(as_error)?,
                () = &mut stop => return Ok(ExitCode::SUCCESS),
            };
            let doors = doors((&host, config.stage), &config.door, Some(&broker)).await?;
            let loading = Loading::new();
            let start = loading.during(host.start_stage(broker, &config.hop, |stage| loading.bar(stage)));
            answer((&host, config.stage), &config.door, doors, start, stop).await
        }
        None if host.pipeline.stages == 1 => answer_embedded(&host, &config.door, stop).await,
        None => bail!(
            "the pipeline has {} stages: say with --nats how they reach each other, or use `stageline up`",
            host.pipeline.stages
        ),
    }
}

/// Answers for a pipeline whose stages are all in this process.
pub async fn answer_embedded(
    host: &Host,
    door: &DoorConfig,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<ExitCode> {
    let doors = doors((host, 0), door, None).await?;
    answer((host, 0), door, doors, start(host), stop).await
}

/// What the doors of `stage` know of clients.
async fn doors(
    (host, stage): (&Host, StageIndex),
    door: &DoorConfig,
    broker: Option<&Broker>,
) -> anyhow::Result<Doors> {
    let keys = door.api_keys.as_deref().map(Keys::open).transpose().map_err(as_error)?;
    if keys.is_none() && !door.http.ip().is_loopback() {
        tracing::warn!(address = %door.http, "whoever reaches this address is answered: say with --api-keys who may ask");
    }
    // The other stages take no prompts.
    let keeper = match stage {
        0 => door.keeping.open(host, broker).await.map_err(as_error)?,
        _ => Err(NoStore::Unasked),
    };
    Ok(Doors { keys, keeper })
}

async fn answer(
    (host, stage): (&Host, StageIndex),
    door: &DoorConfig,
    doors: Doors,
    start: impl Future<Output = Result<Serving, Fault>>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<ExitCode> {
    let longest = host.pipeline.options.max_deadline;
    let limits = Limits {
        max_body_bytes: door.max_body_bytes,
        max_inflight: door.max_inflight,
        unready_when_full: door.unready_when_full,
        max_connections: door.max_connections,
        max_connections_per_peer: door.max_connections_per_peer,
        default_deadline: longest,
        max_deadline: longest,
        ..Limits::default()
    };
    // Before the weights: whoever probes must find the function alive while it loads.
    let ports = Ports::bind(door.http, door.admin, limits).await.map_err(as_error)?;
    let ending = Ending { healthcheck_interval: door.healthcheck_interval, drain_timeout: door.drain_timeout };
    stageline_server::serve((host, stage), (ports, doors), ending, start, stop).await.map_err(as_error)?;
    Ok(ExitCode::SUCCESS)
}

fn access(nats: &NatsConfig) -> BrokerAccess {
    BrokerAccess { urls: nats.urls.join(","), credentials: nats.creds.clone(), user: nats.user.clone() }
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
