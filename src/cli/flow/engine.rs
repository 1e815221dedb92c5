//! Flows that run in this process: a door of them, or one run.

use super::tree::{Screen, Tree};
use super::{named, opened};
use crate::cli::pipeline::{hosted, start};
use crate::cli::serve::until_told_to_stop;
use crate::cli::split::as_error;
use crate::config::{FlowConfig, SourceConfig};
use anyhow::{Context, bail};
use async_nats::Client;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stageline_base::hex;
use stageline_door::Limits;
use stageline_door::api::flows::told;
use stageline_door::keys::Keys;
use stageline_flow::definition::File;
use stageline_flow::run::{Ended, Logged};
use stageline_plan::Goal;
use stageline_runner::{Declined, Start};
use stageline_server::{Ending, FlowsOrder, Kept, Local, Ports, Serving, outgoing, serve_flows};
use stageline_transport::connect_client;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The longest that a caller may wait where nobody says.
const LONGEST: Duration = Duration::from_secs(300);

/// Serves until SIGTERM or SIGINT.
pub(super) async fn up(config: &FlowConfig, path: &Path) -> anyhow::Result<ExitCode> {
    let stop = until_told_to_stop();
    let (text, file) = opened(path)?;
    if let Some(name) = &config.only {
        named(&file, path, name)?;
    }
    let keys = config.api_keys.as_deref().map(Keys::open).transpose().map_err(as_error)?;
    if keys.is_none() && !config.http.ip().is_loopback() {
        tracing::warn!(address = %config.http, "whoever reaches this address is answered: say with --api-keys who may ask");
    }
    let longest = config.exec_timeout.unwrap_or(LONGEST);
    let limits = Limits {
        max_body_bytes: usize::try_from(config.max_value_bytes).unwrap_or(usize::MAX),
        max_inflight: config.max_inflight,
        max_connections: config.max_connections.0,
        max_connections_per_peer: config.max_connections.1,
        default_deadline: longest,
        max_deadline: longest,
        ..Limits::default()
    };
    // Before the store is opened: whoever probes must find the function alive.
    let ports = Ports::bind(config.http, None, limits).await.map_err(as_error)?;
    let broker = broker(config).await?;
    let kept = match &broker {
        Some(client) => Kept::Broker(client.clone()),
        None => Kept::File(store_of(config, path)?, config.sync),
    };
    if config.allow.is_empty() {
        tracing::warn!("callbacks may go to any host, private ones too: say with --callback-allow to which");
    }
    let (locals, serving) = locals(config, &file, path).await?;
    let order = order(config, (text, file), (kept, broker), locals)?;
    let ending = Ending { healthcheck_interval: config.healthcheck_interval, drain_timeout: config.drain_timeout };
    serve_flows(order, (ports, keys), config.only.clone(), ending, stop).await.map_err(as_error)?;
    finish(serving).await;
    Ok(ExitCode::SUCCESS)
}

fn order(
    config: &FlowConfig,
    (text, file): (String, File),
    (kept, broker): (Kept, Option<Client>),
    locals: Vec<Local>,
) -> anyhow::Result<FlowsOrder> {
    Ok(FlowsOrder {
        text,
        file: Arc::new(file),
        kept,
        max_stored: config.max_stored,
        max_bytes: config.max_store_bytes,
        gateway: config.gateway.clone(),
        secrets: Some(config.secrets.clone()),
        outgoing: outgoing(&config.allow, config.secret_file.as_deref()).map_err(as_error)?,
        key: config.key.clone(),
        max_runs: config.max_runs,
        max_value_bytes: config.max_value_bytes,
        locals,
        broker,
    })
}

/// The broker, where one is named.
async fn broker(config: &FlowConfig) -> anyhow::Result<Option<Client>> {
    let Some(nats) = &config.nats else { return Ok(None) };
    let urls = nats.urls.join(",");
    let client = connect_client("stageline flow", &urls, nats.creds.as_deref(), nats.user.as_ref()).await;
    client.map(Some).map_err(|error| anyhow::anyhow!("{error}"))
}

/// The pipelines that the file says to run here, loaded.
async fn locals(config: &FlowConfig, file: &File, path: &Path) -> anyhow::Result<(Vec<Local>, Vec<Serving>)> {
    let (mut locals, mut servings) = (Vec::new(), Vec::new());
    for (name, pipeline) in &file.pipelines {
        // Where the file is, that is what it says.
        let folder = path.parent().unwrap_or(Path::new(".")).join(&pipeline.model);
        let stages = (pipeline.stages > 1).then_some(pipeline.stages as usize);
        let source = SourceConfig { folder, stages, goal: Goal::default() };
        let host = hosted(&source, &config.batching, &config.device, None);
        let host = host.with_context(|| format!("the pipeline {name} of the file"))?;
        let serving =
            start(&host).await.map_err(as_error).with_context(|| format!("the pipeline {name} of the file"))?;
        let intake = serving.reception.clone().context("the pipeline has no door")?;
        locals.push(Local {
            name: name.clone(),
            manifest: hex(&host.pipeline.digest),
            intake,
            at_once: config.batching.max_num_seqs as usize,
            metrics: host.metrics.clone(),
        });
        servings.push(serving);
    }
    Ok((locals, servings))
}

