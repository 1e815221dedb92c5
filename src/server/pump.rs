//! The task that owns a stage's machine (and at stage 0 the door's desk), and carries out what they decide.

mod batches;
mod direct;
mod figures;
mod mail;

use batches::{Gave, OnDevice};
use direct::Direct;
pub use direct::DirectCall;
use figures::Told;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use stageline_base::{Fault, ReplicaId, SequenceId, StageIndex, Tensors, Tick};
use stageline_core::direct::DirectMachine;
use stageline_core::machine::{Action, Event, StageMachine};
use stageline_core::message::{Body, FrameContent, LinkMail};
use stageline_core::requests::{Candidate, DoorEvent};
use stageline_core::{BatchId, Ticket};
use stageline_door::desk::{Desk, Outgoing, Submission};
use stageline_engine::DeviceHandle;
use stageline_metrics::Metrics;
use stageline_transport::{self as transport, LeaseKeeper, Mailbox, Peer, Post};
use stageline_wire::{Phase, Status};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Messages taken from one channel before the others are looked at again.
const AT_ONCE: usize = 64;

/// How long a replica that has ended or given back what was left waits for those it told to say that they heard it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A stage's door.
pub struct DoorParts {
    /// Its desk.
    pub desk: Desk,
    /// Requests from the reception, each with the end that resolves when its client is gone.
    pub submissions: mpsc::Receiver<(Submission, oneshot::Receiver<()>)>,
}

/// What a pump is made with.
pub struct PumpParts {
    /// The stage's machine.
    pub machine: StageMachine,
    /// Its device.
    pub device: DeviceHandle,
    /// Its mail.
    pub mailbox: Mailbox,
    /// Where its own mail goes.
    pub post: Arc<dyn Post>,
    /// Its lease.
    pub lease: LeaseKeeper,
    /// The live replicas of the pipeline.
    pub replicas: watch::Receiver<Vec<Status>>,
    /// At stage 0.
    pub door: Option<DoorParts>,
    /// Rows that are run past the door, and where they come from.
    pub direct: (DirectMachine, mpsc::Receiver<DirectCall>),
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// What ticks are counted from.
    pub started: Instant,
    /// Told to finish.
    pub drain: Drain,
}

/// How a replica is told to end.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Take nothing new and finish what is there.
    pub begin: CancellationToken,
    /// The time for that is over: end or give back what is left.
    pub end: CancellationToken,
}

/// See the module.
pub struct Pump {
    machine: StageMachine,
    me: Peer,
    stages: StageIndex,
    device: DeviceHandle,
    mailbox: Mailbox,
    post: Arc<dyn Post>,
    lease: LeaseKeeper,
    replicas: watch::Receiver<Vec<Status>>,
    desk: Option<Desk>,
    submissions: Option<mpsc::Receiver<(Submission, oneshot::Receiver<()>)>>,
    direct: Direct,
    clients: FuturesUnordered<BoxFuture<'static, SequenceId>>,
    metrics: Arc<Metrics>,
    /// What the metrics have been told so far.
    told: Told,
    started: Instant,
    drain: Drain,
    /// What has arrived, and when.
    parked: HashMap<Ticket, (Tensors, Tick)>,
    tickets: u64,
    /// The microbatches on the device.
    on_device: HashMap<BatchId, OnDevice>,
    /// What the newest batch gave, until its frames are made.
    output: Option<(BatchId, Gave)>,
    /// From this replica to itself: between the door and stage 0.
    local: VecDeque<Body>,
    actions: Vec<Action>,
    live: Vec<Peer>,
    /// What the records of the living say of their links' epochs, as the stage was told.
    epochs: HashMap<ReplicaId, u32>,
    /// Whether the lease is renewed.
    held: bool,
    failed: Option<Fault>,
}

impl Pump {
    /// A pump that has not begun.
    pub fn new(parts: PumpParts) -> Self {
        let setup = parts.machine.setup();
        let me = Peer { stage: setup.stage, replica: setup.me.clone() };
        let stages = setup.stages;
        let (desk, submissions) = parts.door.map_or((None, None), |door| (Some(door.desk), Some(door.submissions)));
        Self {
            machine: parts.machine,
            me,
            stages,
            device: parts.device,
            mailbox: parts.mailbox,
            post: parts.post,
            lease: parts.lease,
            replicas: parts.replicas,
            desk,
            submissions,
            direct: Direct::new(parts.direct),
            clients: FuturesUnordered::new(),
            metrics: parts.metrics,
            told: Told::default(),
            started: parts.started,
            drain: parts.drain,
            parked: HashMap::new(),
            tickets: 0,
            on_device: HashMap::new(),
            output: None,
            local: VecDeque::new(),
            actions: Vec::new(),
            live: Vec::new(),
            epochs: HashMap::new(),
            held: true,
            failed: None,
        }
    }

