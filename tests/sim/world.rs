//! The simulated world: processes, network, devices, leases, clients, and the checkers.

use bytes::{Bytes, BytesMut};
use stageline::base::prng::Prng;
use stageline::base::{Fault, FaultClass, HostTensor, ReplicaId, SequenceId, StageIndex, Tick, TokenId};
use stageline::core::link::Room;
use stageline::core::machine::{Action, Event, Planted, StageMachine, StageSetup};
use stageline::core::message::{Body, LinkLoad, LinkMail};
use stageline::core::requests::{DoorAction, DoorEvent, DoorMachine, DoorSetup, FinishReason, Judge, NewRequest};
use stageline::core::{BatchId, Member, Microbatch, Output, Sampling, Ticket, Work};
use stageline::engine::Executor;
use stageline::engine::fake::{FakeExecutor, FakeSetup, HIDDEN, expected, expected_vector};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

/// Things that at least one of CI's seeds must have made happen.
pub const MARKS: [&str; 17] = [
    "lost",
    "duplicated",
    "delayed",
    "reordered",
    "unreachable",
    "slow device",
    "failed batch",
    "poisoned request",
    "stage killed",
    "stage restarted",
    "cancelled",
    "deadline",
    "replayed",
    "refused",
    "embedded",
    "stale token",
    "reconnected",
];

const LEASE: Duration = Duration::from_secs(3);
const VOCAB: u32 = 97;
const END_TOKEN: TokenId = 13;
const POISON: TokenId = 1_000_003;

/// Which faults a world has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// None.
    Calm,
    /// All of them, for a while.
    Faults,
}

/// What came of a world.
pub struct Report {
    pub violations: Vec<String>,
    pub marks: BTreeMap<&'static str, u64>,
    /// A hash over everything that happened, in order.
    pub trace: u64,
}

enum Happening {
    Mail { to: ReplicaId, from: ReplicaId, from_stage: StageIndex, body: Body },
    Unreachable { to: ReplicaId, peer: ReplicaId },
    Reconnected { to: ReplicaId },
    Device { at: ReplicaId, batch: BatchId },
    Wake { at: ReplicaId },
    Submit(usize),
    Cancel(usize),
    Kill(StageIndex),
    Restart(StageIndex),
    LeaseOver(StageIndex, ReplicaId),
}

struct Process {
    replica: ReplicaId,
    alive: bool,
    machine: StageMachine,
    executor: FakeExecutor,
    parked: HashMap<Ticket, HostTensor>,
    /// On the device, in order; the first one runs.
    device: Vec<Microbatch>,
    output: Option<BytesMut>,
    next_ticket: u64,
    wake_at: Option<Tick>,
}

struct Client {
    prompt: Vec<TokenId>,
    max_tokens: u32,
    work: Work,
    deadline: Duration,
    poisoned: bool,
    cancelled: bool,
    sequence: Option<SequenceId>,
    tokens: Vec<TokenId>,
    vector: Option<Vec<f32>>,
    outcomes: Vec<Result<FinishReason, Fault>>,
    device_failures: u32,
}

struct EndTokens;

impl Judge for EndTokens {
    fn ends(&mut self, _: SequenceId, token: TokenId) -> Option<FinishReason> {
        (token == END_TOKEN).then_some(FinishReason::Stop)
    }
}

pub struct World {
    random: Prng,
    story: Story,
    planted: Planted,
    now: Tick,
    calm_at: Tick,
    order: u64,
    queue: BinaryHeap<Reverse<(Tick, u64)>>,
    happenings: HashMap<u64, Happening>,
    stages: StageIndex,
    processes: Vec<Process>,
    /// Live by lease; the newest first.
    leases: Vec<Vec<ReplicaId>>,
    door: DoorMachine,
    door_wake_at: Option<Tick>,
    clients: Vec<Client>,
    /// When the last message of an ordered stream arrives: (from, to, plane).
    streams: HashMap<(ReplicaId, ReplicaId, u8), Tick>,
    boots: u64,
    marks: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
    trace: u64,
}

impl World {
    pub fn new(seed: u64, planted: Planted) -> Self {
        Self::with_story(seed, planted, Story::Faults)
    }