async fn finish(servings: Vec<Serving>) {
    for serving in servings {
        if let Err(fault) = serving.finish().await {
            tracing::warn!(%fault, "a pipeline did not end as it should");
        }
    }
}

/// The file that runs are kept in: the one that was named, or one of this flow file's own.
fn store_of(config: &FlowConfig, path: &Path) -> anyhow::Result<PathBuf> {
    if let Some(store) = &config.store {
        return Ok(store.clone());
    }
    let path = std::fs::canonicalize(path).with_context(|| format!("{} cannot be found", path.display()))?;
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let folder =
        state.or_else(home).context("there is no home to keep runs in: say where with --store FILE")?.join("stageline");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let hash = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()));
    let store = folder.join(format!("flow-{}.store", &hash[..16]));
    tracing::info!(file = %store.display(), "runs are kept here");
    Ok(store)
}

/// Runs a flow once, and prints what it gives.
pub(super) async fn run(config: &FlowConfig, path: &Path, name: &str) -> anyhow::Result<ExitCode> {
    let (text, file) = opened(path)?;
    named(&file, path, name)?;
    let input = input(config.input.as_deref())?;
    let folder = Scratch::new()?;
    let kept = match &config.store {
        Some(store) => store.clone(),
        None => folder.0.join("runs"),
    };
    let (locals, serving) = locals(config, &file, path).await?;
    let broker = broker(config).await?;
    let order = order(config, (text, file), (Kept::File(kept, config.sync), broker), locals)?;
    let (keeper, definition, locals) = order.keeper().await.map_err(as_error)?;
    let (closing, release) = (CancellationToken::new(), CancellationToken::new());
    let working = (Arc::clone(&keeper).work(closing.clone(), release.clone()), locals.work(&closing, &release));
    let owning = tokio::spawn(async move { tokio::join!(working.0, working.1) });
    let flow = named(&order.file, path, name)?;
    let call_id = format!("run-{}", std::process::id());
    let started = keeper.start(Start {
        flow,
        definition: &definition,
        input: ("", &input),
        principal: "",
        call_id: &call_id,
        key: None,
        callback: None,
        time: None,
    });
    let started = started.await.map_err(|declined| match declined {
        Declined::OtherInput => anyhow::anyhow!("this store has another run of this process' number: say --store FILE"),
        Declined::Fault(fault) => as_error(fault),
    })?;
    let mut said = keeper.follow(&started.log, 0);
    let (mut tree, screen) = (Tree::default(), config.follow.then(Screen::new));
    let (mut end, mut begun) = (None, false);
    let mut stop = Box::pin(until_told_to_stop());
    while end.is_none() {
        let record = tokio::select! {
            record = said.next() => record,
            () = &mut stop => bail!("it was told to stop: the run is not kept"),
        };
        let (_, record) = record.context("the run's log ended without its end")?.map_err(as_error)?;
        let tells_all = matches!(record.first().and_then(|moment| moment.said.first()), Some(Logged::Accepted(_)));
        // The log's last record tells all of it once more.
        let known = std::mem::replace(&mut begun, true) && tells_all;
        for moment in record {
            for said in moment.said {
                let event = told(moment.at, &said).unwrap_or_default();
                tree.take(&event);
                if let Some(screen) = screen.as_ref().filter(|_| !known) {
                    screen.show(&tree, &event);
                }
                if let Logged::Ended(ended) = said {
                    end = Some(ended);
                }
            }
        }
    }
    drop(screen);
    let ended = end.unwrap_or(Ended::Cancelled);
    if config.follow {
        eprint!("{tree}");
    }
    let (_, _, body) = keeper.answer(&ended).await.map_err(|words| anyhow::anyhow!(words))?;
    closing.cancel();
    release.cancel();
    let _ = owning.await;
    finish(serving).await;
    if config.json {
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        let output: Value = serde_json::from_slice(&body).unwrap_or_else(|_| text());
        let (status, value) = match &ended {
            Ended::Succeeded(_) => ("succeeded", json!({ "output": output })),
            Ended::Failed(failure) => ("failed", json!({ "error": failure.told() })),
            Ended::Cancelled => ("cancelled", json!({})),
        };
        let mut told = value;
        (told["run"], told["status"]) = (started.log.token().into(), status.into());
        println!("{told:#}");
        return Ok(if status == "succeeded" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    match ended {
        Ended::Succeeded(_) => {
            let mut out = std::io::stdout().lock();
            out.write_all(&body)?;
            // What is not text is somebody's file, byte for byte.
            if !body.ends_with(b"\n") && std::str::from_utf8(&body).is_ok() {
                out.write_all(b"\n")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Ended::Failed(failure) => {
            let node = failure.node.as_ref().map_or(String::new(), |node| format!(" at {node}"));
            bail!("the run failed{node}: {}", failure.reason)
        }
        Ended::Cancelled => bail!("the run was cancelled"),
    }
}

fn input(asked: Option<&str>) -> anyhow::Result<Bytes> {
    Ok(match asked {
        None => Bytes::new(),
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
            bytes.into()
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => std::fs::read(path).with_context(|| format!("{path} cannot be read"))?.into(),
            None => Bytes::copy_from_slice(text.as_bytes()),
        },
    })
}

/// A folder that goes when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("stageline-flow-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays in the temporary folder, which is cleaned by others.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
