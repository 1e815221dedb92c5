//! The simulated world: what happens in it, in order of time.

mod checks;
mod clients;
pub mod model;
mod network;
pub mod processes;

use clients::Client;
use model::Model;
use processes::{Process, Shape};
use stageline::base::prng::Prng;
use stageline::base::{ReplicaId, StageIndex, Tick, TokenId};
use stageline::core::BatchId;
use stageline::core::machine::{Event, Planted};
use stageline::core::message::Body;
use stageline::core::requests::{DoorEvent, DoorMachine, DoorSetup};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::rc::Rc;
use std::time::Duration;

/// Things that at least one of CI's seeds must have made happen.
pub const MARKS: [&str; 18] = [
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
    "lease lapsed",
];

const LEASE: Duration = Duration::from_secs(3);
const END_TOKEN: TokenId = 13;

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
    Mail {
        to: ReplicaId,
        from: ReplicaId,
        body: Body,
    },
    Unreachable {
        to: ReplicaId,
        peer: ReplicaId,
    },
    Reconnected {
        to: ReplicaId,
    },
    Device {
        at: ReplicaId,
        batch: BatchId,
    },
    Wake {
        at: ReplicaId,
    },
    Submit(usize),
    Cancel(usize),
    Kill(StageIndex),
    Restart(StageIndex),
    LeaseOver(StageIndex, ReplicaId),
    /// Some take a replica for dead that lives: its renewal is late.
    Lapse(StageIndex),
    /// The renewal is there.
    Renewal(StageIndex, ReplicaId),
}

pub struct World {
    model: Rc<dyn Model>,
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
    pub fn new(seed: u64, planted: Planted, story: Story, model: Rc<dyn Model>) -> Self {
        let mut random = Prng::new(seed);
        let stages = 1 + random.below(model.most_stages().into()) as StageIndex;
        let embeds = random.chance(150) && model.encodes();
        let me = ReplicaId::new("s0", 1);
        let microbatches = 1 + random.below(3) as u32;
        let setup = DoorSetup {
            me: me.clone(),
            boot: 1,
            max_num_seqs: 2 + random.below(8) as u32,
            max_queue: 1000,
            microbatches,
            microbatches_away: 1 + random.below(microbatches.into()) as u32,
            lease: LEASE,
            row_bytes: 4,
            planted,
        };
        let max_num_seqs = setup.max_num_seqs;
        let mut world = Self {
            model,
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
        for _ in 0..self.random.below(3) {
            let stage = self.random.below(u64::from(self.stages)) as StageIndex;
            let at = Tick(self.random.below(7_000_000));
            self.later(at, Happening::Lapse(stage));
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
            if !self.violations.is_empty() {
                break;
            }
        }
        if self.violations.is_empty() {
            self.check_end();
        }
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
            Happening::Mail { to, from, body } => self.deliver(&to, from, body),
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
            Happening::Lapse(stage) => self.lapse(stage),
            Happening::Renewal(stage, replica) => {
                let process = &self.processes[usize::from(stage)];
                let leases = &mut self.leases[usize::from(stage)];
                if process.alive && process.replica == replica && !leases.contains(&replica) {
                    leases.insert(0, replica);
                    self.tell_door_the_leases();
                }
            }
        }
    }

    /// Each process looks at the leases for itself, so one may take a replica for dead while another does not.
    fn lapse(&mut self, stage: StageIndex) {
        let process = &self.processes[usize::from(stage)];
        if !process.alive {
            return;
        }
        let replica = process.replica.clone();
        self.mark("lease lapsed");
        for to in self.live_replicas() {
            if self.random.chance(300) {
                continue;
            }
            let door = to == self.processes[0].replica;
            self.stage_event(&to, Event::Gone { replica: replica.clone() });
            if door {
                self.leases[usize::from(stage)].retain(|other| *other != replica);
                self.tell_door_the_leases();
            }
        }
        let wait = Duration::from_micros(1000 + self.random.below(4_000_000));
        self.later(self.now + wait, Happening::Renewal(stage, replica));
    }

    fn live_replicas(&self) -> Vec<ReplicaId> {
        self.processes.iter().filter(|p| p.alive).map(|p| p.replica.clone()).collect()
    }

    fn tell_door_the_leases(&mut self) {
        let leases = self.leases.clone();
        self.door_event(DoorEvent::Replicas(leases));
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
}
