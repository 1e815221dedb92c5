//! The simulated world: what happens in it, in order of time.

mod checks;
mod clients;
mod forger;
mod lives;
pub mod model;
mod network;
#[allow(dead_code, reason = "tests/cuda simulates a decoder alone")]
pub mod pictures;
pub mod processes;

use clients::Client;
use model::Model;
use processes::{Process, Shape};
use stageline_base::prng::Prng;
use stageline_base::{Border, ReplicaId, SequenceId, StageIndex, Tick, TokenId};
use stageline_core::Planted;
use stageline_core::machine::Event;
use stageline_core::message::Body;
use stageline_core::requests::{Candidate, DoorEvent, DoorSetup, Judged};
use stageline_core::{BatchId, Opening};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Things that at least one of CI's seeds must have made happen.
pub const MARKS: [&str; 28] = [
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
    "judged late",
    "taken over",
    "deadline",
    "replayed",
    "refused",
    "embedded",
    "stale token",
    "reconnected",
    "lease lapsed",
    "cut off",
    "door killed",
    "drained",
    "given back",
    "shared by two",
    "no room in time",
    "waited for a stage",
    "forged",
];

const LEASE: Duration = Duration::from_secs(3);
/// How long a process that has given everything back waits to be heard.
const LAST_WORDS: Duration = Duration::from_secs(1);
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
    /// Whether an answer goes on is said later than its token was told.
    Judged {
        at: ReplicaId,
        about: Judged,
    },
    /// Of the processes that serve a stage, the one that has lived longest, if it is not about to end already.
    Kill(StageIndex),
    /// The same is told to end; it has so long to finish.
    Drain(StageIndex, Duration),
    /// Its time is over.
    GiveUp(ReplicaId),
    /// It ends, however much is left.
    Exit(ReplicaId),
    Start(StageIndex),
    LeaseOver(ReplicaId),
    /// Some take a replica for dead that lives: its renewal is late.
    Lapse(StageIndex),
    /// A process loses its way to all others, for so long.
    Cut(StageIndex, Duration),
    /// It has been without one for a lease: it knows, and the others take it for dead.
    CutOff(ReplicaId),
    /// It has it again.
    Mended(ReplicaId),
    /// The renewal is there.
    Renewal(ReplicaId),
    /// All records show how loaded their replicas are.
    Records,
    /// A process sees the lease of a replica, and what it states.
    Sees {
        to: ReplicaId,
        replica: ReplicaId,
    },
    /// Somebody speaks out of turn.
    Forge,
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
    /// What crosses in front of each stage, and the answer.
    borders: Vec<Border>,
    /// All that ever were, dead ones too.
    processes: Vec<Process>,
    /// Live by lease, by stage; the newest first.
    leases: Vec<Vec<Candidate>>,
    shape: Shape,
    doors: DoorSetup,
    clients: Vec<Client>,
    /// When the last message of an ordered stream arrives: (from, to, plane).
    streams: HashMap<(ReplicaId, ReplicaId, u8), Tick>,
    boots: u64,
    /// The last Open of each sequence.
    openings: HashMap<SequenceId, Arc<Opening>>,
    forged_epochs: u32,
    marks: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
    trace: u64,
}

