//! The door's state and its only owner: requests from admission to their end.

mod answers;
mod closing;
mod rows;

use crate::base::prng::Prng;
use crate::base::{Attempt, Fault, FaultClass, Position, ReplicaId, SequenceId, StageIndex, Tick, TokenId};
use crate::core::groups::Groups;
use crate::core::link::{Item, ItemKind, SenderNews};
use crate::core::machine::Planted;
use crate::core::message::{Body, LinkLoad, LinkReply, Report};
use crate::core::out_link::{OutLink, item};
use crate::core::outbox::Outbox;
use crate::core::{Observed, Opening, Work};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Replays that may be opening at once, so that a dead stage's return is not met by all of them together.
const REPLAYS_AT_ONCE: usize = 4;
/// Replays caused by a request's own failed rows, without a new token, after which it ends.
const BLAMED_MOST: u32 = 3;
/// First wait before a replay; it doubles up to [`BACKOFF_MOST`].
const BACKOFF: Duration = Duration::from_millis(10);
/// Longest wait before a replay.
const BACKOFF_MOST: Duration = Duration::from_secs(1);
/// After a refusal for lack of room, the next try comes no later than about this.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Why an answer ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token, or a stop string.
    Stop,
    /// `max_tokens`, or the model's longest sequence.
    Length,
}

impl FinishReason {
    /// As JSON answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What a door is made with.
#[derive(Clone, Debug)]
pub struct DoorSetup {
    /// This replica; it serves stage 0.
    pub me: ReplicaId,
    /// Its boot nonce, the first half of every sequence's id.
    pub boot: u64,
    /// Most sequences in the pipeline at once.
    pub max_num_seqs: u32,
    /// Most requests that wait.
    pub max_queue: usize,
    /// Decode microbatches.
    pub microbatches: u32,
    /// How many of them may be in the pipeline at once.
    pub microbatches_away: u32,
    /// How long a lease lasts.
    pub lease: Duration,
    /// Bytes of a token row on the link to stage 0.
    pub row_bytes: u64,
    /// A defect planted by a test.
    pub planted: Planted,
}

/// A request, tokenized and checked.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// For log lines.
    pub call_id: String,
    /// What to do; the seed is drawn already.
    pub work: Work,
    /// The prompt, at least one token.
    pub prompt: Vec<TokenId>,
    /// Most tokens to generate, at least 1.
    pub max_tokens: u32,
    /// When it must have ended.
    pub deadline: Tick,
}

/// Says whether an answer ends with this token (end tokens, stop strings).
pub trait Judge {
    /// Called once for each token of a sequence, in order.
    fn ends(&mut self, sequence: SequenceId, token: TokenId) -> Option<FinishReason>;
}

/// What happens to a door.
#[derive(Debug)]
pub enum DoorEvent {
    /// The client went away.
    Cancel(SequenceId),
    /// A stage reports.
    Feedback {
        /// The stage's replica.
        from: ReplicaId,
        /// Which stage it serves.
        stage: StageIndex,
        /// Its number, to be acknowledged.
        number: u64,
        /// What happened.
        reports: Vec<Report>,
    },
    /// Stage 0 answers on the link from the door.
    Reply(LinkReply),
    /// A stage has done a CloseNow.
    CloseAck {
        /// The stage's replica.
        from: ReplicaId,
        /// Which.
        number: u64,
    },
    /// The live replicas of every stage, the one to be chosen first.
    Replicas(Vec<Vec<ReplicaId>>),
    /// Take no more requests, and say [`DoorAction::Drained`] when none is left.
    Drain,
    /// [`DoorMachine::next_deadline`] has passed.
    Time,
}

