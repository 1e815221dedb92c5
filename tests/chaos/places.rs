//! The processes: what runs at each place, where it is reached, and how it ends.

use crate::cable::{Cable, Counts};
use crate::model::{Folder, MAX_LEN};
use crate::nats::NatsServer;
use crate::plan::PLACES;
use crate::programs::{Program, address, signal};
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Within which a process ends that was told to: the default of `drain_timeout`, and time for a machine that is busy.
pub const LIMIT: Duration = Duration::from_secs(40);

/// What has been done to a process.
pub struct Life {
    /// Place and number.
    pub name: String,
    /// It got SIGKILL.
    pub killed: AtomicBool,
    /// It got SIGTERM then.
    pub told: OnceLock<Instant>,
}

/// Where the process of a place serves HTTP, once it has said so.
pub type Address = Option<(String, Arc<Life>)>;

/// What every process of a run has in common.
pub struct Site {
    pub folder: Folder,
    pub broker: SocketAddr,
    pub hops: Vec<&'static str>,
    pub counts: Arc<Counts>,
    /// A place each.
    pub addresses: Vec<watch::Sender<Address>>,
}

impl Site {
    pub fn new(broker: &NatsServer, hops: Vec<&'static str>) -> Self {
        let broker = broker.url().rsplit_once('/').and_then(|(_, at)| at.parse().ok()).expect("an address");
        let addresses = PLACES.iter().map(|_| watch::Sender::new(None)).collect();
        Self { folder: Folder::make(), broker, hops, counts: Arc::default(), addresses }
    }

    /// Where the process of `place` is, when it is there.
    pub async fn found(&self, place: usize) -> (String, Arc<Life>) {
        let mut address = self.addresses[place].subscribe();
        let there = address.wait_for(Option::is_some).await.expect("the site is there");
        there.clone().expect("it is there")
    }
}

/// A running process, and the cables that it hangs on.
pub struct Process {
    program: Program,
    pub life: Arc<Life>,
    broker: Cable,
    hop: Option<Cable>,
    begun: Instant,
    /// Seconds since then, and MiB resident.
    pub resident: Vec<(f64, f64)>,
}

impl Process {
    /// The `number`th one of `place`.
    pub async fn start(site: &Site, place: usize, number: usize) -> Self {
        let (name, stage) = PLACES[place];
        let broker = Cable::to(site.broker, site.counts.clone()).await;
        let (url, path) = (format!("nats://{}", broker.address()), site.folder.path());
        let (stage_text, longest) = (stage.to_string(), MAX_LEN.to_string());
        let mut arguments: Vec<String> = [
            &["serve", "--stage", &stage_text, "--nats", &url, "--pipeline", path.to_str().expect("a plain path")][..],
            &["--http", "127.0.0.1:0", "--threads", "1", "--max-num-seqs", "16", "--max-model-len", &longest],
            &["--kv-blocks", "1024", "--max-batch-tokens", "64", "--healthcheck-interval", "1s"],
            &["--hop", site.hops[place]],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
        let mut hop = None;
        if stage > 0 {
            // Free now: the process asks for it in a moment, and nobody else does at an address that is only its place's.
            let own = std::net::Ipv4Addr::new(127, 0, 0, 10 + place as u8);
            let listen = std::net::TcpListener::bind((own, 0)).and_then(|it| it.local_addr()).expect("a port");
            let cable = Cable::to(listen, site.counts.clone()).await;
            let known = cable.address().to_string();
            arguments.extend(["--hop-listen".into(), listen.to_string(), "--hop-advertise".into(), known]);
            hop = Some(cable);
        }
        let program = Program::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let name = format!("{name} {number}");
        let life = Arc::new(Life { name, killed: AtomicBool::new(false), told: OnceLock::new() });
        let (mut lines, here, told) = (program.lines.clone(), site.addresses[place].clone(), life.clone());
        tokio::spawn(async move {
            let ready = |lines: &Vec<String>| lines.iter().any(|line| address(line, stage).is_some());
            // It may end before it is ready.
            if let Ok(lines) = lines.wait_for(ready).await {
                here.send_replace(lines.iter().find_map(|line| address(line, stage)).map(|at| (at, told)));
            }
        });
        Self { program, life, broker, hop, begun: Instant::now(), resident: Vec::new() }
    }

    /// Its log, as it grows.
    pub fn log(&self) -> watch::Receiver<Vec<String>> {
        self.program.lines.clone()
    }

    /// Its cable to the broker, or that to its hop port.
    pub fn cable(&self, hop: bool) -> &Cable {
        self.hop.as_ref().filter(|_| hop).unwrap_or(&self.broker)
    }

    pub async fn kill(mut self) {
        self.life.killed.store(true, SeqCst);
        self.program.kill().await;
    }

    pub fn stop(&self) {
        signal("STOP", &self.program.pid.to_string());
    }

    pub fn go_on(&self) {
        signal("CONT", &self.program.pid.to_string());
    }

    /// Whether it has ended, as nothing here does by itself.
    pub fn has_ended(&self) -> bool {
        self.program.lines.has_changed().is_err()
    }

    /// Tells it to finish; what it ended with and after how long, or `None` if it did not within [`LIMIT`].
    pub async fn finish(mut self) -> Option<(ExitStatus, Duration)> {
        let told = Instant::now();
        self.life.told.get_or_init(|| told);
        self.program.terminate();
        let status = tokio::time::timeout(LIMIT, self.program.exit()).await.ok()?;
        Some((status, told.elapsed()))
    }

    /// The status that it has ended with.
    pub async fn status(mut self) -> ExitStatus {
        self.program.exit().await
    }

    /// Notes how much memory it has now.
    pub fn weigh(&mut self) {
        const PAGE: f64 = 4096.0;
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.program.pid)).unwrap_or_default();
        if let Some(pages) = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok()) {
            self.resident.push((self.begun.elapsed().as_secs_f64(), pages * PAGE / f64::from(1 << 20)));
        }
    }
}
