//! The door's state and its only owner: requests from admission to their end.

mod answers;
mod closing;
mod events;
mod missing;
mod opens;
mod pace;
mod paths;
mod queue;
mod rows;

pub use crate::progress::FinishReason;
pub use events::{Candidate, DoorAction, DoorEvent, DoorSetup, Judged, NewRequest};

use crate::groups::Groups;
use crate::link::{Item, SenderNews};
use crate::message::Body;
use crate::out_link::OutLink;
use crate::outbox::Outbox;
use crate::planted::Planted;
use crate::progress::Progress;
use crate::refusal::Refusals;
use stageline_base::prng::Prng;
use stageline_base::{Attempt, Fault, FaultClass, ReplicaId, SequenceId, StageIndex, Tick, Trace};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

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
    call_id: String,
    trace: Trace,
    deadline: Tick,
    /// Nothing but its deadline ends its waiting.
    patient: bool,
    progress: Progress,
    phase: Phase,
    attempt: Attempt,
    path: Vec<ReplicaId>,
    /// Replays since the last new token.
    replays: u32,
    /// Of those, the ones that its own rows caused.
    blamed: u32,
    /// Every replica that an attempt of it went to.
    used: BTreeSet<(StageIndex, ReplicaId)>,
    /// The fault that a missing stage or a replay began with, for the message of its end.
    trouble: Option<Fault>,
    /// Refused if it has not started by then, unless something is missing.
    start_by: Tick,
    /// When it last got on: its arrival, its latest opening or token.
    moved: Tick,
    /// Since when its attempts have failed without one that was opened.
    stuck_since: Option<Tick>,
    /// How long after when it was estimated to have its first token, if it had to wait to start, and has not.
    estimate: Option<(Duration, Tick)>,
    /// From its opening to the first token of that attempt: the rows that had to run until then, its own included.
    rows_ahead: Option<usize>,
}