/// What a door wants done, in order.
#[derive(Debug)]
pub enum DoorAction {
    /// Send this.
    Send {
        /// The receiver's stage.
        stage: StageIndex,
        /// The receiver.
        to: ReplicaId,
        /// What.
        body: Body,
    },
    /// A token of an answer.
    Token {
        /// Whose.
        sequence: SequenceId,
        /// The token.
        id: TokenId,
        /// What was asked to be seen of its logits.
        observed: Option<Observed>,
    },
    /// An encoder's vector.
    Vector {
        /// Whose.
        sequence: SequenceId,
        /// The numbers.
        values: Vec<f32>,
    },
    /// The request has ended; nothing more comes of it.
    Ended {
        /// Whose.
        sequence: SequenceId,
        /// How.
        outcome: Result<FinishReason, Fault>,
    },
    /// Nothing is left.
    Drained,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// In the queue.
    Waiting,
    /// Its Open travels.
    Opening,
    /// Opened everywhere.
    Running,
    /// To be opened again, not before this.
    Backoff(Tick),
}

/// A request that has not ended.
#[derive(Debug)]
struct Live {
    request: NewRequest,
    phase: Phase,
    attempt: Attempt,
    path: Vec<ReplicaId>,
    /// The prompt and what has been generated.
    known: Vec<TokenId>,
    /// Rows handed to the pipeline in this attempt.
    sent: Position,
    /// Replays since the last new token.
    replays: u32,
    /// Of those, the ones that its own rows caused.
    blamed: u32,
    /// Every replica that an attempt of it went to.
    used: BTreeSet<(StageIndex, ReplicaId)>,
    /// The fault that a missing stage or a replay began with, for the message of its end.
    trouble: Option<Fault>,
}

impl Live {
    fn generated(&self) -> u32 {
        (self.known.len() - self.request.prompt.len()) as u32
    }

    fn capacity_tokens(&self) -> u32 {
        match self.request.work {
            Work::Generate(_) => (self.request.prompt.len() as u32).saturating_add(self.request.max_tokens),
            Work::Embed => self.request.prompt.len() as u32,
        }
    }
}

/// Counts for metrics, ever growing.
#[derive(Clone, Copy, Debug, Default)]
pub struct DoorCounts {
    /// Attempts after the first.
    pub replays: u64,
    /// Opens refused for lack of room.
    pub refusals: u64,
    /// Tokens dropped since their attempt or position was not the current one.
    pub stale_tokens: u64,
}

/// What one CloseNow ends.
type Closes = Vec<(SequenceId, Attempt)>;

/// See the module.
pub struct DoorMachine {
    setup: DoorSetup,
    minted: u64,
    live: BTreeMap<SequenceId, Live>,
    waiting: VecDeque<SequenceId>,
    groups: Groups,
    /// Rows for which the link had no credit yet.
    unsent: VecDeque<(SequenceId, Attempt)>,
    link: OutLink,
    replicas: Vec<Vec<ReplicaId>>,
    closes: BTreeMap<(StageIndex, ReplicaId), Outbox<Closes>>,
    /// Ended lately: a replica of their path that dies may take a Close with it.
    ended: VecDeque<closing::Ended>,
    /// After a refusal, no Open before this.
    hold_until: Option<Tick>,
    random: Prng,
    draining: bool,
    counts: DoorCounts,
}

impl DoorMachine {
    /// A door without requests that knows no replica yet.
    pub fn new(now: Tick, setup: DoorSetup) -> Self {
        Self {
            groups: Groups::new(setup.microbatches as usize, setup.microbatches_away as usize),
            random: Prng::new(setup.boot),
            link: OutLink::new(now, setup.planted),
            setup,
            minted: 0,
            live: BTreeMap::new(),
            waiting: VecDeque::new(),
            unsent: VecDeque::new(),
            replicas: Vec::new(),
            closes: BTreeMap::new(),
            ended: VecDeque::new(),
            hold_until: None,
            draining: false,
            counts: DoorCounts::default(),
        }
    }