    pub fn with_story(seed: u64, planted: Planted, story: Story) -> Self {
        let mut random = Prng::new(seed);
        let stages = 1 + random.below(4) as StageIndex;
        let embeds = random.chance(150);
        let me = ReplicaId::new("s0", 1);
        let microbatches = 1 + random.below(3) as u32;
        let setup = DoorSetup {
            me: me.clone(),
            boot: 1,
            max_num_seqs: 2 + random.below(8) as u32,
            max_queue: 1000,
            microbatches,
            microbatches_away: microbatches,
            lease: LEASE,
            row_bytes: 4,
            planted,
        };
        let max_num_seqs = setup.max_num_seqs;
        let mut world = Self {
            story,
            planted,
            now: Tick(0),
            calm_at: Tick(0) + Duration::from_secs(8),
            order: 0,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            stages,
            processes: Vec::new(),
            leases: Vec::new(),
            door: DoorMachine::new(Tick(0), setup),
            door_wake_at: None,
            clients: Vec::new(),
            streams: HashMap::new(),
            boots: 0,
            marks: BTreeMap::new(),
            violations: Vec::new(),
            trace: 0,
            random,
        };
        let shape = Shape {
            kv_blocks: 8 + world.random.below(40) as u32,
            block_size: 1 << world.random.below(5),
            max_batch_tokens: 1 + world.random.below(24) as u32,
            max_num_seqs,
            microbatches,
            delay: Duration::from_micros(world.random.below(2) * world.random.below(3000)),
        };
        for stage in 0..stages {
            let process = world.start(stage, shape);
            world.leases.push(vec![process.replica.clone()]);
            world.processes.push(process);
        }
        world.make_clients(embeds, shape);
        if story == Story::Faults {
            world.plan_outages();
        }
        world
    }

