//! Puts replicas together: all stages in one process over memory, or one stage on NATS.

use crate::access::{Entry, StageAccess};
use crate::broker::{BROKER_PATIENCE, Broker, unreachable};
use crate::pipeline::Pipeline;
use crate::pump::{DoorParts, Drain, Pump, PumpParts};
use stageline_base::hex;
use stageline_base::{Fault, FaultClass, ReplicaId, StageIndex, Tick};
use stageline_core::direct::{DirectMachine, DirectSetup};
use stageline_core::machine::{FIRST_EPOCHS, StageMachine, StageSetup};
use stageline_core::requests::DoorSetup;
use stageline_door::desk::Desk;
use stageline_door::reception::{Reception, Terms};
use stageline_door::request::Readiness;
use stageline_door::stages::Here;
use stageline_door::text::TextModel;
use stageline_engine::{Device, DeviceHandle, DeviceUse, Loader, Ready};
use stageline_metrics::Metrics;
use stageline_transport::{
    Doorbell, HopKind, HopSettings, HopSite, Hops, LeaseBoard, LeaseKeeper, Mailbox, MemoryNet, NatsNet, Peer, Post,
};
use stageline_wire::{Phase, Status, WIRE_VERSION};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests on their way from receptions to the desk, and direct calls on their way to a stage.
const SUBMISSIONS: usize = 256;

/// The replicas of this process, at work.
pub struct Serving {
    /// Where requests come in, if stage 0 is served here.
    pub reception: Option<Arc<Reception>>,
    /// The stages, to be called directly.
    pub access: Arc<StageAccess>,
    /// The connection to the broker, if there is one.
    pub net: Option<NatsNet>,
    /// How these replicas send to the next stage.
    pub hop: HopKind,
    /// Whether the leases of these replicas are renewed: that of the first speaks for all.
    pub held: watch::Receiver<bool>,
    /// How long the device has worked.
    pub usage: Arc<DeviceUse>,
    /// Tells the replicas to end.
    pub drain: Drain,
    /// Resolves when all pumps have ended.
    pub done: oneshot::Receiver<Result<(), Fault>>,
}

impl Serving {
    /// Waits until all pumps have ended.
    ///
    /// # Errors
    /// What a pump ended with.
    pub async fn ended(&mut self) -> Result<(), Fault> {
        (&mut self.done).await.map_err(|_| Fault::internal("the pump's thread has gone"))?
    }

    /// Has the replicas finish what they have, and waits for them.
    ///
    /// # Errors
    /// As [`Serving::ended`].
    pub async fn finish(mut self) -> Result<(), Fault> {
        self.drain.begin.cancel();
        self.ended().await
    }
}

/// What a pump is connected to.
struct Wiring {
    mailbox: Mailbox,
    post: Arc<dyn Post>,
    lease: LeaseKeeper,
    replicas: watch::Receiver<Vec<Status>>,
    /// Where the leases are kept, if not in this process.
    broker: Option<String>,
    /// Lives as long as the pump: the watch ends with it.
    _watch: Box<dyn Send>,
}

/// Serves all stages in this process, over memory, on one device thread. One loader a stage, in order.
///
/// # Errors
/// What the loaders say.
pub async fn embedded(
    pipeline: &Pipeline,
    loaders: Vec<Loader>,
    text: Option<Arc<TextModel>>,
    metrics: Arc<Metrics>,
) -> Result<Serving, Fault> {
    let mut device = Device::start("cpu", loaders).await?;
    let usage = device.usage();
    let (net, leases) = (MemoryNet::new(), LeaseBoard::new());
    let mut assembly = Assembly::new(pipeline, metrics, usage, HopKind::Memory);
    let mut views = Vec::new();
    for stage in 0..pipeline.stages {
        let me = new_replica();
        let peer = Peer { stage, replica: me.clone() };
        assembly.metrics.hops(stage).stage_hop.is(HopKind::Memory.as_str());
        let mailbox = net.register(peer);
        let handle = device.handle(usize::from(stage));
        let handle = handle.ok_or_else(|| Fault::internal("a stage without a place on the device"))?;
        let lease = leases.keep(assembly.status(stage, &me, handle.ready()));
        let view = leases.watch();
        let replicas = view.replicas();
        views.push(replicas.clone());
        let wiring =
            Wiring { mailbox, post: Arc::new(net.clone()), lease, replicas, broker: None, _watch: Box::new(view) };
        assembly.add((stage, me), handle, wiring, text.clone());
    }
    for view in views {
        seen(view, |live| (0..pipeline.stages).all(|stage| live.iter().any(|status| status.stage == stage))).await?;
    }
    assembly.start("pump", new_doorbell()?, device)
}

