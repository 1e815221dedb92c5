//! A process a stage, started and watched by this one: what `up --nats` and `demo --nats` stand on.

use crate::config::{BatchingConfig, DeviceConfig, DoorConfig, LogFormat, LoggingConfig, NatsConfig};
use anyhow::{Context, bail};
use stageline_base::StageIndex;
use stageline_server::Keeping;
use stageline_transport::HopKind;
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
    /// The door, beside where it listens; `None` has every default.
    pub door: Option<DoorConfig>,
    /// The broker.
    pub nats: NatsConfig,
    /// How each stage sends to the next.
    pub hop: HopKind,
    /// The device of every stage.
    pub device: DeviceConfig,
    /// Batching of every stage.
    pub batching: BatchingConfig,
    /// How every stage logs.
    pub logging: LoggingConfig,
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
        // The stages are on this machine: a proxy of the environment has no part in it.
        let client = reqwest::Client::builder().no_proxy().build()?;
        for stage in 0..self.children.len() {
            let url = format!("http://{}/_/ready", self.orders.http[stage]);
            loop {
                if let Some(status) = self.children[stage].try_wait()? {
                    bail!("stage {stage} has ended while it started: {status}");
                }
                if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
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

    /// Asks all of them to finish (SIGTERM) and waits until they have: the door first, since until its last answer the
    /// others must be there, idle or not.
    ///
    /// # Errors
    /// If one of them cannot be waited for, or does not finish well.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let (door, others) = self.children.split_at_mut(1);
        let mut badly = None;
        for group in [door, others] {
            for child in group.iter() {
                ask_to_finish(child);
            }
            for child in group {
                badly = badly.or(Some(child.wait().await?).filter(|status| !status.success()));
            }
        }
        badly.map_or(Ok(()), |status| bail!("a stage has not finished well: {status}"))
    }
}

fn ask_to_finish(child: &Child) {
    if let Some(pid) = child.id() {
        // SAFETY: kill(2) takes numbers only. The process is our child and has not been waited for, so its id cannot
        // belong to another one.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
    }
}

fn spawn(orders: &Orders, stage: usize) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("this program's own path is not known")?;
    let mut command = Command::new(program);
    // In a group of its own: Ctrl-C is for this process alone, which then stops the stages in their order.
    command.args(arguments(orders, stage)).kill_on_drop(true).process_group(0);
    let parent = std::process::id();
    // SAFETY: between fork and exec, `end_with` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(move || end_with(parent)) };
    command.spawn().with_context(|| format!("stage {stage} cannot be started"))
}

/// Has the system kill this process when `parent` ends, however that ends: nobody else knows of the stages.
fn end_with(parent: u32) -> std::io::Result<()> {
    // SAFETY: prctl(2) with this option takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: getppid(2) takes nothing.
    let parent_lives = unsafe { libc::getppid() } as u32 == parent;
    if parent_lives { Ok(()) } else { Err(std::io::Error::from_raw_os_error(libc::ESRCH)) }
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
    if orders.hop != HopKind::Nats {
        add("--hop", &orders.hop.as_str());
        // All stages are on this host.
        add("--hop-listen", &"127.0.0.1:0");
    }
    if let Some((user, password)) = &orders.nats.user {
        add("--nats-user", user);
        add("--nats-password-file", password);
    }
    if let Some(creds) = &orders.nats.creds {
        add("--nats-creds", creds);
    }
    add("--device", &orders.device.device.to_string());
    if let Some(numbers) = orders.device.numbers {
        add("--dtype", &numbers.to_string());
    }
    // All of them are on it.
    add("--device-share", &(orders.device.share / orders.http.len() as f32).to_string());
    let micros = |time: Duration| format!("{}us", time.as_micros());
    add("--device-timeout", &micros(orders.device.timeout.unwrap_or_default()));
    let batching = &orders.batching;
    let numbers: [(&str, Option<u64>); 8] = [
        ("--threads", orders.device.threads.map(|n| n as u64)),
        ("--max-num-seqs", Some(batching.max_num_seqs.into())),
        ("--max-model-len", batching.max_model_len.map(u64::from)),
        ("--max-batch-tokens", batching.max_batch_tokens.map(u64::from)),
        ("--block-size", Some(batching.block_size.into())),
        ("--kv-blocks", batching.kv_blocks.map(u64::from)),
        ("--microbatches", batching.microbatches.map(u64::from)),
        ("--max-queue", Some(batching.max_queue.into())),
    ];
    for (flag, number) in numbers {
        if let Some(number) = number {
            add(flag, &number.to_string());
        }
    }
    add("--wire-dtype", &batching.wire_dtype.to_string());
    add("--max-batch-delay-us", &batching.max_batch_delay.as_micros().to_string());
    add("--log-format", &if orders.logging.format == LogFormat::Json { "json" } else { "text" });
    add("--log-level", &orders.logging.level);
    if let Some(door) = &orders.door {
        if let Some(name) = &door.name {
            add("--name", name);
        }
        // The others are told to end when the door has: what they still hold is nobody's.
        let drain = if stage == 0 { door.drain_timeout } else { door.drain_timeout.min(Duration::from_secs(1)) };
        add("--drain-timeout", &micros(drain));
        add("--healthcheck-interval", &micros(door.healthcheck_interval.min(drain)));
        add("--queue-timeout", &micros(door.queue_timeout));
        add("--stage-timeout", &micros(door.stage_timeout));
        add("--exec-timeout", &micros(door.exec_timeout.unwrap_or_default()));
        add("--max-inflight", &door.max_inflight.unwrap_or_default().to_string());
        add("--max-body-bytes", &door.max_body_bytes.to_string());
        add("--max-connections", &door.max_connections.to_string());
        if stage == 0 {
            keeping(&door.keeping, &mut add);
        }
        add("--max-connections-per-peer", &door.max_connections_per_peer.to_string());
        if let Some(file) = &door.api_keys {
            add("--api-keys", file);
        }
        if let Some(admin) = door.admin {
            // One address is one stage's: the others have any free one, which their log says.
            add("--admin", &if stage == 0 { admin } else { ([127, 0, 0, 1], 0).into() }.to_string());
        }
        if door.unready_when_full {
            list.push("--unready-when-full".into());
        }
    }
    list
}

/// Hands on how durable requests are kept.
fn keeping(keeping: &Keeping, add: &mut impl FnMut(&str, &dyn AsRef<std::ffi::OsStr>)) {
    let seconds = |time: Duration| format!("{}us", time.as_micros());
    for (flag, path) in [("--store", &keeping.file), ("--callback-secret-file", &keeping.secret_file)] {
        if let Some(path) = path {
            add(flag, path);
        }
    }
    add("--store-sync", &if keeping.sync { "always" } else { "second" });
    add("--max-store-bytes", &keeping.max_bytes.to_string());
    add("--max-stored", &keeping.max_stored.to_string());
    add("--durable-timeout", &seconds(keeping.timeout));
    add("--result-ttl", &seconds(keeping.keep));
    if let Some(url) = &keeping.callback_url {
        add("--callback-url", url);
    }
    for allowed in &keeping.allow {
        add("--callback-allow", &allowed.to_string());
    }
    add("--join-calls", &if keeping.join_always { "always" } else { "queue-worker" });
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
