//! `serve`: one stage of a pipeline, as a function's pod runs it.

use crate::cli::pipeline::{Loading, hosted_stage, start};
use crate::cli::split::as_error;
use crate::config::{DoorConfig, NatsConfig, ServeConfig};
use anyhow::bail;
use stageline_base::{Fault, StageIndex};
use stageline_door::Limits;
use stageline_server::{BrokerAccess, Ending, Host, Ports, Serving, reach};
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
            let loading = Loading::new();
            let start = loading.during(host.start_stage(broker, &config.hop, |stage| loading.bar(stage)));
            answer(&host, config.stage, &config.door, start, stop).await
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
    answer(host, 0, door, start(host), stop).await
}

async fn answer(
    host: &Host,
    stage: StageIndex,
    door: &DoorConfig,
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
    stageline_server::serve((host, stage), ports, ending, start, stop).await.map_err(as_error)?;
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