/// Serves one stage in this process, on NATS; it sends to the next one as `hop` says.
///
/// # Errors
/// What the loader says, or `Unavailable` if the broker is lost meanwhile.
pub async fn on_nats(
    pipeline: &Pipeline,
    (stage, loader): (StageIndex, Loader),
    (broker, hop_settings): (Broker, &HopSettings),
    text: Option<Arc<TextModel>>,
    metrics: Arc<Metrics>,
) -> Result<Serving, Fault> {
    let Broker { net, leases } = broker;
    let mut device = Device::start(&format!("stage-{stage}"), vec![loader]).await?;
    let handle = device.handle(0).ok_or_else(|| Fault::internal("a stage without a place on the device"))?;
    let me = new_replica();
    let peer = Peer { stage, replica: me.clone() };
    let doorbell = new_doorbell()?;
    let view = leases.watch();
    let replicas = view.replicas();
    let window_bytes = pipeline.options.stage(&me, (stage, pipeline.stages), pipeline.borders(stage)).window.bytes;
    let counts = metrics.hops(stage);
    let site = HopSite { me: peer, window_bytes, replicas: replicas.clone(), doorbell: &doorbell, metrics: counts };
    let (hops, mailbox) = Hops::open(net, site, hop_settings).await.map_err(unreachable)?;
    let hop = hops.hop();
    tracing::info!(stage, replica = %me, %hop, port = hops.address(), "sends to the next stage by this hop");
    let mut assembly = Assembly::new(pipeline, metrics, device.usage(), hop);
    let status = Status {
        hop: hops.address().map(str::to_owned),
        join: Some(hops.join_hash().to_owned()),
        ..assembly.status(stage, &me, handle.ready())
    };
    let lease = leases.keep(status).await.map_err(unreachable)?;
    seen(replicas.clone(), |live| live.iter().any(|status| status.replica == me)).await?;
    let watch = Box::new((view, leases));
    let net = hops.net().clone();
    let broker = Some(net.place().to_owned());
    let wiring = Wiring { mailbox, post: Arc::new(hops), lease, replicas, broker, _watch: watch };
    assembly.add((stage, me), handle, wiring, text);
    Ok(Serving { net: Some(net), ..assembly.start(&format!("pump-{stage}"), doorbell, device)? })
}

/// Waits until the watch over the leases shows what it must: a door that began earlier would refuse its first requests for
/// want of replicas that are there.
async fn seen(mut replicas: watch::Receiver<Vec<Status>>, all: impl Fn(&[Status]) -> bool) -> Result<(), Fault> {
    let seen = tokio::time::timeout(BROKER_PATIENCE, replicas.wait_for(|live| all(live))).await;
    match seen {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Fault::internal("the watch over the leases has ended")),
        Err(_) => Err(Fault::new(
            FaultClass::Unavailable,
            format!(
                "the leases of this process's replicas were not seen within {BROKER_PATIENCE:?}: is the broker well?"
            ),
        )),
    }
}

/// The replicas of one process while they are put together.
struct Assembly<'a> {
    pipeline: &'a Pipeline,
    started: Instant,
    drain: Drain,
    /// Of the stages behind the door's own, where they share its process: they serve until it has ended.
    followers: Drain,
    pumps: Vec<(Pump, Box<dyn Send>)>,
    metrics: Arc<Metrics>,
    usage: Arc<DeviceUse>,
    reception: Option<Arc<Reception>>,
    entries: Vec<Entry>,
    replicas: Option<watch::Receiver<Vec<Status>>>,
    held: Option<watch::Receiver<bool>>,
    hop: HopKind,
}

impl<'a> Assembly<'a> {
    fn new(pipeline: &'a Pipeline, metrics: Arc<Metrics>, usage: Arc<DeviceUse>, hop: HopKind) -> Self {
        let drain = Drain::default();
        let followers = Drain { end: drain.end.clone(), ..Drain::default() };
        let started = Instant::now();
        Self {
            pipeline,
            started,
            drain,
            followers,
            pumps: Vec::new(),
            metrics,
            usage,
            reception: None,
            entries: Vec::new(),
            replicas: None,
            held: None,
            hop,
        }
    }

    fn status(&self, stage: StageIndex, me: &ReplicaId, ready: Ready) -> Status {
        let options = &self.pipeline.options;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Status {
            wire_version: WIRE_VERSION,
            manifest: hex(&self.pipeline.digest),
            stage,
            replica: me.clone(),
            started_unix_ms: unix.as_millis() as u64,
            phase: Phase::Ready,
            kv_blocks_total: ready.kv_blocks,
            kv_blocks_free: ready.kv_blocks,
            block_size: options.block_size,
            max_model_len: options.max_model_len,
            live_sequences: 0,
            link_epochs: FIRST_EPOCHS,
            wire_dtype: options.wire_dtype,
            join: None,
            hop: None,
        }
    }

