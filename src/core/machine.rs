//! A stage's state and its only owner: events in, actions out.

mod arrivals;
mod batches;
mod links;
mod peers;
mod tombstones;

pub use peers::FIRST_EPOCHS;

use crate::batcher::Batcher;
use crate::kv_blocks::KvBlocks;
use crate::link::{LinkReceiver, Room};
use crate::message::{Body, LinkMail, LinkReply, Report, Segment};
use crate::out_link::OutLink;
use crate::outbox::Outbox;
use crate::planted::Planted;
use crate::refusal::Refusals;
use crate::{BatchId, Emission, Member, Microbatch, Opening, Ticket};
use peers::Roll;
use stageline_base::{Attempt, Border, Fault, FaultClass, ReplicaId, SequenceId, StageIndex, Tick};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tombstones::Tombstones;

/// Batches handed to the device and not back: one runs, one is prefetched.
pub const DEVICE_DEPTH: usize = 2;
/// How often idle sequences and old tombstones are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What a stage is made with.
#[derive(Clone, Debug)]
pub struct StageSetup {
    /// This replica.
    pub me: ReplicaId,
    /// The stage it serves.
    pub stage: StageIndex,
    /// Stages of the pipeline.
    pub stages: StageIndex,
    /// KV blocks.
    pub kv_blocks: u32,
    /// Positions in a block.
    pub block_size: u32,
    /// Most sequences held at once.
    pub max_num_seqs: u32,
    /// Most rows of a microbatch.
    pub max_batch_tokens: u32,
    /// Decode runs as this many microbatches.
    pub microbatches: u32,
    /// How long a batch that is not full waits for company.
    pub max_batch_delay: Duration,
    /// Tokens of the model: ids are below this.
    pub vocab: u32,
    /// Who runs rows past the door in this process, if anybody does: at once upstream, downstream and door.
    pub direct: Option<ReplicaId>,
    /// What each sender may have queued here.
    pub window: Room,
    /// What arrives: crosses in front of this stage.
    pub takes: Border,
    /// What leaves for the next stage; at the last one it does not matter.
    pub gives: Border,
    /// How long a closed sequence's attempt is remembered.
    pub lease: Duration,
    /// A sequence without rows for this long is dropped.
    pub idle_limit: Duration,
    /// Defects planted by tests, which prove that the checkers see them.
    pub planted: Planted,
}

/// What happens to a stage.
#[derive(Debug)]
pub enum Event {
    /// A message of a link from upstream; `ticket` names its payload, if it has one.
    Link {
        /// The sender.
        from: ReplicaId,
        /// The message.
        mail: LinkMail,
        /// Its payload's name.
        ticket: Ticket,
    },
    /// The next stage answers.
    Reply {
        /// The receiver of our link.
        from: ReplicaId,
        /// What it says.
        reply: LinkReply,
    },
    /// A door has taken feedback in.
    FeedbackAck {
        /// The door.
        from: ReplicaId,
        /// Which.
        number: u64,
    },
    /// A door closes sequences past the links.
    CloseNow {
        /// The door.
        from: ReplicaId,
        /// Its number.
        number: u64,
        /// These and lower attempts.
        closes: Vec<(SequenceId, Attempt)>,
    },
    /// Nobody listened to something sent to this replica.
    Unreachable {
        /// Who did not listen.
        peer: ReplicaId,
    },
    /// The connection to the broker was lost and is back.
    Reconnected,
    /// A replica's lease was seen: for the first time, or with a higher ceiling.
    Lives {
        /// Whose.
        replica: ReplicaId,
        /// The stage that it serves.
        stage: StageIndex,
        /// The epochs of its links are at most this for now: what its own [`StageMachine::epoch_ceiling`] says.
        epochs: u32,
    },
    /// A replica's lease is over.
    Gone {
        /// Whose.
        replica: ReplicaId,
    },
    /// This replica is about to end: nothing new is opened here, but by its own door.
    Drain,
    /// What is still held goes back to its doors, which open it elsewhere.
    GiveBack,
    /// The device is done with a batch: what its members emitted (empty before the last stage), or why it failed.
    Ran {
        /// Which.
        batch: BatchId,
        /// One entry a member.
        outcome: Result<Vec<Option<Emission>>, Fault>,
    },
    /// [`StageMachine::next_deadline`] has passed.
    Time,
}

