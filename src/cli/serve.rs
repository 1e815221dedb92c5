//! `serve`: one stage of a pipeline, as a function's pod runs it.

use crate::base::{Fault, FaultClass, StageIndex};
use crate::cli::pipeline::Site;
use crate::cli::split::said;
use crate::config::{DoorConfig, ServeConfig};
use crate::core::{DirectOutput, DirectRun};
use crate::door;
use crate::door::http::{self, HttpLimits, HttpState};
use crate::door::stages::{Overview, Stages};
use crate::door::{Answer, Intake, Readiness, Request};
use crate::server::{Pipeline, Serving, StageAccess};
use crate::shard::write::hex;
use anyhow::{Context, bail};
use futures::future::BoxFuture;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long requests in progress may take to end once the drain has begun, if no deadline bounds them.
const DRAIN_MOST: Duration = Duration::from_secs(15 * 60);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// One line that says what is wrong.
pub async fn serve(config: ServeConfig) -> anyhow::Result<ExitCode> {
    let site = Site::distributed(&config)?;
    let stages = site.pipeline.stages;
    if config.stage >= stages {
        bail!("there is no stage {}: the pipeline has {stages}, numbered from 0", config.stage);
    }
    match &config.nats {
        Some(nats) => {
            let start = site.start_stage(config.stage, nats, &config.hop);
            answer_http(&site, config.stage, &config.door, start).await
        }
        None if stages == 1 => answer_http(&site, 0, &config.door, site.start_embedded()).await,
        None => {
            bail!("the pipeline has {stages} stages: say with --nats how they reach each other, or use `stageline up`")
        }
    }
}

/// Answers HTTP from the first moment, loads, serves, and drains when told to stop.
pub async fn answer_http(
    site: &Site,
    stage: StageIndex,
    door: &DoorConfig,
    start: impl Future<Output = anyhow::Result<Serving>>,
) -> anyhow::Result<ExitCode> {
    // Before the weights: whoever probes must find the function alive while it loads.
    let listener = tokio::net::TcpListener::bind(door.http).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", door.http))?;
    let address = listener.local_addr()?;
    let lobby = Arc::new(Lobby::new(&site.pipeline));
    let limits = HttpLimits {
        max_body_bytes: door.max_body_bytes,
        max_inflight: door.max_inflight.map_or(0, |most| most as usize),
        default_deadline: site.pipeline.options.longest,
        max_deadline: site.pipeline.options.longest,
        ..HttpLimits::default()
    };
    let readiness = lobby.clone();
    let intake: Option<Arc<dyn Intake>> = if stage == 0 { Some(lobby.clone()) } else { None };
    let router = http::router(HttpState {
        intake,
        readiness: Arc::new(move || readiness.readiness()),
        metrics: site.metrics.clone(),
        limits: limits.clone(),
        pipeline: site.pipeline.name.clone(),
        stage,
        stages: lobby.clone(),
    });
    let (closing, closing_nats) = (CancellationToken::new(), CancellationToken::new());
    let answering = tokio::spawn(http::serve(listener, router.clone(), limits, closing.clone().cancelled_owned()));
    let mut stop = std::pin::pin!(until_told_to_stop());
    let mut serving = tokio::select! {
        serving = start => serving?,
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    lobby.open(&serving);
    tracing::info!(stage, %address, pipeline = site.pipeline.name, "ready");
    let on_nats = serving.net.clone().filter(|_| stage == 0).map(|net| {
        let (client, subject) = (net.client().clone(), net.subjects().ask());
        tokio::spawn(door::nats::serve(client, subject, router, closing_nats.clone()))
    });
    tokio::select! {
        () = &mut stop => {}
        done = &mut serving.done => {
            done.context("the pump's thread has gone")?.map_err(said)?;
            bail!("the pump has ended unasked");
        }
    }
    tracing::info!(stage, "draining");
    lobby.close();
    // Whoever routes to us has not seen yet that we are not ready: until they have, their requests are welcome.
    tokio::time::sleep(door.healthcheck_interval).await;
    closing_nats.cancel();
    serving.drain.cancel();
    let most = door.exec_timeout.unwrap_or(DRAIN_MOST);
    match tokio::time::timeout(most, serving.done).await {
        Ok(done) => done.context("the pump's thread has gone")?.map_err(said)?,
        Err(_) => tracing::warn!(stage, "requests were still in progress at the end of the drain"),
    }
    closing.cancel();
    answering.await.context("the HTTP server has failed")?;
    if let Some(answering) = on_nats {
        answering.await.context("the door on NATS has failed")?.map_err(said)?;
    }
    tracing::info!(stage, "drained");
    Ok(ExitCode::SUCCESS)
}

/// Resolves at SIGTERM or SIGINT.
pub async fn until_told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
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

/// The door before it has opened, and after it has begun to close.
struct Lobby {
    embeds: bool,
    /// The pipeline, before any of it runs.
    closed: Overview,
    open: OnceLock<Open>,
    state: Mutex<Readiness>,
}

/// What a stage at work offers.
struct Open {
    reception: Option<Arc<dyn Intake>>,
    access: Arc<StageAccess>,
}

impl Lobby {
    fn new(pipeline: &Pipeline) -> Self {
        let state = Mutex::new(Readiness::NotReady("loading: try again in some seconds".into()));
        let (manifest, cut) = (hex(&pipeline.digest), pipeline.cut.clone());
        let (embeds, vocab) = (pipeline.embeds, pipeline.vocab);
        let closed = Overview { manifest, cut, embeds, vocab, ..Overview::default() };
        Self { embeds: pipeline.embeds, closed, open: OnceLock::new(), state }
    }

    fn open(&self, serving: &Serving) {
        let reception = serving.reception.clone().map(|reception| reception as Arc<dyn Intake>);
        // Opened once only.
        let _ = self.open.set(Open { reception, access: serving.access.clone() });
        self.set(Readiness::Ready);
    }

    /// Not ready any more for whoever asks; requests that come all the same are still taken.
    fn close(&self) {
        self.set(Readiness::NotReady("this replica is shutting down".into()));
    }

    fn set(&self, readiness: Readiness) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = readiness;
    }
}

impl Intake for Lobby {
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Answer, Fault>> {
        match self.open.get() {
            Some(Open { reception: Some(reception), .. }) => reception.submit(request),
            _ => Box::pin(std::future::ready(Err(still_loading()))),
        }
    }

    fn readiness(&self) -> Readiness {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn embeds(&self) -> bool {
        self.embeds
    }
}

impl Stages for Lobby {
    fn run(&self, stage: Option<StageIndex>, run: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
        match self.open.get() {
            Some(open) => open.access.run(stage, run),
            None => Box::pin(std::future::ready(Err(still_loading()))),
        }
    }

    fn overview(&self) -> Overview {
        self.open.get().map_or_else(|| self.closed.clone(), |open| open.access.overview())
    }
}

fn still_loading() -> Fault {
    Fault::new(FaultClass::Unavailable, "the stage is still loading: try again in some seconds")
}