    /// Works until it is told to drain and has finished, then gives its lease up.
    ///
    /// # Errors
    /// The device thread or the transport is gone.
    pub async fn run(mut self) -> Result<(), Fault> {
        let mut draining = false;
        // When it ends, however much is left.
        let mut last_moment: Option<Tick> = None;
        self.replicas.mark_changed();
        let mut held = self.lease.held();
        loop {
            if let Some(fault) = self.failed.take() {
                return Err(fault);
            }
            self.publish();
            if draining && self.is_settled() && self.desk.as_ref().is_none_or(Desk::is_drained) {
                break;
            }
            if last_moment.is_some_and(|at| at <= self.now()) {
                tracing::warn!(stage = self.me.stage, "ends with something unsettled: somebody could not be told");
                break;
            }
            let (started, deadline) = (self.started, self.next_deadline().into_iter().chain(last_moment).min());
            let Self { mailbox, device, replicas, submissions, direct, clients, drain, .. } = &mut self;
            // Stop first. Then what frees room (acks, credit, results) before what takes it (requests, rows): a stage
            // under pressure drains rather than swells; the credit window is what bounds the rows that still wait.
            tokio::select! {
                biased;
                () = drain.begin.cancelled(), if !draining => {
                    draining = true;
                    self.lease.update(|status| status.phase = Phase::Draining);
                    self.door_event(DoorEvent::Drain);
                    self.stage_event(Event::Drain);
                }
                () = drain.end.cancelled(), if draining && last_moment.is_none() => {
                    last_moment = Some(self.now() + LAST_WORDS);
                    self.door_event(DoorEvent::GiveUp);
                    self.stage_event(Event::GiveBack);
                    self.give_up_direct();
                }
                arrived = mailbox.control.recv() => {
                    self.arrived(arrived)?;
                    for _ in 1..AT_ONCE {
                        let Ok(arrived) = self.mailbox.control.try_recv() else { break };
                        self.arrived(Some(arrived))?;
                    }
                }
                ran = device.ran() => self.ran(ran.ok_or_else(|| Fault::device("the device thread is gone"))?),
                arrived = mailbox.feedback.recv() => self.arrived(arrived)?,
                changed = replicas.changed() => {
                    changed.map_err(|_| Fault::internal("the watch over the leases has ended"))?;
                    self.look_at_replicas();
                }
                // Its keeper ends with this pump only.
                Ok(()) = held.changed() => {
                    let held = *held.borrow_and_update();
                    self.lease_held(held);
                }
                Some(sequence) = clients.next(), if !clients.is_empty() => self.client_gone(sequence),
                () = sleep_until(started, deadline) => {
                    self.door_event(DoorEvent::Time);
                    self.stage_event(Event::Time);
                    self.direct_time();
                }
                arrived = mailbox.stream.recv() => {
                    self.arrived(arrived)?;
                    for _ in 1..AT_ONCE {
                        let Ok(arrived) = self.mailbox.stream.try_recv() else { break };
                        self.arrived(Some(arrived))?;
                    }
                }
                Some((submission, gone)) = next_submission(submissions) => self.submitted(submission, gone),
                Some(call) = direct.calls.recv() => self.run_directly(call, draining),
            }
            self.settle_local();
        }
        self.lease.withdraw().await;
        Ok(())
    }

    fn lease_held(&mut self, held: bool) {
        let stage = self.me.stage;
        match held {
            true => tracing::info!(stage, "the lease is renewed again"),
            false => {
                tracing::warn!(stage, "the lease has not been renewed in time: others may take this replica for dead")
            }
        }
        self.held = held;
        self.door_event(DoorEvent::Held(held));
    }

    /// Whether nothing is left to do here. While the lease is not renewed nobody can be told anything, and the doors of others have
    /// taken this replica for dead: what it holds of theirs they replay elsewhere.
    fn is_settled(&self) -> bool {
        match self.held {
            true => self.machine.is_quiet(),
            false => self.desk.is_none() || self.machine.is_empty(),
        }
    }

    fn now(&self) -> Tick {
        Tick(self.started.elapsed().as_micros() as u64)
    }

    fn next_deadline(&self) -> Option<Tick> {
        let door = self.desk.as_ref().and_then(Desk::next_deadline);
        self.machine.next_deadline().into_iter().chain(door).chain(self.direct.next_deadline()).min()
    }