    fn start(&mut self, stage: StageIndex, shape: Shape) -> Process {
        self.boots += 1;
        let replica = ReplicaId::new(&format!("s{stage}"), self.boots);
        let width = (HIDDEN * 4) as u64;
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
            window: shape.window(),
            row_bytes_in: if stage == 0 { 4 } else { width },
            row_bytes_out: width,
            lease: LEASE,
            idle_limit: Duration::from_secs(30),
            planted: self.planted,
        };
        let executor = FakeExecutor::new(FakeSetup {
            stage,
            last: stage + 1 == self.stages,
            vocab: VOCAB,
            kv_blocks: shape.kv_blocks,
            block_size: shape.block_size,
            batch_cost: Duration::ZERO,
            row_cost: Duration::ZERO,
            poison: Some(POISON),
        });
        Process {
            replica,
            alive: true,
            machine: StageMachine::new(setup),
            executor,
            parked: HashMap::new(),
            device: Vec::new(),
            output: None,
            next_ticket: 0,
            wake_at: None,
        }
    }

    fn make_clients(&mut self, embeds: bool, shape: Shape) {
        let most = shape.kv_blocks * shape.block_size;
        for index in 0..4 + self.random.below(16) as usize {
            let length = 1 + self.random.below(u64::from(most.min(40))) as u32;
            let mut prompt: Vec<TokenId> =
                (0..length).map(|_| self.random.below(u64::from(VOCAB)) as TokenId).collect();
            let faults = self.story == Story::Faults;
            let poisoned = faults && self.random.chance(40);
            if poisoned {
                prompt[0] = POISON;
            }
            let work = if embeds {
                self.mark("embedded");
                Work::Embed
            } else {
                Work::Generate(Sampling::GREEDY)
            };
            let short = faults && self.random.chance(80);
            let deadline = if short { self.random.below(2000) } else { 200_000 };
            self.clients.push(Client {
                prompt,
                max_tokens: 1 + self.random.below(24) as u32,
                work,
                deadline: Duration::from_millis(deadline),
                poisoned,
                cancelled: false,
                sequence: None,
                tokens: Vec::new(),
                vector: None,
                outcomes: Vec::new(),
                device_failures: 0,
            });
            let at = Tick(self.random.below(6_000_000));
            self.later(at, Happening::Submit(index));
            if faults && self.random.chance(120) {
                let wait = Duration::from_micros(self.random.below(3_000_000));
                self.later(at + wait, Happening::Cancel(index));
            }
        }
    }

    fn plan_outages(&mut self) {
        for _ in 0..self.random.below(4) {
            if self.stages < 2 {
                break;
            }
            let stage = 1 + self.random.below(u64::from(self.stages) - 1) as StageIndex;
            let at = Tick(self.random.below(7_000_000));
            self.later(at, Happening::Kill(stage));
            let wait = Duration::from_micros(1000 + self.random.below(6_000_000));
            self.later(at + wait, Happening::Restart(stage));
        }
    }

    fn mark(&mut self, mark: &'static str) {
        *self.marks.entry(mark).or_default() += 1;
    }

    fn later(&mut self, at: Tick, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order)));
        self.happenings.insert(self.order, happening);
    }

    fn faults_now(&self) -> bool {
        self.story == Story::Faults && self.now < self.calm_at
    }

    /// Runs until nothing is left to happen, or for ten simulated minutes.
    pub fn run(mut self) -> Report {
        self.tell_door_the_leases();
        while let Some(Reverse((at, order))) = self.queue.pop() {
            if at > Tick(600_000_000) {
                break;
            }
            self.now = at;
            let Some(happening) = self.happenings.remove(&order) else { continue };
            self.trace = self.trace.rotate_left(5) ^ at.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ order;
            self.happen(happening);
        }
        self.check_end();
        let counts = self.door.counts();
        for (mark, count) in
            [("replayed", counts.replays), ("refused", counts.refusals), ("stale token", counts.stale_tokens)]
        {
            if count > 0 {
                *self.marks.entry(mark).or_default() += count;
            }
        }
        Report { violations: self.violations, marks: self.marks, trace: self.trace }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Mail { to, from, from_stage, body } => self.deliver(&to, from, from_stage, body),
            Happening::Unreachable { to, peer } => self.stage_event(&to, Event::Unreachable { peer }),
            Happening::Reconnected { to } => {
                self.mark("reconnected");
                self.stage_event(&to, Event::Reconnected);
            }
            Happening::Device { at, batch } => self.device_done(&at, batch),
            Happening::Wake { at } => self.wake(&at),
            Happening::Submit(client) => self.submit(client),
            Happening::Cancel(client) => {
                if let Some(sequence) = self.clients[client].sequence
                    && self.clients[client].outcomes.is_empty()
                {
                    self.mark("cancelled");
                    self.clients[client].cancelled = true;
                    self.door_event(DoorEvent::Cancel(sequence));
                }
            }
            Happening::Kill(stage) => {
                let process = &mut self.processes[usize::from(stage)];
                if process.alive {
                    process.alive = false;
                    let replica = process.replica.clone();
                    self.mark("stage killed");
                    self.later(self.now + LEASE, Happening::LeaseOver(stage, replica));
                }
            }
            Happening::Restart(stage) => {
                if !self.processes[usize::from(stage)].alive {
                    self.mark("stage restarted");
                    let shape = Shape::of(&self.processes[usize::from(stage)]);
                    let process = self.start(stage, shape);
                    self.leases[usize::from(stage)].insert(0, process.replica.clone());
                    self.processes[usize::from(stage)] = process;
                    self.tell_door_the_leases();
                }
            }
            Happening::LeaseOver(stage, replica) => {
                self.leases[usize::from(stage)].retain(|other| *other != replica);
                for to in self.live_replicas() {
                    self.stage_event(&to, Event::Gone { replica: replica.clone() });
                }
                self.tell_door_the_leases();
            }
        }
    }

    fn live_replicas(&self) -> Vec<ReplicaId> {
        self.processes.iter().filter(|p| p.alive).map(|p| p.replica.clone()).collect()
    }

    fn tell_door_the_leases(&mut self) {
        let leases = self.leases.clone();
        self.door_event(DoorEvent::Replicas(leases));
    }

    fn submit(&mut self, index: usize) {
        let client = &self.clients[index];
        let request = NewRequest {
            call_id: format!("client-{index}"),
            work: client.work,
            prompt: client.prompt.clone(),
            max_tokens: client.max_tokens,
            deadline: self.now + client.deadline,
        };
        match self.door.submit(request) {
            Ok(sequence) => self.clients[index].sequence = Some(sequence),
            Err(fault) => self.clients[index].outcomes.push(Err(fault)),
        }
        self.door_event(DoorEvent::Time);
    }

    fn deliver(&mut self, to: &ReplicaId, from: ReplicaId, from_stage: StageIndex, body: Body) {
        let door = self.processes[0].replica == *to;
        match body {
            Body::Feedback(feedback) => {
                let (number, reports) = (feedback.number, feedback.reports);
                self.door_event(DoorEvent::Feedback { from, stage: from_stage, number, reports });
            }
            Body::CloseAck { number } => self.door_event(DoorEvent::CloseAck { from, number }),
            Body::Reply(reply) if door && from == *to => self.door_event(DoorEvent::Reply(reply)),
            Body::Reply(reply) => self.stage_event(to, Event::Reply { from, reply }),
            Body::FeedbackAck { number } => self.stage_event(to, Event::FeedbackAck { from, number }),
            Body::CloseNow { number, closes } => self.stage_event(to, Event::CloseNow { from, number, closes }),
            Body::Link(mail) => {
                let Some(process) = self.processes.iter_mut().find(|p| p.replica == *to && p.alive) else { return };
                process.next_ticket += 1;
                let ticket = Ticket(process.next_ticket);
                if let LinkMail::Frame { load: LinkLoad::Rows { payload, .. }, .. } = &mail {
                    process.parked.insert(ticket, payload.clone());
                }
                self.stage_event(to, Event::Link { from, mail, ticket });
            }
        }
    }

    fn send(&mut self, from: ReplicaId, from_stage: StageIndex, to: ReplicaId, body: Body) {
        if from == to {
            let happening = Happening::Mail { to, from, from_stage, body };
            return self.later(self.now + Duration::from_micros(5), happening);
        }
        let plane = match &body {
            Body::Link(_) => 0,
            Body::Feedback(_) | Body::CloseAck { .. } => 2,
            _ => 1,
        };
        let dead = !self.processes.iter().any(|p| p.replica == to && p.alive);
        let mut delay = Duration::from_micros(50 + self.random.below(450));
        let faults = self.faults_now();
        if dead {
            if self.random.chance(500) {
                self.mark("unreachable");
                self.later(self.now + delay, Happening::Unreachable { to: from, peer: to });
            }
            return;
        }
        if faults && self.random.chance(8) {
            self.mark("lost");
            return;
        }
        if faults && self.random.chance(1) {
            self.later(self.now + Duration::from_millis(1), Happening::Reconnected { to: from.clone() });
        }
        if faults && self.random.chance(10) {
            self.mark("delayed");
            delay += Duration::from_micros(self.random.below(400_000));
        }
        let stream = (from.clone(), to.clone(), plane);
        let mut at = self.now + delay;
        let ordered_at = self.streams.get(&stream).map_or(at, |last| at.max(*last + Duration::from_micros(1)));
        if faults && self.random.chance(5) && ordered_at > at {
            self.mark("reordered");
        } else {
            at = ordered_at;
        }
        self.streams.insert(stream, at.max(ordered_at));
        if faults && self.random.chance(8) {
            self.mark("duplicated");
            let again = at + Duration::from_micros(self.random.below(50_000));
            let copy = Happening::Mail { to: to.clone(), from: from.clone(), from_stage, body: body.clone() };
            self.later(again, copy);
        }
        self.later(at, Happening::Mail { to, from, from_stage, body });
    }

    fn door_event(&mut self, event: DoorEvent) {
        let mut actions = Vec::new();
        self.door.on(self.now, event, &mut EndTokens, &mut actions);
        let me = self.processes[0].replica.clone();
        for action in actions {
            match action {
                DoorAction::Send { to, body, .. } => self.send(me.clone(), 0, to, body),
                DoorAction::Token { sequence, id, .. } => self.client(sequence, |client| client.tokens.push(id)),
                DoorAction::Vector { sequence, values } => self.client(sequence, |c| c.vector = Some(values)),
                DoorAction::Ended { sequence, outcome } => self.client(sequence, |c| c.outcomes.push(outcome)),
                DoorAction::Drained => {}
            }
        }
        if let Some(at) = self.door.next_deadline()
            && self.door_wake_at.is_none_or(|planned| at < planned || planned <= self.now)
        {
            self.door_wake_at = Some(at.max(self.now + Duration::from_micros(1)));
            self.later(at.max(self.now + Duration::from_micros(1)), Happening::Wake { at: ReplicaId::new("door", 0) });
        }
    }

    fn client(&mut self, sequence: SequenceId, change: impl FnOnce(&mut Client)) {
        match self.clients.iter_mut().find(|client| client.sequence == Some(sequence)) {
            Some(client) => change(client),
            None => self.violations.push(format!("the door speaks of {sequence}, which nobody asked for")),
        }
    }

    fn wake(&mut self, at: &ReplicaId) {
        if at.as_str().starts_with("door-") {
            if self.door_wake_at == Some(self.now) {
                self.door_wake_at = None;
                self.door_event(DoorEvent::Time);
            }
            return;
        }
        if let Some(process) = self.processes.iter_mut().find(|p| p.replica == *at)
            && process.wake_at == Some(self.now)
        {
            process.wake_at = None;
            self.stage_event(at, Event::Time);
        }
    }

    fn stage_event(&mut self, at: &ReplicaId, event: Event) {
        let Some(index) = self.processes.iter().position(|p| p.replica == *at && p.alive) else { return };
        let mut actions = Vec::new();
        let now = self.now;
        self.processes[index].machine.on(now, event, &mut actions);
        for action in actions {
            self.act(index, action);
        }
        self.check_blocks(index);
        let process = &mut self.processes[index];
        if let Some(deadline) = process.machine.next_deadline()
            && process.wake_at.is_none_or(|planned| deadline < planned || planned <= now)
        {
            let deadline = deadline.max(now + Duration::from_micros(1));
            process.wake_at = Some(deadline);
            self.later(deadline, Happening::Wake { at: at.clone() });
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let stage = index as StageIndex;
        let process = &mut self.processes[index];
        let me = process.replica.clone();
        match action {
            Action::Run(batch) => {
                process.device.push(batch);
                if self.processes[index].device.len() == 1 {
                    self.start_device(index);
                }
            }
            Action::Send { to, body, .. } => self.send(me, stage, to, body),
            Action::Forward { to, epoch, number, segments, ranges, .. } => {
                let output = process.output.as_ref().map(|bytes| Bytes::copy_from_slice(bytes)).unwrap_or_default();
                let mut rows = BytesMut::new();
                for range in &ranges {
                    let width = HIDDEN * 4;
                    rows.extend_from_slice(&output[range.start as usize * width..range.end as usize * width]);
                }
                let count: usize = segments.iter().map(|s| s.rows as usize).sum();
                match HostTensor::activations(count, HIDDEN, rows.freeze()) {
                    Some(payload) => {
                        let load = LinkLoad::Rows { segments, payload };
                        self.send(me, stage, to, Body::Link(LinkMail::Frame { epoch, number, load }));
                    }
                    None => self.violations.push("a frame's segments and ranges differ".into()),
                }
            }
            Action::Settled(_) => process.output = None,
            Action::Release(ticket) => {
                if process.parked.remove(&ticket).is_none() {
                    self.violations.push(format!("{me}: a payload was released twice"));
                }
            }
        }
    }

    /// What is on the device must not be free: another sequence could be given it.
    fn check_blocks(&mut self, index: usize) {
        let process = &self.processes[index];
        let members = process.device.iter().flat_map(|batch| &batch.members);
        let free =
            members.flat_map(|member: &Member| member.blocks.iter()).find(|b| process.machine.block_is_free(**b));
        if let Some(block) = free {
            self.violations.push(format!("{}: block {block} is on the device and free", process.replica));
        }
    }

    fn start_device(&mut self, index: usize) {
        let process = &self.processes[index];
        let (at, batch) = (process.replica.clone(), process.device[0].id);
        let mut cost = Duration::from_micros(500 + self.random.below(1500));
        if self.faults_now() && self.random.chance(20) {
            self.mark("slow device");
            cost += Duration::from_micros(self.random.below(300_000));
        }
        self.later(self.now + cost, Happening::Device { at, batch });
    }

    fn device_done(&mut self, at: &ReplicaId, batch: BatchId) {
        let Some(index) = self.processes.iter().position(|p| p.replica == *at && p.alive) else { return };
        let inject = self.faults_now() && self.random.chance(15);
        let process = &mut self.processes[index];
        let work = process.device.remove(0);
        assert_eq!(work.id, batch, "the device runs batches in order");
        let inputs: Option<Vec<HostTensor>> = work
            .members
            .iter()
            .map(|m| process.parked.get(&m.ticket).map(|t| t.slice_rows(m.ticket_row as usize, m.rows as usize)))
            .collect();
        let Some(inputs) = inputs else {
            self.violations.push("a batch names a payload that was released".into());
            return;
        };
        let outcome = if inject { Err(Fault::device("injected")) } else { process.executor.run(&work, &inputs) };
        let outcome = match outcome {
            Ok(Output::Activations(bytes)) => {
                process.output = Some(bytes);
                Ok(Vec::new())
            }
            Ok(Output::Emissions(emissions)) => Ok(emissions),
            Err(fault) => Err(fault),
        };
        if outcome.is_err() {
            self.mark(if inject { "failed batch" } else { "poisoned request" });
            for member in &work.members {
                self.client(member.sequence, |client| client.device_failures += 1);
            }
        }
        // The prefetched batch starts at once; what the outcome lets the stage run starts by itself if there is none.
        if !self.processes[index].device.is_empty() {
            self.start_device(index);
        }
        self.stage_event(at, Event::Ran { batch, outcome });
    }

    fn check_end(&mut self) {
        let mut wrong = Vec::new();
        for (index, client) in self.clients.iter().enumerate() {
            if let Err(why) = check_client(client, self.stages) {
                wrong.push(format!("client {index}: {why}"));
            }
            if matches!(client.outcomes.first(), Some(Err(f)) if f.class == FaultClass::DeadlineExceeded) {
                *self.marks.entry("deadline").or_default() += 1;
            }
        }
        for process in self.processes.iter().filter(|process| process.alive) {
            let machine = &process.machine;
            let (free, total) = machine.kv_blocks();
            if free != total {
                wrong.push(format!("{}: {} KV blocks leaked", process.replica, total - free));
            }
            if machine.unsettled() != (0, Room::default()) || !process.parked.is_empty() {
                wrong.push(format!("{}: payloads or credit leaked: {:?}", process.replica, machine.unsettled()));
            }
            if machine.counts().idle > 0 {
                wrong.push(format!("{}: only the idle limit freed a sequence", process.replica));
            }
            if !machine.is_quiet() {
                wrong.push(format!("{}: it is not quiet", process.replica));
            }
        }
        if !self.door.is_quiet() {
            wrong.push("the door is not quiet".into());
        }
        if let Some(credit) = self.processes[0].alive.then(|| self.processes[0].machine.next_deadline()).flatten() {
            wrong.push(format!("stage 0 still waits for {credit:?}"));
        }
        self.violations.append(&mut wrong);
    }
}

