//! What keeps a door from opening anything, and how long requests wait for it: the broker, or a stage without a replica.

use super::{DoorAction, DoorMachine, Live, Phase};
use crate::planted::Planted;
use stageline_base::{Fault, FaultClass, SequenceId, StageIndex, Tick};
use std::time::Duration;

/// The moment in which it must have started is still in time, so that with no time at all what finds room at once has it.
const MOMENT: Duration = Duration::from_micros(1);
/// Leases that an Open may be on its way. A stage keeps one that is ahead of its door's lease for two.
const OPENING_LEASES: u32 = 3;
/// How often that doubles for an attempt that is opened again: rows before it may only be slow to arrive.
const DOUBLED_MOST: u32 = 3;

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The broker: it does not renew this replica's lease, or does not show it. Nobody can be reached for sure, and others may
    /// take this replica for dead.
    Broker,
    /// A stage: no replica of it lives, can be reached and is not about to end.
    Stage(StageIndex),
}

impl DoorMachine {
    /// What is missing; the first stage, if several are.
    pub(super) fn missing(&self) -> Option<Missing> {
        if self.cut_since.is_some() || !self.lives(0, &self.setup.me) {
            return Some(Missing::Broker);
        }
        let mut stages = 1..self.replicas.len();
        stages.find(|stage| self.usable(*stage).next().is_none()).map(|stage| Missing::Stage(stage as StageIndex))
    }

    /// In words.
    pub(super) fn fault_of(&self, missing: Missing) -> Fault {
        match missing {
            Missing::Broker => {
                let broker = self.setup.broker.as_deref().unwrap_or("of this process");
                let words = format!(
                    "the broker {broker} does not answer, or does not renew this replica's lease: see that it runs and can be \
                     reached from here, and send the request again"
                );
                Fault::new(FaultClass::Unavailable, words)
            }
            Missing::Stage(stage) => {
                let words = format!(
                    "stage {stage} has no live replica that takes new requests: start one, or wait until it is back, and send \
                     the request again"
                );
                Fault::new(FaultClass::Unavailable, words).at_stage(stage)
            }
        }
    }

    /// A replica of a path is gone. At stage 0 that is this one: its own lease is not to be seen.
    pub(super) fn gone(&self, stage: StageIndex) -> Fault {
        self.fault_of(if stage == 0 { Missing::Broker } else { Missing::Stage(stage) })
    }

    /// The lease of this replica is renewed, or is not. When it is again, stages may have taken the door for dead meanwhile,
    /// ended all that was its own, and told it so for as long as they tell the dead anything: everything is replayed.
    pub(super) fn on_held(&mut self, now: Tick, held: bool, out: &mut Vec<DoorAction>) {
        if !held {
            self.cut_since.get_or_insert(now);
            return;
        }
        // Also if it was never told that it is not: it is told of changes alone, and may have slept through one.
        self.cut_since = None;
        if self.setup.planted != Planted::TrustAfterCut {
            for attempt in self.attempts(|live| live.is_on_path() && live.leaves()) {
                self.fail_attempt(now, attempt, self.fault_of(Missing::Broker), false, out);
            }
        }
    }

    /// Notes whether something is missing. While it is, requests wait for that, not for room.
    pub(super) fn note_missing(&mut self, now: Tick) {
        self.unreachable.retain(|_, until| *until > now);
        match (self.missing_since, self.missing()) {
            (None, Some(_)) => self.missing_since = Some(now),
            (Some(_), None) => {
                self.missing_since = None;
                self.hold_until = None;
                let by = self.must_start_by(now);
                for live in self.live.values_mut() {
                    live.start_by = by;
                    live.estimate = None;
                    live.stuck_since = live.stuck_since.map(|_| now);
                }
            }
            _ => {}
        }
    }

    /// Gives up Opens that nobody has answered.
    pub(super) fn look_for_lost_opens(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        for attempt in self.attempts(|live| self.answer_due(live).is_some_and(|due| due <= now)) {
            // Which of them has it, nobody knows; whoever has not is cleared by the next Open that comes through.
            for stage in 1..self.replicas.len() as StageIndex {
                self.suspect(now, attempt, stage);
            }
            let fault = Fault::new(FaultClass::Unavailable, "the replicas of its path have not answered an Open");
            self.fail_attempt(now, attempt, fault, false, out);
        }
    }

    /// When the answer to an Open is overdue. A cut takes that answer, too, but not only that: what comes of it is known when
    /// it is over.
    fn answer_due(&self, live: &Live) -> Option<Tick> {
        let opening = live.phase == Phase::Opening && self.cut_since.is_none();
        let patience = self.setup.lease * (OPENING_LEASES << live.replays.min(DOUBLED_MOST));
        opening.then(|| live.moved + patience)
    }

    /// Ends what has waited long enough.
    pub(super) fn end_the_overdue(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        let due = |live: &Live| self.waits_until(live).is_some_and(|until| until < now);
        let overdue: Vec<(SequenceId, Fault)> = self
            .live
            .iter()
            .filter(|(_, live)| due(live))
            .map(|(sequence, live)| (*sequence, self.overdue_fault(live)))
            .collect();
        for (sequence, fault) in overdue {
            if let Some(live) = self.live.get_mut(&sequence) {
                self.pace.waited(now, live);
            }
            self.end(now, sequence, Err(fault), out);
        }
    }

    fn overdue_fault(&self, live: &Live) -> Fault {
        match (self.missing(), &live.trouble) {
            (Some(missing), _) => self.fault_of(missing),
            (None, Some(trouble)) if live.phase != Phase::Waiting => {
                let seconds = self.setup.stage_timeout.as_secs_f64();
                let words =
                    format!("replayed for {seconds:.0} s without getting on; it began since {}", trouble.message);
                Fault { class: FaultClass::Unavailable, message: words, ..trouble.clone() }
            }
            (None, _) => self.no_room_in_time(),
        }
    }

    /// Until when a request waits: for what is missing; before its start, for room; and after a fault, for its next opening.
    /// What is on its path gets on where the broker is not needed for it, and waits where it is. `None`: as long as it may take.
    fn waits_until(&self, live: &Live) -> Option<Tick> {
        if live.patient {
            return None;
        }
        let missing = if live.is_on_path() { self.cut_since.filter(|_| live.leaves()) } else { self.missing_since };
        match (missing, &live.phase) {
            (Some(since), _) => Some(since.max(live.moved) + self.setup.stage_timeout),
            (None, Phase::Waiting) => Some(live.start_by),
            (None, _) => live.stuck_since.map(|since| since + self.setup.stage_timeout),
        }
    }

    /// When [`DoorMachine::end_the_overdue`] or [`DoorMachine::look_for_lost_opens`] has something to do.
    pub(super) fn next_overdue(&self) -> Option<Tick> {
        let waiting = self.live.values().filter_map(|live| self.waits_until(live)).min().map(|until| until + MOMENT);
        waiting.into_iter().chain(self.live.values().filter_map(|live| self.answer_due(live))).min()
    }
}