    /// Admits a request to the queue; [`DoorEvent::Time`] at once lets it go on.
    ///
    /// # Errors
    /// `Unavailable` while draining or while a stage is missing, `Overloaded` if the queue is full.
    pub fn submit(&mut self, request: NewRequest) -> Result<SequenceId, Fault> {
        if self.draining {
            return Err(Fault::new(FaultClass::Unavailable, "this replica is shutting down: send the request again"));
        }
        if let Some(stage) = self.missing_stage() {
            return Err(missing(stage));
        }
        if self.waiting.len() >= self.setup.max_queue {
            let words = format!("{} requests wait already: try again later", self.waiting.len());
            return Err(Fault::new(FaultClass::Overloaded, words));
        }
        self.minted += 1;
        let sequence = SequenceId { boot: self.setup.boot, counter: self.minted };
        let live = Live {
            known: request.prompt.clone(),
            request,
            phase: Phase::Waiting,
            attempt: 0,
            path: Vec::new(),
            sent: 0,
            replays: 0,
            blamed: 0,
            used: BTreeSet::new(),
            trouble: None,
        };
        self.live.insert(sequence, live);
        self.waiting.push_back(sequence);
        Ok(sequence)
    }

    /// Takes `event` in; what must be done is appended to `out`.
    pub fn on(&mut self, now: Tick, event: DoorEvent, judge: &mut dyn Judge, out: &mut Vec<DoorAction>) {
        match event {
            DoorEvent::Cancel(sequence) => {
                let fault = Fault::new(FaultClass::Cancelled, "the client went away");
                self.end(now, sequence, Err(fault), out);
            }
            DoorEvent::Feedback { from, stage, number, reports } => {
                for report in reports {
                    self.on_report(now, report, judge, out);
                }
                out.push(DoorAction::Send { stage, to: from, body: Body::FeedbackAck { number } });
            }
            DoorEvent::Reply(reply) => self.with_link(now, out, |link, news| link.on_reply(now, reply, news)),
            DoorEvent::CloseAck { from, number } => {
                for ((_, replica), outbox) in &mut self.closes {
                    if *replica == from {
                        outbox.acknowledged(number);
                    }
                }
            }
            DoorEvent::Replicas(replicas) => self.on_replicas(now, replicas, out),
            DoorEvent::Drain => self.draining = true,
            DoorEvent::Time => {}
        }
        self.on_time(now, out);
        self.open_what_fits(now, out);
        self.send_rows(now, out);
        if self.draining && self.is_quiet() {
            out.push(DoorAction::Drained);
        }
    }

