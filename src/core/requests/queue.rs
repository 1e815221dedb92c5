//! How long a request waits at the door, and for what. What cannot start in time is refused at once, so that overload costs those
//! who come last an answer of some milliseconds, and nobody a place.

use super::{DoorAction, DoorMachine, Live, Phase, missing};
use crate::base::{Fault, FaultClass, SequenceId, Tick};
use crate::core::Work;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// What a newer measurement counts, against all before it.
const NEWER: f64 = 0.1;
/// A request that was let in by the estimate has this many times `queue_timeout` to start: the estimate may be wrong, and to
/// refuse so late is worse than to be late.
const PATIENCE: u32 = 2;
/// The moment in which it must have started is still in time, so that with no time at all what finds room at once has it.
const MOMENT: Duration = Duration::from_micros(1);
/// Least and most of what a refused client is told to wait.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How fast requests get on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Seconds from one token of a sequence to the next, its first one's included.
    token_s: Option<f64>,
    /// Part of its `max_tokens` that an answer uses.
    used: f64,
}

impl Pace {
    pub(super) fn unknown() -> Self {
        Self { token_s: None, used: 1.0 }
    }

    /// A token came `after` the one before it.
    pub(super) fn token(&mut self, after: Duration) {
        let after = after.as_secs_f64();
        self.token_s = Some(self.token_s.map_or(after, |before| before + NEWER * (after - before)));
    }

    /// An answer ended by itself.
    pub(super) fn answered(&mut self, live: &Live) {
        let used = f64::from(live.generated()) / f64::from(live.request.max_tokens.max(1));
        self.used += NEWER * (used - self.used);
    }

    /// What `live` still needs, or all that it will need if it has not begun; `None` as long as nothing has been measured.
    fn left(&self, now: Tick, live: &Live) -> Option<Duration> {
        let tokens = match live.request.work {
            Work::Generate(_) => {
                let expected = f64::from(live.request.max_tokens) * self.used;
                (expected - f64::from(live.generated())).max(1.0)
            }
            Work::Embed => 1.0,
        };
        let left = Duration::try_from_secs_f64(tokens * self.token_s?).unwrap_or(Duration::MAX);
        Some(if live.phase == Phase::Waiting { left } else { left.saturating_sub(now.since(live.moved)) })
    }
}

impl DoorMachine {
    /// Whether one more request may wait.
    ///
    /// # Errors
    /// `Overloaded`, with when to try again.
    pub(super) fn may_wait(&self, now: Tick, deadline: Tick) -> Result<(), Fault> {
        let starts_in = self.starts_in(now);
        let full = |words: String, wait: Duration| {
            Err(Fault::new(FaultClass::Overloaded, words).again_after(wait.clamp(AGAIN.0, AGAIN.1)))
        };
        if self.waiting.len() >= self.setup.max_queue {
            let words = format!("{} requests wait already: try again later", self.waiting.len());
            return full(words, starts_in.unwrap_or_default());
        }
        // Nobody knows when a missing stage is back.
        let limit = self.setup.queue_timeout.min(deadline.since(now));
        match starts_in.filter(|wait| *wait > limit && self.missing_since.is_none()) {
            Some(wait) => {
                let words = format!(
                    "there is no room: a request could start in about {:.1} s, which is longer than it may wait ({:.1} s): \
                     try again later",
                    wait.as_secs_f64(),
                    limit.as_secs_f64()
                );
                full(words, wait.saturating_sub(limit))
            }
            None => Ok(()),
        }
    }

    /// When one more request could start, by how fast those before it get on; `None` if at once, or if nothing has been measured.
    fn starts_in(&self, now: Tick) -> Option<Duration> {
        // When each place is free. After a refusal for want of KV blocks a place that nobody holds is none.
        let mut places = BinaryHeap::new();
        for live in self.live.values().filter(|live| live.phase != Phase::Waiting) {
            places.push(Reverse(self.pace.left(now, live)?));
        }
        if self.hold_until.is_none_or(|until| until <= now) {
            let free = (self.setup.max_num_seqs as usize).saturating_sub(places.len());
            places.extend(std::iter::repeat_n(Reverse(Duration::ZERO), free));
        }
        for live in self.waiting.iter().filter_map(|sequence| self.live.get(sequence)) {
            let Reverse(begins) = places.pop()?;
            places.push(Reverse(begins.saturating_add(self.pace.left(now, live)?)));
        }
        places.pop().map(|Reverse(begins)| begins).filter(|begins| !begins.is_zero())
    }