impl World {
    pub fn new(seed: u64, planted: Planted, story: Story, model: Rc<dyn Model>) -> Self {
        let mut random = Prng::new(seed);
        let stages = 1 + random.below(model.most_stages().into()) as StageIndex;
        let task = model.task(&mut random);
        let borders = model.borders(stages);
        let microbatches = 1 + random.below(3) as u32;
        let hurried = story == Story::Faults && random.chance(200);
        let patience = |long: u64, short: u64| Duration::from_millis(if hurried { short } else { long });
        let doors = DoorSetup {
            me: ReplicaId::new("nobody", 0),
            boot: 0,
            max_num_seqs: 2 + random.below(8) as u32,
            max_queue: 1000,
            queue_timeout: patience(200_000, 50),
            stage_timeout: patience(200_000, 1500),
            broker: Some("nats://somewhere".into()),
            ping_every: random.chance(700).then_some(Duration::from_millis(100)),
            microbatches,
            microbatches_away: 1 + random.below(microbatches.into()) as u32,
            lease: LEASE,
            vocab: model.vocab(),
            takes: borders[0].clone(),
            gives: borders[usize::from(stages)].clone(),
            planted,
        };
        let max_num_seqs = doors.max_num_seqs;
        let shape = Shape {
            kv_blocks: 8 + random.below(40) as u32,
            block_size: 1 << random.below(5),
            max_batch_tokens: 1 + random.below(24) as u32,
            max_num_seqs,
            microbatches,
            delay: Duration::from_micros(random.below(2) * random.below(3000)),
        };
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
            borders,
            processes: Vec::new(),
            leases: vec![Vec::new(); usize::from(stages)],
            shape,
            doors,
            clients: Vec::new(),
            streams: HashMap::new(),
            boots: 0,
            openings: HashMap::new(),
            forged_epochs: 0,
            marks: BTreeMap::new(),
            violations: Vec::new(),
            trace: 0,
            random,
        };
        for stage in 0..stages {
            world.start(stage);
            if world.random.chance(250) {
                world.mark("shared by two");
                world.start(stage);
            }
        }
        world.make_clients(task, shape);
        if story == Story::Faults {
            world.plan_outages();
            if world.random.chance(500) {
                world.plan_forgeries();
            }
        }
        world
    }

    fn plan_outages(&mut self) {
        for _ in 0..self.random.below(4) {
            // A door takes its requests with it: less often.
            let first = u64::from(self.stages > 1 && self.random.chance(800));
            let stage = (first + self.random.below(u64::from(self.stages) - first)) as StageIndex;
            let at = Tick(self.random.below(7_000_000));
            let wait = Duration::from_micros(1000 + self.random.below(6_000_000));
            if self.random.chance(600) {
                self.later(at, Happening::Kill(stage));
            } else {
                let time = Duration::from_micros(self.random.below(3_000_000));
                self.later(at, Happening::Drain(stage, time));
            }
            // At times the next one is there before the last one goes.
            let ahead = Duration::from_micros(if self.random.chance(300) { self.random.below(500_000) } else { 0 });
            self.later(if ahead.is_zero() { at + wait } else { at - ahead }, Happening::Start(stage));
        }
        for _ in 0..8 {
            let at = Tick(self.random.below(9_000_000));
            self.later(at, Happening::Records);
        }
        for _ in 0..self.random.below(3) {
            let stage = self.random.below(u64::from(self.stages)) as StageIndex;
            let at = Tick(self.random.below(7_000_000));
            self.later(at, Happening::Lapse(stage));
        }
        if self.random.chance(250) {
            let stage = self.random.below(u64::from(self.stages)) as StageIndex;
            let at = Tick(self.random.below(7_000_000));
            let time = LEASE + Duration::from_micros(self.random.below(12_000_000));
            self.later(at, Happening::Cut(stage, time));
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
        self.tell_the_leases();
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
        for counts in self.processes.iter().filter_map(|p| p.door.as_ref()).map(|door| door.machine.counts()) {
            for (mark, count) in
                [("replayed", counts.replays), ("refused", counts.refusals), ("stale token", counts.stale_tokens)]
            {
                if count > 0 && mark != "refused" && self.story == Story::Calm {
                    self.violations.push(format!("without a fault: {mark} {count} times"));
                }
                if count > 0 {
                    *self.marks.entry(mark).or_default() += count;
                }
            }
        }
        Report { violations: self.violations, marks: self.marks, trace: self.trace }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Mail { to, from, body } => self.deliver(&to, from, body),
            Happening::Unreachable { to, peer } => {
                self.stage_event(&to, Event::Unreachable { peer: peer.clone() });
                self.door_event(&to, DoorEvent::Unreachable(peer));
            }
            Happening::Reconnected { to } => {
                self.mark("reconnected");
                self.stage_event(&to, Event::Reconnected);
            }
            Happening::Device { at, batch } => self.device_done(&at, batch),
            Happening::Wake { at } => self.wake(&at),
            Happening::Submit(client) => self.submit(client),
            Happening::Judged { at, about } => self.door_event(&at, DoorEvent::Judged(vec![about])),
            Happening::Cancel(client) => {
                let Client { door, sequence, outcomes, .. } = &self.clients[client];
                if let (Some(door), Some(sequence), true) = (door.clone(), *sequence, outcomes.is_empty()) {
                    self.mark("cancelled");
                    self.clients[client].cancelled = true;
                    self.door_event(&door, DoorEvent::Cancel(sequence));
                }
            }
            Happening::Kill(stage) => {
                if let Some(index) = self.oldest(stage) {
                    self.mark(if stage == 0 { "door killed" } else { "stage killed" });
                    self.die(index);
                    self.later(self.now + LEASE, Happening::LeaseOver(self.processes[index].replica.clone()));
                }
            }
            Happening::Drain(stage, time) => self.drain(stage, time),
            Happening::GiveUp(replica) => {
                self.door_event(&replica, DoorEvent::GiveUp);
                self.stage_event(&replica, Event::GiveBack);
                self.later(self.now + LAST_WORDS, Happening::Exit(replica));
            }
            Happening::Exit(replica) => self.exit(&replica),
            Happening::Start(stage) => {
                self.mark("stage restarted");
                self.start(stage);
                self.tell_the_leases();
            }
            Happening::LeaseOver(replica) => self.lease_over(&replica),
            Happening::Lapse(stage) => self.lapse(stage),
            Happening::Cut(stage, time) => self.cut(stage, time),
            Happening::CutOff(replica) => self.cut_off(&replica),
            Happening::Mended(replica) => self.mended(&replica),
            Happening::Forge => self.forge(),
            Happening::Sees { to, replica } => self.sees(&to, &replica),
            Happening::Renewal(replica) => self.renewed(&replica),
            Happening::Records => {
                for candidate in self.leases.iter_mut().flatten() {
                    let process = self.processes.iter().find(|p| p.replica == candidate.replica);
                    candidate.live_sequences = process.map_or(0, |p| p.machine.live() as u32);
                }
                self.tell_the_leases();
            }
        }
    }
}