    fn add(
        &mut self,
        (stage, me): (StageIndex, ReplicaId),
        device: DeviceHandle,
        wiring: Wiring,
        text: Option<Arc<TextModel>>,
    ) {
        let options = &self.pipeline.options;
        let door = (stage == 0).then(|| {
            let (desk_end, submissions) = mpsc::channel(SUBMISSIONS);
            let terms = Terms {
                max_model_len: options.max_model_len,
                default_max_tokens: options.default_max_tokens,
                max_deadline: options.max_deadline,
                task: self.pipeline.task,
                takes: self.pipeline.borders(0).0,
                manifest: hex(&self.pipeline.digest),
            };
            let (ready_end, readiness) = watch::channel(Readiness::Ready);
            let draining = self.drain.begin.clone();
            tokio::spawn(async move {
                draining.cancelled().await;
                // The reception may be gone already.
                let _ = ready_end.send(Readiness::NotReady("this replica is shutting down".into()));
            });
            let clock = (self.started, me.boot());
            self.reception = Some(Arc::new(Reception::new(terms, text.clone(), desk_end, readiness, clock)));
            let now = Tick(self.started.elapsed().as_micros() as u64);
            let ends = (self.pipeline.borders(0).0, self.pipeline.borders(self.pipeline.stages - 1).1);
            let wanted = options.door(&me, ends, wiring.broker.clone());
            let (setup, gives) = (DoorSetup { vocab: self.pipeline.vocab, ..wanted }, self.pipeline.task.gives);
            let desk = Desk::new(now, setup, gives);
            DoorParts { desk, submissions }
        });
        let ready = device.ready();
        if let Some(stage) = self.metrics.stage(stage) {
            stage.stage_wire_dtype.is(options.wire_dtype.as_str());
            stage.refused_recordings.inc_by(ready.refused_recordings.into());
        }
        let wanted = options.stage(&me, (stage, self.pipeline.stages), self.pipeline.borders(stage));
        let (vocab, direct) = (self.pipeline.vocab, new_replica());
        let setup = StageSetup { kv_blocks: ready.kv_blocks, vocab, direct: Some(direct.clone()), ..wanted };
        let (calls, direct_calls) = mpsc::channel(SUBMISSIONS);
        let direct = DirectMachine::new(DirectSetup {
            me: direct,
            stage: setup.clone(),
            vocab,
            task: self.pipeline.task,
            max_rows: options.max_model_len,
        });
        let hop = if stage + 1 == self.pipeline.stages { "" } else { self.hop.as_str() };
        self.entries.push(Entry { here: Here { stage, takes: setup.takes.clone(), hop }, calls });
        self.replicas.get_or_insert_with(|| wiring.replicas.clone());
        self.held.get_or_insert_with(|| wiring.lease.held());
        let machine = StageMachine::new(setup);
        let pump = Pump::new(PumpParts {
            machine,
            device,
            mailbox: wiring.mailbox,
            post: wiring.post,
            lease: wiring.lease,
            replicas: wiring.replicas,
            door,
            direct: (direct, direct_calls),
            metrics: self.metrics.clone(),
            started: self.started,
            drain: if self.pumps.is_empty() { self.drain.clone() } else { self.followers.clone() },
        });
        self.pumps.push((pump, wiring._watch));
    }

    /// Starts the thread that runs the pumps: one for all of them, so that mail between two of them wakes no other.
    fn start(self, name: &str, doorbell: Doorbell, device: Device) -> Result<Serving, Fault> {
        let Self { pipeline, drain, followers, pumps, usage, reception, entries, replicas, held, hop, .. } = self;
        let (Some(replicas), Some(held)) = (replicas, held) else {
            return Err(Fault::internal("no stage was assembled"));
        };
        let access = Arc::new(StageAccess { pipeline: pipeline.overview(), entries, replicas });
        let (end, done) = oneshot::channel();
        let (failed, runtime) = (drain.begin.clone(), tokio::runtime::Handle::current());
        let run = move || {
            // For what the pumps and their transports spawn.
            let _runtime = runtime.enter();
            let outcome = doorbell.block_on(async {
                // The door's pump is the first, and the others end after it.
                let followers = &followers;
                let pumps = pumps.into_iter().map(|(pump, watch)| async move {
                    let outcome = pump.run().await;
                    drop(watch);
                    followers.begin.cancel();
                    outcome
                });
                futures::future::try_join_all(pumps).await.map(|_| ())
            });
            failed.cancel();
            // Before anyone takes the end for the process's: a driver's library must not go while its memory is given back.
            device.join();
            // Whoever served may have gone without waiting.
            let _ = end.send(outcome);
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        thread.map_err(|error| Fault::internal(format!("the pump's thread cannot be started: {error}")))?;
        Ok(Serving { reception, access, net: None, hop, held, usage, drain, done })
    }
}

/// What a pump's thread sleeps on.
fn new_doorbell() -> Result<Doorbell, Fault> {
    Doorbell::new().map_err(|error| Fault::internal(format!("the pump's doorbell cannot be made: {error}")))
}

/// A new replica of this process: a restarted process is another one.
pub(super) fn new_replica() -> ReplicaId {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    ReplicaId::new(if host.is_empty() { "host" } else { host }, rand_boot())
}

/// 64 random bits from the operating system, by way of the standard library's hash keys.
fn rand_boot() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