    /// When to send [`DoorEvent::Time`], if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Tick> {
        let complete = self.missing_stage().is_none();
        let requests = self.live.values().flat_map(|live| {
            let backoff = match live.phase {
                Phase::Backoff(until) if complete => Some(until),
                _ => None,
            };
            backoff.into_iter().chain([live.request.deadline])
        });
        let closes = self.closes.values().filter_map(Outbox::next_deadline);
        let others = [self.link.next_deadline(), self.groups.next_deadline(), self.hold_until];
        requests.chain(closes).chain(others.into_iter().flatten()).min()
    }

    /// Whether no request is left and every Close has arrived.
    pub fn is_quiet(&self) -> bool {
        self.live.is_empty() && self.link.is_quiet() && self.closes.values().all(Outbox::is_empty)
    }

    /// Requests in the pipeline and requests that wait.
    pub fn load(&self) -> (usize, usize) {
        (self.live.len() - self.waiting.len(), self.waiting.len())
    }

    /// Counts so far.
    pub fn counts(&self) -> DoorCounts {
        self.counts
    }

    /// The first stage without a live replica.
    pub fn missing_stage(&self) -> Option<StageIndex> {
        if self.replicas.is_empty() {
            return Some(0);
        }
        self.replicas.iter().position(Vec::is_empty).map(|stage| stage as StageIndex)
    }

    /// Opens waiting requests, replays first, while the pipeline may hold more.
    fn open_what_fits(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        if self.missing_stage().is_some() || self.hold_until.is_some_and(|until| now < until) {
            return;
        }
        self.hold_until = None;
        let replays: Vec<SequenceId> = self
            .live
            .iter()
            .filter(|(_, live)| matches!(live.phase, Phase::Backoff(until) if until <= now))
            .map(|(sequence, _)| *sequence)
            .collect();
        let opening = |live: &&Live| live.phase == Phase::Opening && live.attempt > 1;
        let room = REPLAYS_AT_ONCE.saturating_sub(self.live.values().filter(opening).count());
        for sequence in replays.into_iter().take(room) {
            self.open(now, sequence, out);
        }
        while self.live.len() - self.waiting.len() < self.setup.max_num_seqs as usize
            && let Some(sequence) = self.waiting.pop_front()
        {
            self.open(now, sequence, out);
        }
    }

    fn open(&mut self, now: Tick, sequence: SequenceId, out: &mut Vec<DoorAction>) {
        let path: Vec<ReplicaId> = self.replicas.iter().filter_map(|replicas| replicas.first().cloned()).collect();
        let Some(live) = self.live.get_mut(&sequence) else { return };
        live.attempt += 1;
        live.phase = Phase::Opening;
        live.sent = 0;
        live.used.extend(path.iter().enumerate().map(|(stage, replica)| (stage as StageIndex, replica.clone())));
        live.path = path.clone();
        self.counts.replays += u64::from(live.attempt > 1 && live.replays > 0);
        let opening = Opening {
            sequence,
            attempt: live.attempt,
            door: self.setup.me.clone(),
            path,
            call_id: live.request.call_id.clone(),
            work: live.request.work,
            known: live.known.clone(),
            capacity_tokens: live.capacity_tokens(),
        };
        let item = item(sequence, live.attempt, &self.setup.me, ItemKind::Open);
        let load = LinkLoad::Open(Arc::new(opening));
        self.with_link(now, out, |link, news| link.send_control(now, item, load, news));
    }

    /// Lets `act` work on the link to stage 0 and carries out what comes of it.
    fn with_link(&mut self, now: Tick, out: &mut Vec<DoorAction>, act: impl FnOnce(&mut OutLink, &mut SenderNews)) {
        let mut news = SenderNews::default();
        act(&mut self.link, &mut news);
        self.link.poll(now, &mut news);
        for mail in news.mail {
            out.push(DoorAction::Send { stage: 0, to: self.setup.me.clone(), body: Body::Link(mail) });
        }
        for Item { sequence, attempt, .. } in news.lost {
            let fault = Fault::new(FaultClass::Unavailable, "the link from the door to stage 0 lost rows");
            self.fail_attempt(now, (sequence, attempt), fault, false);
        }
    }

    fn on_time(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        if self.link.next_deadline().is_some_and(|at| at <= now) {
            self.with_link(now, out, |_, _| {});
        }
        self.send_closes_again(now, out);
        let late: Vec<SequenceId> =
            self.live.iter().filter(|(_, l)| l.request.deadline <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in late {
            let fault = self.deadline_fault(sequence);
            self.end(now, sequence, Err(fault), out);
        }
    }

    /// What a client whose time is up is told: the missing stage if there is one, else what the request last suffered.
    fn deadline_fault(&self, sequence: SequenceId) -> Fault {
        let live = self.live.get(&sequence);
        match (self.missing_stage(), live.and_then(|live| live.trouble.clone())) {
            (Some(stage), Some(_)) => missing(stage),
            (_, Some(trouble)) => Fault {
                message: format!("the deadline passed during a replay; it began since {}", trouble.message),
                class: FaultClass::DeadlineExceeded,
                stage: trouble.stage,
            },
            _ => {
                Fault::new(FaultClass::DeadlineExceeded, "the deadline passed: ask for fewer tokens or allow more time")
            }
        }
    }
}

/// A stage has no live replica.
pub fn missing(stage: StageIndex) -> Fault {
    let words =
        format!("stage {stage} has no live replica: start it, or wait until it is back, and send the request again");
    Fault::new(FaultClass::Unavailable, words).at_stage(stage)
}