    fn submitted(&mut self, submission: Submission, gone: oneshot::Receiver<()>) {
        let now = self.now();
        let mut out = Vec::new();
        let Some(desk) = &mut self.desk else { return };
        if let Some(sequence) = desk.submit(now, submission, &mut out) {
            self.watch_client(sequence, gone);
        }
        self.send_all(out);
    }

    fn watch_client(&mut self, sequence: SequenceId, gone: oneshot::Receiver<()>) {
        self.clients.push(Box::pin(async move {
            // Resolves either way: the client's end is dropped, never used.
            let _ = gone.await;
            sequence
        }));
    }

    fn client_gone(&mut self, sequence: SequenceId) {
        if self.direct.owns(sequence) {
            self.cancel_direct(sequence);
        } else {
            self.door_event(DoorEvent::Cancel(sequence));
        }
    }

    fn look_at_replicas(&mut self) {
        let mut list = self.replicas.borrow_and_update().clone();
        list.retain(|status| status.phase != Phase::Loading && status.stage < self.stages);
        // A replica serves one stage: a record that says another is not its own.
        let elsewhere =
            |status: &Status| self.live.iter().any(|peer| peer.replica == status.replica && peer.stage != status.stage);
        list.retain(|status| !elsewhere(status));
        let now: Vec<Peer> = list.iter().map(|s| Peer { stage: s.stage, replica: s.replica.clone() }).collect();
        let gone: Vec<Peer> = self.live.iter().filter(|peer| !now.contains(peer)).cloned().collect();
        for peer in gone {
            tracing::info!(stage = peer.stage, replica = %peer.replica, "a replica is gone");
            self.stage_event(Event::Gone { replica: peer.replica });
        }
        for peer in now.iter().filter(|peer| !self.live.contains(peer)) {
            tracing::info!(stage = peer.stage, replica = %peer.replica, "a replica is there");
        }
        for status in &list {
            let peer = Peer { stage: status.stage, replica: status.replica.clone() };
            if !self.live.contains(&peer) || self.epochs.get(&peer.replica) != Some(&status.link_epochs) {
                self.epochs.insert(peer.replica.clone(), status.link_epochs);
                self.stage_event(Event::Lives { replica: peer.replica, stage: peer.stage, epochs: status.link_epochs });
            }
        }
        self.epochs.retain(|replica, _| now.iter().any(|peer| peer.replica == *replica));
        let mut by_stage = vec![Vec::new(); usize::from(self.stages)];
        for status in list {
            let draining = status.phase == Phase::Draining;
            let candidate = Candidate {
                replica: status.replica,
                draining,
                live_sequences: status.live_sequences,
                started_unix_ms: status.started_unix_ms,
            };
            by_stage[usize::from(status.stage)].push(candidate);
        }
        self.live = now;
        self.door_event(DoorEvent::Replicas(by_stage));
    }

    fn door_event(&mut self, event: DoorEvent) {
        let now = self.now();
        let mut out = Vec::new();
        let Some(desk) = &mut self.desk else { return };
        desk.on(now, event, &mut out);
        self.send_all(out);
    }

    fn send_all(&mut self, out: Vec<Outgoing>) {
        for (stage, to, body) in out {
            self.send(stage, to, body);
        }
    }

    fn stage_event(&mut self, event: Event) {
        let now = self.now();
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.on(now, event, &mut actions);
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Run(batch) => self.hand_over(batch),
            Action::Send { stage, to, body } => self.send(stage, to, body),
            Action::Forward { to, epoch, number, segments, batch, members } => {
                if let Some(payload) = self.cut(batch, &members) {
                    let content = FrameContent::Rows { segments, payload };
                    self.send(self.me.stage + 1, to, Body::Link(LinkMail::Frame { epoch, number, content }));
                }
            }
            Action::Settled(_) => self.output = None,
            Action::Acknowledged(after) => {
                self.observe(|stage| stage.stage_hop_seconds.observe((after / 2).as_secs_f64()))
            }
            Action::Release(ticket) => drop(self.parked.remove(&ticket)),
        }
    }
}

async fn sleep_until(started: Instant, deadline: Option<Tick>) {
    match deadline {
        Some(at) => transport::timer(started + Duration::from_micros(at.0)).await,
        None => std::future::pending().await,
    }
}

async fn next_submission<T>(submissions: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match submissions {
        Some(submissions) => submissions.recv().await,
        None => None,
    }
}

#[cfg(test)]
mod tests;