    /// When a request that arrives now must have started.
    pub(super) fn must_start_by(&self, now: Tick) -> Tick {
        now + self.setup.queue_timeout.saturating_mul(PATIENCE)
    }

    /// Notes whether a stage is missing. While one is, requests wait for it, not for room.
    pub(super) fn note_missing(&mut self, now: Tick) {
        self.unreachable.retain(|_, until| *until > now);
        match (self.missing_since, self.missing_stage()) {
            (None, Some(_)) => self.missing_since = Some(now),
            (Some(_), None) => {
                self.missing_since = None;
                self.hold_until = None;
                let by = self.must_start_by(now);
                for sequence in &self.waiting {
                    if let Some(live) = self.live.get_mut(sequence) {
                        live.start_by = by;
                    }
                }
            }
            _ => {}
        }
    }

    /// Ends what has waited long enough.
    pub(super) fn end_the_overdue(&mut self, now: Tick, out: &mut Vec<DoorAction>) {
        let due = |live: &Live| self.waits_until(live).is_some_and(|until| until < now);
        let overdue: Vec<SequenceId> =
            self.live.iter().filter(|(_, live)| due(live)).map(|(sequence, _)| *sequence).collect();
        for sequence in overdue {
            let fault = match self.missing_stage() {
                Some(stage) => missing(stage),
                None => {
                    let words = "there was no room in time: try again later";
                    Fault::new(FaultClass::Overloaded, words).again_after(AGAIN.0)
                }
            };
            self.end(now, sequence, Err(fault), out);
        }
    }

    /// Until when a request waits that is not on its path: for a stage, or, before its start, for room.
    fn waits_until(&self, live: &Live) -> Option<Tick> {
        match (self.missing_since, &live.phase) {
            (_, Phase::Opening | Phase::Running) => None,
            (Some(since), _) => Some(since.max(live.submitted) + self.setup.stage_timeout),
            (None, Phase::Waiting) => Some(live.start_by),
            (None, Phase::Backoff(_)) => None,
        }
    }

    /// When [`DoorMachine::end_the_overdue`] has something to do.
    pub(super) fn next_overdue(&self) -> Option<Tick> {
        self.live.values().filter_map(|live| self.waits_until(live)).min().map(|until| until + MOMENT)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Candidate, DoorEvent, DoorSetup, FinishReason, Judge, NewRequest};
    use super::*;
    use crate::base::{ReplicaId, TokenId};
    use crate::core::machine::Planted;
    use crate::core::message::{Feedback, LinkReply, Report};
    use crate::core::{Emission, Sampling};

    struct Never;

    impl Judge for Never {
        fn ends(&mut self, _: SequenceId, _: TokenId) -> Option<FinishReason> {
            None
        }
    }

    /// A door with one place, whose only stage answers as the test says.
    struct Counter {
        door: DoorMachine,
        me: ReplicaId,
        ended: Vec<(SequenceId, Result<FinishReason, Fault>)>,
    }

    fn at(ms: u64) -> Tick {
        Tick(ms * 1000)
    }

    impl Counter {
        fn new() -> Self {
            Self::with(Duration::from_secs(1))
        }

        fn with(queue_timeout: Duration) -> Self {
            let me = ReplicaId::new("door", 1);
            let setup = DoorSetup {
                me: me.clone(),
                boot: 1,
                max_num_seqs: 1,
                max_queue: 10,
                queue_timeout,
                stage_timeout: Duration::from_secs(30),
                ping_every: None,
                microbatches: 1,
                microbatches_away: 1,
                lease: Duration::from_secs(3),
                row_bytes: 4,
                vocab: 100,
                planted: Planted::None,
            };
            let mut counter = Self { door: DoorMachine::new(at(0), setup), me, ended: Vec::new() };
            counter.lives(at(0), true);
            let (epoch, credit_rows, credit_bytes) = (1, 1000, 4000);
            let welcome = LinkReply::Welcome { epoch, before: 0, got: 0, credit_rows, credit_bytes };
            counter.on(at(0), DoorEvent::Reply(welcome));
            counter
        }

        fn on(&mut self, now: Tick, event: DoorEvent) {
            let mut out = Vec::new();
            self.door.on(now, event, &mut Never, &mut out);
            for action in out {
                if let DoorAction::Ended { sequence, outcome } = action {
                    self.ended.push((sequence, outcome));
                }
            }
        }