fn check_client(client: &Client, stages: StageIndex) -> Result<(), String> {
    let [outcome] = client.outcomes.as_slice() else {
        return Err(format!("ended {} times", client.outcomes.len()));
    };
    let mut right = expected(&client.prompt, stages, VOCAB, client.max_tokens as usize);
    if let Some(end) = right.iter().position(|id| *id == END_TOKEN) {
        right.truncate(end + 1);
    }
    if !right.starts_with(&client.tokens) {
        return Err(format!("wrong tokens {:?}, right are {right:?}", client.tokens));
    }
    match outcome {
        Ok(_) if client.work == Work::Embed => {
            let right = expected_vector(&client.prompt, stages);
            if client.vector.as_ref() == Some(&right) { Ok(()) } else { Err("wrong vector".into()) }
        }
        Ok(reason) => {
            let stopped = right.last() == Some(&END_TOKEN);
            let right_reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
            if client.tokens != right {
                return Err(format!("the answer is cut short: {:?} of {right:?}", client.tokens));
            }
            if *reason == right_reason { Ok(()) } else { Err(format!("finished by {reason:?}")) }
        }
        Err(fault) => {
            let allowed = match fault.class {
                FaultClass::Cancelled => client.cancelled,
                FaultClass::DeadlineExceeded => client.deadline < Duration::from_secs(100),
                FaultClass::Unavailable => client.sequence.is_none() || client.deadline < Duration::from_secs(100),
                FaultClass::DeviceFailed => client.device_failures > 3 || client.poisoned,
                FaultClass::InvalidRequest => true,
                _ => false,
            };
            if allowed { Ok(()) } else { Err(format!("must not end with: {fault}")) }
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    kv_blocks: u32,
    block_size: u32,
    max_batch_tokens: u32,
    max_num_seqs: u32,
    microbatches: u32,
    delay: Duration,
}

impl Shape {
    fn of(process: &Process) -> Self {
        let setup = process.machine.setup();
        Self {
            kv_blocks: setup.kv_blocks,
            block_size: setup.block_size,
            max_batch_tokens: setup.max_batch_tokens,
            max_num_seqs: setup.max_num_seqs,
            microbatches: setup.microbatches,
            delay: setup.max_batch_delay,
        }
    }

    /// Room for the longest encoder sequence beside what decode keeps.
    fn window(self) -> Room {
        let rows = u64::from(self.max_num_seqs) + 48 + u64::from(self.max_batch_tokens);
        Room { rows, bytes: rows * (HIDDEN * 4) as u64 }
    }
}
