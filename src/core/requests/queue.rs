//! How long a request waits at the door, and for what. What cannot start in time is refused at once, so that overload costs those
//! who come last an answer of some milliseconds, and nobody a place.

use super::{DoorAction, DoorMachine, Live, Phase, missing};
use crate::base::{Fault, FaultClass, SequenceId, Tick};
use crate::core::Work;
use std::time::Duration;

/// What a newer measurement counts, against all before it.
const NEWER: f64 = 0.1;
/// A request that was let in by the estimate has this many times `queue_timeout` to start: the estimate may be wrong, and to
/// refuse so late is worse than to be late.
const PATIENCE: u32 = 2;
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

    /// Seconds that `live` still needs; `None` as long as nothing has been measured.
    fn left_s(&self, now: Tick, live: &Live) -> Option<f64> {
        let tokens = match live.request.work {
            Work::Generate(_) => {
                let expected = f64::from(live.request.max_tokens) * self.used;
                (expected - f64::from(live.generated())).max(1.0)
            }
            Work::Embed => 1.0,
        };
        Some((tokens * self.token_s? - now.since(live.moved).as_secs_f64()).max(0.0))
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
        let busy = || self.live.values().filter(|live| live.phase != Phase::Waiting);
        // After a refusal for want of KV blocks a free place is none.
        let free = match self.hold_until.is_some_and(|until| now < until) {
            true => 0,
            false => (self.setup.max_num_seqs as usize).saturating_sub(busy().count()),
        };
        let ends_before = (self.waiting.len() + 1).checked_sub(free + 1)?;
        let mut left: Vec<f64> = busy().map(|live| self.pace.left_s(now, live)).collect::<Option<_>>()?;
        left.sort_unstable_by(f64::total_cmp);
        let longest = left.last()?;
        let rounds = (ends_before / left.len()) as f64;
        let seconds = left[ends_before % left.len()] + rounds * longest;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
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
        let due = |live: &Live| self.waits_until(live).is_some_and(|until| until <= now);
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
        self.live.values().filter_map(|live| self.waits_until(live)).min()
    }
}
