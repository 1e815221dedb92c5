//! The stages' processes and their devices.

use super::model::POISON;
use super::{Happening, LEASE, World};
use stageline_base::{Border, Fault, ReplicaId, StageIndex, Tensors, Tick};
use stageline_core::link::Room;
use stageline_core::machine::{Action, Event, FIRST_EPOCHS, StageMachine, StageSetup};
use stageline_core::message::{Body, Feedback, FrameContent, LinkMail, Report};
use stageline_core::requests::{Candidate, DoorMachine, DoorSetup};
use stageline_core::{BatchId, Microbatch, Output, Ticket};
use stageline_engine::Executor;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

pub struct Process {
    pub replica: ReplicaId,
    pub alive: bool,
    /// At stage 0.
    pub door: Option<Door>,
    /// Since when it has been about to end.
    pub drained_since: Option<Tick>,
    /// Whose leases it does not see.
    pub blind_to: BTreeSet<ReplicaId>,
    /// Whether nothing reaches it, nor leaves it.
    pub severed: bool,
    /// It will be so for that long when the next feedback is on its way to it.
    pub cut_at_news: Option<Duration>,
    pub machine: StageMachine,
    pub executor: Box<dyn Executor>,
    pub parked: HashMap<Ticket, Tensors>,
    /// On the device, in order; the first one runs.
    pub device: Vec<OnDevice>,
    pub output: Option<Output>,
    pub next_ticket: u64,
    pub wake_at: Option<Tick>,
    /// What its lease states of its links' epochs.
    pub epochs: u32,
}

/// The door of a process.
pub struct Door {
    pub machine: DoorMachine,
    pub wake_at: Option<Tick>,
    /// Who is about to end, as far as it was told.
    pub draining: BTreeSet<ReplicaId>,
}

impl Process {
    pub fn stage(&self) -> StageIndex {
        self.machine.setup().stage
    }

    /// Whether it was told to end and has nothing left to do.
    pub fn has_finished(&self) -> bool {
        let door = self.door.as_ref().is_none_or(|door| door.machine.is_quiet());
        self.alive && self.drained_since.is_some() && door && self.machine.is_quiet()
    }
}

impl Process {
    /// What the newest batch gave for these members.
    fn cut(&self, members: &[(usize, Range<u32>)]) -> Option<Tensors> {
        let rows: usize = members.iter().map(|(_, range)| range.len()).sum();
        match self.output.as_ref()? {
            Output::Sets(sets) => sets.get(members.first()?.0).cloned(),
            Output::Rows(tensors) => {
                let (spec, all) = (&self.machine.setup().gives.tensors()[0], &tensors[0]);
                let (_, width) = spec.row()?;
                let part = |(_, range): &(usize, Range<u32>)| range.start as usize * width..range.end as usize * width;
                let bytes: Vec<u8> = members.iter().flat_map(|member| all[part(member)].iter().copied()).collect();
                Tensors::hidden(rows, bytes.into())
            }
            Output::Emissions(_) => None,
        }
    }
}

/// A microbatch that was handed to a device.
pub struct OnDevice {
    pub batch: Microbatch,
    inputs: Vec<Tensors>,
    /// Whether it could be handed over; an error of its own if the world wants it to fail.
    started: Result<(), Fault>,
    injected: bool,
}

/// What the stages of one world are made with.
#[derive(Clone, Copy)]
pub struct Shape {
    pub kv_blocks: u32,
    pub block_size: u32,
    pub max_batch_tokens: u32,
    pub max_num_seqs: u32,
    pub microbatches: u32,
    pub delay: Duration,
}

impl Shape {
    /// Room for the longest encoder sequence beside what decode keeps.
    pub fn window(self, takes: &Border) -> Room {
        let rows = u64::from(self.max_num_seqs) + 48 + u64::from(self.max_batch_tokens);
        // Of what stays together, three requests.
        Room { rows, bytes: if takes.is_by_rows() { takes.most_bytes(rows) } else { 3 * takes.most_bytes(1) } }
    }
}

impl World {
    /// Starts a process that serves `stage`, and gives it a lease.
    pub fn start(&mut self, stage: StageIndex) {
        let shape = self.shape;
        self.boots += 1;
        let replica = ReplicaId::new(&format!("s{stage}"), self.boots);
        let [takes, gives] = [0, 1].map(|next| self.borders[usize::from(stage) + next].clone());
        let setup = StageSetup {
            me: replica.clone(),
            stage,
            stages: self.stages,
            kv_blocks: shape.kv_blocks,
            block_size: shape.block_size,
            max_num_seqs: shape.max_num_seqs,
            max_batch_tokens: shape.max_batch_tokens,
            microbatches: shape.microbatches,
            max_batch_delay: shape.delay,
            vocab: POISON + 1,
            direct: None,
            window: shape.window(&takes),
            takes,
            gives,
            lease: LEASE,
            idle_limit: Duration::from_secs(30),
            planted: self.planted,
        };
        let executor = self.model.executor(stage, self.stages, shape);
        let setup_of_door = DoorSetup { me: replica.clone(), boot: self.boots, ..self.doors.clone() };
        let door =
            |setup| Door { machine: DoorMachine::new(self.now, setup), wake_at: None, draining: BTreeSet::new() };
        let candidate =
            Candidate { replica: replica.clone(), draining: false, live_sequences: 0, started_unix_ms: self.boots };
        self.leases[usize::from(stage)].insert(0, candidate);
        self.processes.push(Process {
            replica: replica.clone(),
            alive: true,
            door: (stage == 0).then_some(setup_of_door).map(door),
            drained_since: None,
            blind_to: BTreeSet::new(),
            severed: false,
            cut_at_news: None,
            machine: StageMachine::new(setup),
            executor,
            parked: HashMap::new(),
            device: Vec::new(),
            output: None,
            next_ticket: 0,
            wake_at: None,
            epochs: FIRST_EPOCHS,
        });
        self.show_lease(&replica);
        for other in self.live_replicas() {
            self.sees_soon(replica.clone(), other);
        }
    }