/// What a stage wants done, in order.
#[derive(Debug)]
pub enum Action {
    /// Hand this to the device.
    Run(Microbatch),
    /// Send this.
    Send {
        /// The receiver's stage.
        stage: StageIndex,
        /// The receiver.
        to: ReplicaId,
        /// What.
        body: Body,
    },
    /// Send a frame of rows whose payload is what the batch gave for these members; always before the batch's `Settled`.
    Forward {
        /// The receiver, a replica of the next stage.
        to: ReplicaId,
        /// The frame's epoch.
        epoch: u32,
        /// The frame's number.
        number: u64,
        /// Whose rows.
        segments: Vec<Segment>,
        /// The batch.
        batch: BatchId,
        /// Which of its members, in the segments' order, and their rows among those of all members.
        members: Vec<(usize, Range<u32>)>,
    },
    /// The batch's inputs and output are not needed any more.
    Settled(BatchId),
    /// The payload is not needed any more.
    Release(Ticket),
    /// The next stage has acknowledged a frame so long after it was sent: twice what a hop takes. For the metrics.
    Acknowledged(Duration),
}

/// A sequence that the stage holds.
#[derive(Debug)]
struct Held {
    opening: Arc<Opening>,
    blocks: Arc<[u32]>,
    /// Next position to arrive.
    next: u32,
    /// Members on the device.
    busy: u32,
    /// Members that wait to be run again after a failed batch.
    retrying: u32,
    /// A fault has been reported: whatever else arrives of this attempt is dropped.
    failed: bool,
    /// Its prompt's last row has arrived: from now on it decodes.
    decoding: bool,
    /// Ids after `opening.known`, at the last stage.
    generated: Vec<u32>,
    touched: Tick,
}

/// Members left on the device, and the blocks that they use.
type Lingering = (u32, Arc<[u32]>);

/// Rows on the device.
#[derive(Debug)]
struct Running {
    batch: BatchId,
    members: Vec<Member>,
    /// Credit set aside, by receiver.
    reserved: Vec<(ReplicaId, Room)>,
    solo: bool,
    /// For the retry's place in the queue.
    from: Vec<ReplicaId>,
}

/// Counts for metrics, ever growing.
#[derive(Clone, Copy, Debug, Default)]
pub struct StageCounts {
    /// Batches that ran well.
    pub batches: u64,
    /// Rows in them.
    pub rows: u64,
    /// Decode rows in them.
    pub decode_rows: u64,
    /// Batches that failed.
    pub failed_batches: u64,
    /// Opens and rows that the link to the next stage lost.
    pub lost: u64,
    /// Faults reported to doors, by class, in the order of [`FaultClass::ALL`].
    pub faults: [u64; FaultClass::ALL.len()],
    /// Sequences dropped since no row came for so long: the last resort, which a working pipeline never needs.
    pub idle: u64,
    /// What peers sent and was refused, and what doors were not told.
    pub refused: Refusals,
}

/// See the module.
pub struct StageMachine {
    setup: StageSetup,
    sequences: BTreeMap<SequenceId, Held>,
    /// Blocks of closed attempts whose rows are still on the device: members left there, and the blocks.
    lingering: HashMap<(SequenceId, Attempt), Lingering>,
    tombstones: Tombstones,
    kv: KvBlocks,
    roll: Roll,
    /// Opens that came before their door's lease was seen, and until when they wait for it.
    early: Vec<(Tick, Arc<Opening>)>,
    upstream: BTreeMap<ReplicaId, LinkReceiver>,
    /// Upstream links that have something new to say.
    unsaid: BTreeSet<ReplicaId>,
    downstream: BTreeMap<ReplicaId, OutLink>,
    /// Epoch that a new link begins with: above those of all links that ended.
    new_epoch: u32,
    doors: BTreeMap<ReplicaId, Outbox<Vec<Report>>>,
    /// Doors whose lease is over, and how long they are still told: one of them may live, its renewal only late. All
    /// others without a lease are told nothing.
    gone_doors: BTreeMap<ReplicaId, Tick>,
    /// Reports of this event, by door.
    reports: BTreeMap<ReplicaId, Vec<Report>>,
    queue: Batcher,
    tickets: HashMap<Ticket, u32>,
    running: VecDeque<Running>,
    next_batch: u64,
    /// The batcher waits for company until then.
    delay_until: Option<Tick>,
    sweep_at: Tick,
    draining: bool,
    counts: StageCounts,
}

