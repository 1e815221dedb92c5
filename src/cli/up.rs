//! `up`: every stage of a pipeline, in this process or in a process each.

use crate::cli::children::{Children, Orders, free_addresses};
use crate::cli::pipeline::hosted;
use crate::cli::serve::{answer_embedded, until_told_to_stop};
use crate::cli::split::{SplitOrder, as_error};
use crate::config::{LoggingConfig, NatsConfig, UpConfig};
use stageline_server::Blueprint;
use stageline_shard::PipelineFolder;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A stage that dies is started again after this long: time for a person to read why.
const START_AGAIN: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// One line that says what is wrong.
pub async fn up(config: UpConfig, logging: LoggingConfig) -> anyhow::Result<ExitCode> {
    match config.nats.clone() {
        None => in_one_process(config).await,
        Some(nats) => in_a_process_each(config, nats, logging).await,
    }
}

async fn in_one_process(config: UpConfig) -> anyhow::Result<ExitCode> {
    let stop = until_told_to_stop();
    let host = hosted(&config.source, &config.batching, &config.device, Some(&config.door))?;
    answer_embedded(&host, &config.door, stop).await
}

async fn in_a_process_each(config: UpConfig, nats: NatsConfig, logging: LoggingConfig) -> anyhow::Result<ExitCode> {
    let mut stop = std::pin::pin!(until_told_to_stop());
    let (pipeline, _folder) = pipeline_folder(&config)?;
    // Whatever is wrong with it, or with the number of stages asked for, is said before any process starts.
    let stages = Blueprint::open(&pipeline, config.source.stages, config.source.goal).map_err(as_error)?.stages.len();
    let mut http = free_addresses(stages)?;
    match config.door.http.port() {
        // Any free port: known before the stage starts, or nobody could ask it whether it is ready.
        0 => http[0].set_ip(config.door.http.ip()),
        _ => http[0] = config.door.http,
    }
    let (door, hop) = (Some(config.door), config.hop);
    let orders = Orders { pipeline, http, door, nats, hop, device: config.device, batching: config.batching, logging };
    let addresses = orders.http.clone();
    let mut children = Children::start(orders)?;
    tokio::select! {
        ready = children.ready() => ready?,
        () = &mut stop => return children.stop().await.map(|()| ExitCode::SUCCESS),
    }
    for (stage, address) in addresses.iter().enumerate() {
        let what = if stage == 0 { "door, health and metrics" } else { "health and metrics" };
        eprintln!("stage {stage}: {what} on http://{address}");
    }
    loop {
        tokio::select! {
            () = &mut stop => return children.stop().await.map(|()| ExitCode::SUCCESS),
            (stage, status) = children.one_ends() => {
                let how = status.map_or_else(|e| e.to_string(), |status| status.to_string());
                eprintln!("stage {stage} has ended ({how}); it is started again");
                tokio::time::sleep(START_AGAIN).await;
                children.restart(stage)?;
            }
        }
    }
}

/// The pipeline folder itself, or one made of the model folder, which goes with the second value.
fn pipeline_folder(config: &UpConfig) -> anyhow::Result<(PathBuf, Option<Scratch>)> {
    let source = &config.source;
    if PipelineFolder::is_at(&source.folder).map_err(as_error)? {
        return Ok((source.folder.clone(), None));
    }
    let scratch = Scratch(std::env::temp_dir().join(format!("stageline-up-{}", std::process::id())));
    let order = SplitOrder {
        model_dir: source.folder.clone(),
        out: scratch.0.clone(),
        name: config.door.name.clone(),
        stages: source.stages.unwrap_or(1),
        goal: source.goal,
        stage_memory: Vec::new(),
        max_num_seqs: config.batching.max_num_seqs as usize,
        max_model_len: config.batching.max_model_len.map(|len| len as usize),
        measure: None,
        json: false,
    };
    crate::cli::split::split(&order, &mut std::io::stderr())?;
    Ok((scratch.0.clone(), Some(scratch)))
}

/// A folder that goes when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays in the temporary folder, which is cleaned by others.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