    pub fn stage_event(&mut self, at: &ReplicaId, event: Event) {
        let Some(index) = self.processes.iter().position(|p| p.replica == *at && p.alive) else { return };
        let mut actions = Vec::new();
        let now = self.now;
        self.processes[index].machine.on(now, event, &mut actions);
        for action in actions {
            self.act(index, action);
        }
        self.check_blocks(index);
        self.check_memory(index);
        let epochs = self.processes[index].machine.epoch_ceiling();
        if std::mem::replace(&mut self.processes[index].epochs, epochs) != epochs {
            self.show_lease(at);
        }
        let deadline = self.processes[index].machine.next_deadline();
        self.check_deadline(deadline, at);
        let process = &mut self.processes[index];
        if let Some(deadline) = deadline
            && process.wake_at.is_none_or(|planned| deadline < planned || planned <= now)
        {
            process.wake_at = Some(deadline);
            self.later(deadline, Happening::Wake { at: at.clone() });
        }
        self.end_if_finished(index);
    }

    /// A process that was told to end does so as soon as nothing is left to do.
    pub fn end_if_finished(&mut self, index: usize) {
        if self.processes[index].has_finished() {
            self.later(self.now, Happening::Exit(self.processes[index].replica.clone()));
        }
    }

    pub fn act(&mut self, index: usize, action: Action) {
        let process = &mut self.processes[index];
        let me = process.replica.clone();
        match action {
            Action::Run(batch) => self.hand_over(index, batch),
            Action::Send { to, body, .. } => {
                if let Body::Feedback(Feedback { reports, .. }) = &body
                    && reports.iter().any(|report| matches!(report, Report::Failed { fault, .. } if fault.message.contains("shutting down")))
                {
                    self.mark("given back");
                }
                self.send(me, to, body);
            }
            Action::Forward { to, epoch, number, segments, members, .. } => match process.cut(&members) {
                Some(payload) => {
                    let content = FrameContent::Rows { segments, payload };
                    self.send(me, to, Body::Link(LinkMail::Frame { epoch, number, content }));
                }
                None => self.violations.push("a frame of what the batch did not give".into()),
            },
            Action::Settled(_) => process.output = None,
            Action::Acknowledged(_) => {}
            Action::Release(ticket) => {
                if process.parked.remove(&ticket).is_none() {
                    self.violations.push(format!("{me}: a payload was released twice"));
                }
            }
        }
    }

    /// Gives a batch to the device, which may run another.
    fn hand_over(&mut self, index: usize, batch: Microbatch) {
        let injected = self.faults_now() && self.random.chance(15);
        let process = &mut self.processes[index];
        let inputs: Option<Vec<Tensors>> = batch
            .members
            .iter()
            .map(|m| {
                let parked = process.parked.get(&m.ticket)?;
                let cut = || parked.slice_rows(m.ticket_row as usize, m.rows as usize);
                Some(if process.machine.setup().takes.is_by_rows() { cut() } else { parked.clone() })
            })
            .collect();
        let Some(inputs) = inputs else {
            self.violations.push("a batch names a payload that was released".into());
            return;
        };
        let started = if injected { Err(Fault::device("injected")) } else { process.executor.start(&batch, &inputs) };
        process.device.push(OnDevice { batch, inputs, started, injected });
        if process.device.len() == 1 {
            self.start_device(index);
        }
    }

    pub fn start_device(&mut self, index: usize) {
        let process = &self.processes[index];
        let (at, batch) = (process.replica.clone(), process.device[0].batch.id);
        let mut cost = Duration::from_micros(500 + self.random.below(1500));
        if self.faults_now() && self.random.chance(20) {
            self.mark("slow device");
            cost += Duration::from_micros(self.random.below(300_000));
        }
        self.later(self.now + cost, Happening::Device { at, batch });
    }

    pub fn device_done(&mut self, at: &ReplicaId, batch: BatchId) {
        let Some(index) = self.processes.iter().position(|p| p.replica == *at && p.alive) else { return };
        let process = &mut self.processes[index];
        let OnDevice { batch: work, inputs, started, injected } = process.device.remove(0);
        assert_eq!(work.id, batch, "the device runs batches in order");
        let outcome = match started.and_then(|()| process.executor.run(&work, &inputs)) {
            Ok(output @ (Output::Rows(_) | Output::Sets(_))) => {
                process.output = Some(output);
                Ok(Vec::new())
            }
            Ok(Output::Emissions(emissions)) => Ok(emissions),
            Err(fault) => Err(fault),
        };
        if outcome.is_err() {
            self.mark(if injected { "failed batch" } else { "poisoned request" });
            for member in &work.members {
                // Whose door has died may be known by another sequence already.
                let known = self.clients.iter_mut().find(|client| client.sequence == Some(member.sequence));
                known.into_iter().for_each(|client| client.device_failures += 1);
            }
        }
        // The prefetched batch starts at once; what the outcome lets the stage run starts by itself if there is none.
        if !self.processes[index].device.is_empty() {
            self.start_device(index);
        }
        self.stage_event(at, Event::Ran { batch, outcome });
    }
}
