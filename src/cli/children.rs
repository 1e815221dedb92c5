//! A process a stage, started and watched by this one: what `up --nats` and `demo --nats` stand on.

use crate::base::StageIndex;
use crate::config::{BatchingConfig, DeviceConfig, DeviceName, ExecutorKind, NatsConfig};
use anyhow::{Context, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How often a starting stage is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// How stages are started.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The pipeline folder.
    pub pipeline: PathBuf,
    /// Where each stage's HTTP server listens, in the stages' order.
    pub http: Vec<SocketAddr>,
    /// The broker.
    pub nats: NatsConfig,
    /// The device of every stage.
    pub device: DeviceConfig,
    /// Batching of every stage.
    pub batching: BatchingConfig,
}

/// The stages' processes. Dropped, they are killed.
pub struct Children {
    orders: Orders,
    children: Vec<Child>,
}

impl Children {
    /// Starts every stage.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub fn start(orders: Orders) -> anyhow::Result<Self> {
        let children = (0..orders.http.len()).map(|stage| spawn(&orders, stage)).collect::<anyhow::Result<_>>()?;
        Ok(Self { orders, children })
    }

    /// Resolves when every stage says that it is ready.
    ///
    /// # Errors
    /// If one of them ends before that.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        for stage in 0..self.children.len() {
            let url = format!("http://{}/_/ready", self.orders.http[stage]);
            loop {
                if let Some(status) = self.children[stage].try_wait()? {
                    bail!("stage {stage} has ended while it started: {status}");
                }
                if reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
                    break;
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Waits until one of them ends, and says which.
    pub async fn one_ends(&mut self) -> (StageIndex, std::io::Result<std::process::ExitStatus>) {
        let waits = self.children.iter_mut().map(|child| Box::pin(child.wait()));
        let (status, stage, _) = futures::future::select_all(waits).await;
        (stage as StageIndex, status)
    }

    /// Starts a stage's process again.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart(&mut self, stage: StageIndex) -> anyhow::Result<()> {
        self.children[usize::from(stage)] = spawn(&self.orders, usize::from(stage))?;
        Ok(())
    }

    /// Asks all of them to finish (SIGTERM) and waits until they have.
    ///
    /// # Errors
    /// If one of them cannot be waited for.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for child in &self.children {
            if let Some(pid) = child.id() {
                // SAFETY: kill(2) takes numbers only. The process is our child and has not been waited for, so its id
                // cannot belong to another one.
                unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
            }
        }
        for child in &mut self.children {
            child.wait().await?;
        }
        Ok(())
    }
}

fn spawn(orders: &Orders, stage: usize) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("this program's own path is not known")?;
    Command::new(program)
        .args(arguments(orders, stage))
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("stage {stage} cannot be started"))
}

/// The command line of `serve` for a stage.
fn arguments(orders: &Orders, stage: usize) -> Vec<std::ffi::OsString> {
    let mut list: Vec<std::ffi::OsString> = vec!["serve".into()];
    let mut add = |flag: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        list.push(flag.into());
        list.push(value.as_ref().into());
    };
    let path: &Path = &orders.pipeline;
    add("--pipeline", &path);
    add("--stage", &stage.to_string());
    add("--nats", &orders.nats.urls.join(","));
    add("--http", &orders.http[stage].to_string());
    if let Some(creds) = &orders.nats.creds {
        add("--nats-creds", creds);
    }
    let device = match orders.device.device {
        DeviceName::Cpu => "cpu".to_owned(),
        DeviceName::Cuda(ordinal) => format!("cuda:{ordinal}"),
    };
    add("--device", &device);
    if orders.device.executor == ExecutorKind::Fake {
        add("--executor", &"fake");
    }
    let batching = &orders.batching;
    let numbers: [(&str, Option<u64>); 9] = [
        ("--threads", orders.device.threads.map(|n| n as u64)),
        ("--max-num-seqs", Some(batching.max_num_seqs.into())),
        ("--max-model-len", batching.max_model_len.map(u64::from)),
        ("--max-batch-tokens", Some(batching.max_batch_tokens.into())),
        ("--block-size", Some(batching.block_size.into())),
        ("--kv-blocks", batching.kv_blocks.map(u64::from)),
        ("--microbatches", batching.microbatches.map(u64::from)),
        ("--microbatches-away", batching.microbatches_away.map(u64::from)),
        ("--max-queue", Some(batching.max_queue.into())),
    ];
    for (flag, number) in numbers {
        if let Some(number) = number {
            add(flag, &number.to_string());
        }
    }
    add("--max-batch-delay-us", &batching.max_batch_delay.as_micros().to_string());
    list
}

/// Loopback addresses that are free now, one a stage.
///
/// # Errors
/// If none can be had.
pub fn free_addresses(stages: usize) -> anyhow::Result<Vec<SocketAddr>> {
    // All at once, so that no two are the same; another process may still take one before the stage does, and then the
    // stage says so.
    let listeners: Vec<std::net::TcpListener> =
        (0..stages).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(std::net::TcpListener::local_addr).collect::<Result<_, _>>()?)
}