        fn lives(&mut self, now: Tick, lives: bool) {
            let candidate = Candidate { replica: self.me.clone(), draining: false, live_sequences: 0 };
            self.on(now, DoorEvent::Replicas(vec![lives.then_some(candidate).into_iter().collect()]));
        }

        fn submit(&mut self, now: Tick, max_tokens: u32) -> Result<SequenceId, Fault> {
            let request = NewRequest {
                call_id: String::new(),
                work: Work::Generate(Sampling::GREEDY),
                prompt: vec![1],
                max_tokens,
                deadline: now + Duration::from_secs(60),
            };
            let submitted = self.door.submit(now, request);
            self.on(now, DoorEvent::Time);
            submitted
        }

        fn report(&mut self, now: Tick, report: Report) {
            let feedback = Feedback { stage: 0, number: 1, reports: vec![report] };
            self.on(now, DoorEvent::Feedback { from: self.me.clone(), feedback });
        }

        /// The first request runs, and makes a token every 100 ms from `now` on; gives the time of the last one.
        fn runs(&mut self, now: Tick, sequence: SequenceId, tokens: u32) -> Tick {
            self.report(now, Report::Opened { sequence, attempt: 1 });
            let mut at = now;
            for position in 1..=tokens {
                at = at + Duration::from_millis(100);
                let emission = Emission::Token { id: 1, observed: None };
                self.report(at, Report::Emitted { sequence, attempt: 1, position, emission });
            }
            at
        }
    }

    #[test]
    fn what_cannot_start_in_time_is_told_when_to_come_again() {
        let mut counter = Counter::new();
        let first = counter.submit(at(0), 100).unwrap();
        let now = counter.runs(at(0), first, 80);
        // 20 tokens to go, a tenth of a second each.
        let fault = counter.submit(now, 1).unwrap_err();
        assert_eq!((fault.class, fault.retry_after), (FaultClass::Overloaded, Some(Duration::from_secs(1))), "{fault}");
    }

    #[test]
    fn who_can_start_in_time_waits_and_counts_for_those_behind() {
        let mut counter = Counter::new();
        let first = counter.submit(at(0), 100).unwrap();
        let now = counter.runs(at(0), first, 96);
        // 400 ms to go: one of half a second still starts in time, and one behind it, but nobody behind that.
        counter.submit(now, 5).unwrap();
        counter.submit(now, 5).unwrap();
        assert!(counter.submit(now, 5).is_err());
    }

    #[test]
    fn with_no_time_to_wait_what_finds_room_at_once_has_it() {
        let mut counter = Counter::with(Duration::ZERO);
        let first = counter.submit(at(0), 5).unwrap();
        counter.runs(at(1), first, 1);
        assert!(counter.ended.is_empty());
        assert!(counter.submit(at(200), 5).is_err());
    }

    #[test]
    fn a_missing_stage_is_waited_for_longer_than_room() {
        let mut counter = Counter::new();
        counter.lives(at(0), false);
        let sequence = counter.submit(at(1000), 1).unwrap();
        counter.on(at(30_999), DoorEvent::Time);
        assert!(counter.ended.is_empty(), "queue_timeout does not count while a stage is missing");
        counter.on(at(31_001), DoorEvent::Time);
        let (ended, outcome) = counter.ended.pop().unwrap();
        let fault = outcome.unwrap_err();
        assert_eq!((ended, fault.class, fault.stage), (sequence, FaultClass::Unavailable, Some(0)));
    }

    #[test]
    fn who_waited_for_a_stage_has_its_time_for_room_before_it() {
        let mut counter = Counter::new();
        counter.lives(at(0), false);
        let first = counter.submit(at(0), 1).unwrap();
        counter.submit(at(0), 1).unwrap();
        counter.lives(at(20_000), true);
        counter.report(at(20_000), Report::Opened { sequence: first, attempt: 1 });
        counter.on(at(20_999), DoorEvent::Time);
        assert!(counter.ended.is_empty());
        counter.on(at(22_001), DoorEvent::Time);
        assert_eq!(counter.ended.len(), 1, "there is one place, and it is taken");
        assert!(matches!(&counter.ended[0].1, Err(fault) if fault.class == FaultClass::Overloaded));
    }
}