/// Counts for metrics, ever growing.
#[derive(Clone, Copy, Debug, Default)]
pub struct DoorCounts {
    /// Attempts that were given up for another.
    pub replays: u64,
    /// Opens refused for lack of room.
    pub refusals: u64,
    /// Tokens dropped since their attempt or position was not the current one.
    pub stale_tokens: u64,
    /// Reports and tokens refused.
    pub refused: Refusals,
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
    replicas: Vec<Vec<paths::Known>>,
    /// Replicas at which nobody listened, and until when they are passed by.
    unreachable: BTreeMap<ReplicaId, Tick>,
    /// Replicas that attempts failed at, though they live: their hop may be cut.
    suspects: BTreeMap<ReplicaId, paths::Suspicion>,
    ping_at: Tick,
    /// Since when this replica's lease has not been renewed.
    cut_since: Option<Tick>,
    /// Since when something has been missing.
    missing_since: Option<Tick>,
    pace: pace::Pace,
    closes: BTreeMap<(StageIndex, ReplicaId), Outbox<Closes>>,
    /// Ended lately: a replica of their path that dies may take a Close with it.
    ended: VecDeque<closing::Ended>,
    /// When the ended are looked through again.
    sweep_at: Tick,
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
            link: OutLink::new(now, 1, setup.planted),
            setup,
            minted: 0,
            live: BTreeMap::new(),
            waiting: VecDeque::new(),
            unsent: VecDeque::new(),
            replicas: Vec::new(),
            unreachable: BTreeMap::new(),
            suspects: BTreeMap::new(),
            ping_at: now,
            cut_since: None,
            missing_since: Some(now),
            pace: pace::Pace::unknown(),
            closes: BTreeMap::new(),
            ended: VecDeque::new(),
            sweep_at: now,
            hold_until: None,
            draining: false,
            counts: DoorCounts::default(),
        }
    }

    /// Admits a request to the queue; [`DoorEvent::Time`] at once lets it go on.
    ///
    /// # Errors
    /// `Unavailable` while draining, `Overloaded` if the queue is full or the request could not start in time.
    pub fn submit(&mut self, now: Tick, request: NewRequest) -> Result<SequenceId, Fault> {
        if self.draining {
            return Err(shutting_down());
        }
        let NewRequest { call_id, trace, work, input, generated, max_tokens, deadline, patient } = request;
        if work.is_loop() && generated.len() >= max_tokens as usize {
            let words = format!("{} of {max_tokens} tokens are generated: nothing is left to do", generated.len());
            return Err(Fault::invalid(words));
        }
        let generated = if self.setup.planted == Planted::ForgetBegun { Vec::new() } else { generated };
        let progress = Progress::new(work, input, &self.setup.takes, &generated, max_tokens)
            .ok_or_else(|| Fault::invalid(format!("the request is not what the model takes: {}", self.setup.takes)))?;
        let own = self.pace.first(progress.rows());
        let estimate = if patient { None } else { self.may_wait(now, deadline)? };
        let estimate = estimate.map(|wait| (wait.saturating_add(own), now));
        self.minted += 1;
        let sequence = SequenceId { boot: self.setup.boot, counter: self.minted };
        let live = Live {
            call_id,
            trace,
            deadline,
            patient,
            progress,
            phase: Phase::Waiting,
            attempt: 0,
            path: Vec::new(),
            replays: 0,
            blamed: 0,
            used: BTreeSet::new(),
            trouble: None,
            start_by: self.must_start_by(now),
            moved: now,
            stuck_since: None,
            estimate,
            rows_ahead: None,
        };
        self.live.insert(sequence, live);
        self.queue(sequence);
        Ok(sequence)
    }

    /// Takes `event` in; what must be done is appended to `out`.
    pub fn on(&mut self, now: Tick, event: DoorEvent, out: &mut Vec<DoorAction>) {
        match event {
            DoorEvent::Cancel(sequence) => {
                let fault = Fault::new(FaultClass::Cancelled, "the client went away");
                self.end(now, sequence, Err(fault), out);
            }
            DoorEvent::Feedback { from, feedback } => self.on_feedback(now, from, feedback, out),
            DoorEvent::Judged(judged) => self.on_judged(now, judged, out),
            DoorEvent::Reply(reply) => self.with_link(now, out, |link, news| link.on_reply(now, reply, news)),
            DoorEvent::CloseAck { from, number } => {
                for ((_, replica), outbox) in &mut self.closes {
                    if *replica == from {
                        outbox.acknowledged(number);
                    }
                }
            }
            DoorEvent::Replicas(replicas) => self.on_replicas(now, replicas, out),
            DoorEvent::Held(held) => self.on_held(now, held, out),
            DoorEvent::Unreachable(replica) => self.on_unreachable(now, &replica, out),
            DoorEvent::Drain => self.draining = true,
            DoorEvent::GiveUp => {
                let left: Vec<SequenceId> = self.live.keys().copied().collect();
                for sequence in left {
                    self.end(now, sequence, Err(shutting_down()), out);
                }
            }
            DoorEvent::Time => {}
        }
        self.note_missing(now);
        self.on_time(now, out);
        self.open_what_fits(now, out);
        self.send_rows(now, out);
        self.look_for_replicas(now, out);
        if self.draining && self.is_quiet() {
            out.push(DoorAction::Drained);
        }
    }

    /// When to send [`DoorEvent::Time`], if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Tick> {
        let requests = self.live.values().map(|live| live.deadline);
        let closes = self.closes.values().filter_map(Outbox::next_deadline);
        let clockwork = [self.link.next_deadline(), self.groups.next_deadline(), self.next_opening()];
        let others = clockwork.into_iter().chain([self.next_overdue(), self.next_look()]);
        requests.chain(closes).chain(others.flatten()).min()
    }

    /// The attempts under way of the requests that are `like` that.
    fn attempts(&self, like: impl Fn(&Live) -> bool) -> Vec<(SequenceId, Attempt)> {
        self.live.iter().filter(|(_, live)| like(live)).map(|(sequence, live)| (*sequence, live.attempt)).collect()
    }

    /// Whether no request is left and every Close has arrived, or cannot: then the end of this replica's lease closes.
    pub fn is_quiet(&self) -> bool {
        let closed = self.cut_since.is_some() || self.closes.values().all(Outbox::is_empty);
        self.live.is_empty() && self.link.is_quiet() && closed
    }

    /// Requests that wait for room on the path.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Counts so far.
    pub fn counts(&self) -> DoorCounts {
        self.counts
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
            self.fail_attempt(now, (sequence, attempt), fault, false, out);
        }
    }

    fn on_time(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        if self.link.next_deadline().is_some_and(|at| at <= now) {
            self.with_link(now, out, |_, _| {});
        }
        self.send_closes_again(now, out);
        let late: Vec<SequenceId> =
            self.live.iter().filter(|(_, l)| l.deadline <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in late {
            let fault = self.deadline_fault(sequence);
            self.end(now, sequence, Err(fault), out);
        }
        self.look_for_lost_opens(now, out);
        self.end_the_overdue(now, out);
    }

    /// What a client whose time is up is told: what is missing if it waits for that, else what the request last suffered.
    fn deadline_fault(&self, sequence: SequenceId) -> Fault {
        let live = self.live.get(&sequence);
        let waits = live.is_some_and(|live| !live.is_on_path() || (self.cut_since.is_some() && live.leaves()));
        match (self.missing().filter(|_| waits), live.and_then(|live| live.trouble.clone())) {
            (Some(missing), _) => self.fault_of(missing),
            (None, Some(trouble)) => Fault {
                message: format!("the deadline passed during a replay; it began since {}", trouble.message),
                class: FaultClass::DeadlineExceeded,
                ..trouble
            },
            (None, None) => {
                Fault::new(FaultClass::DeadlineExceeded, "the deadline passed: ask for fewer tokens or allow more time")
            }
        }
    }
}

fn shutting_down() -> Fault {
    Fault::new(FaultClass::Unavailable, "this replica is shutting down: send the request again")
}

#[cfg(test)]
mod tests;