impl StageMachine {
    /// An empty stage.
    pub fn new(setup: StageSetup) -> Self {
        Self {
            kv: KvBlocks::new(setup.kv_blocks, setup.block_size),
            roll: Roll::new(&setup),
            tombstones: Tombstones::new(setup.lease, setup.planted),
            early: Vec::new(),
            setup,
            sequences: BTreeMap::new(),
            lingering: HashMap::new(),
            upstream: BTreeMap::new(),
            unsaid: BTreeSet::new(),
            downstream: BTreeMap::new(),
            new_epoch: 1,
            doors: BTreeMap::new(),
            gone_doors: BTreeMap::new(),
            reports: BTreeMap::new(),
            queue: Batcher::default(),
            tickets: HashMap::new(),
            running: VecDeque::new(),
            next_batch: 0,
            delay_until: None,
            sweep_at: Tick(0),
            draining: false,
            counts: StageCounts::default(),
        }
    }

    /// Takes `event` in; what must be done is appended to `out`.
    pub fn on(&mut self, now: Tick, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Link { from, mail, ticket } => self.on_link(now, from, mail, ticket, out),
            Event::Reply { from, reply } => {
                self.with_link(now, &from, out, |link, news| link.on_reply(now, reply, news))
            }
            Event::FeedbackAck { from, number } => {
                if let Some(outbox) = self.doors.get_mut(&from) {
                    outbox.acknowledged(number);
                }
            }
            Event::CloseNow { from, number, closes } => self.on_close_now(now, from, (number, closes), out),
            Event::Unreachable { peer } => {
                self.with_link(now, &peer, out, |link, news| link.on_unreachable(now, news));
            }
            Event::Reconnected => {
                let peers: Vec<ReplicaId> = self.downstream.keys().cloned().collect();
                for peer in peers {
                    self.with_link(now, &peer, out, |link, news| link.on_reconnect(now, news));
                }
            }
            Event::Lives { replica, stage, epochs } => self.on_lives(now, (replica, stage), epochs, out),
            Event::Gone { replica } => self.on_gone(now, &replica, out),
            Event::Drain => self.draining = true,
            Event::GiveBack => self.give_back_all(now, out),
            Event::Ran { batch, outcome } => self.on_ran(now, batch, outcome, out),
            Event::Time => {}
        }
        self.on_time(now, out);
        self.run_what_is_due(now, out);
        self.say(now, out);
    }

    /// When to send [`Event::Time`], if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Tick> {
        let links = self.downstream.values().filter_map(OutLink::next_deadline);
        let feedback = self.doors.values().filter_map(Outbox::next_deadline);
        let greeting = self.downstream.values().any(|link| link.greets_since().is_some());
        let kept = [self.sequences.is_empty(), self.tombstones.is_empty(), self.gone_doors.is_empty()];
        let sweep = greeting || !self.early.is_empty() || kept.contains(&false);
        links.chain(feedback).chain(sweep.then_some(self.sweep_at)).chain(self.delay_until).min()
    }

    /// Whether nothing is held or queued.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty() && self.running.is_empty() && self.queue.is_empty()
    }

    /// Whether nothing is held, queued or unacknowledged.
    pub fn is_quiet(&self) -> bool {
        self.is_empty() && self.doors.values().all(Outbox::is_empty) && self.downstream.values().all(OutLink::is_quiet)
    }

    /// What it was made with.
    pub fn setup(&self) -> &StageSetup {
        &self.setup
    }

    /// Counts so far.
    pub fn counts(&self) -> StageCounts {
        self.counts
    }

    /// Sequences held.
    pub fn live(&self) -> usize {
        self.sequences.len()
    }

    /// Free and all KV blocks.
    pub fn kv_blocks(&self) -> (u32, u32) {
        (self.kv.free(), self.kv.total())
    }

    /// Whether a KV block is free.
    pub fn block_is_free(&self, block: u32) -> bool {
        self.kv.is_free(block)
    }

    /// Rows that wait for the device.
    pub fn queued_rows(&self) -> u64 {
        self.queue.rows()
    }

    /// Payloads that are not released, and room that senders have queued here: none when nothing is held.
    pub fn unsettled(&self) -> (usize, Room) {
        let queued = self.upstream.values().fold(Room::default(), |sum, link| sum.plus(link.queued()));
        (self.tickets.len(), queued)
    }

    /// Sequences, doors and senders that it remembers: bounded by who holds a lease, whatever arrives.
    pub fn remembered(&self) -> usize {
        self.tombstones.len() + self.early.len() + self.doors.len() + self.upstream.len()
    }

    fn is_last(&self) -> bool {
        self.setup.stage + 1 == self.setup.stages
    }
}
