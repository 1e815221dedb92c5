//! How long a request waits at the door, and for what. What cannot start in time is refused at once, so that overload costs those
//! who come last an answer of some milliseconds, and nobody a place.

use super::{DoorMachine, Live, Phase};
use stageline_base::{Fault, FaultClass, SequenceId, Tick};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Requests before their first token from which on what they have to run counts: so few at once are no overload, however long
/// their prompts are.
const FEW: usize = 8;
/// A request that was let in by the estimate has this many times `queue_timeout` to start: the estimate may be wrong, and to
/// refuse so late is worse than to be late.
const PATIENCE: u32 = 2;
/// Least and most of what a refused client is told to wait.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl DoorMachine {
    /// Has a request wait: oldest first, those that wait for as long as they may behind all others.
    pub(super) fn queue(&mut self, sequence: SequenceId) {
        let order = |of: SequenceId| (self.live.get(&of).is_some_and(|live| live.patient), of);
        let place = self.waiting.iter().position(|other| order(*other) > order(sequence));
        self.waiting.insert(place.unwrap_or(self.waiting.len()), sequence);
    }

    /// Those that wait and are no more patient than the queue: the others come behind all of them.
    fn impatient(&self) -> impl Iterator<Item = &Live> + Clone {
        let waiting = self.waiting.iter().filter_map(|sequence| self.live.get(sequence));
        waiting.take_while(|live| !live.patient)
    }

    /// Whether one more request may wait, and the estimate of how long it will if it must: the pace of those before it, as it is.
    ///
    /// # Errors
    /// `Overloaded`, with when to try again.
    pub(super) fn may_wait(&self, now: Tick, deadline: Tick) -> Result<Option<Duration>, Fault> {
        let estimate = self.starts_in(now);
        let wait = estimate.map(|estimate| self.pace.stretched(estimate));
        let full = |words: String, wait: Duration| {
            Err(Fault::new(FaultClass::Overloaded, words).again_after(wait.clamp(AGAIN.0, AGAIN.1)))
        };
        let waiting = self.impatient().count();
        if waiting >= self.setup.max_queue {
            let words = format!("{waiting} requests wait already: try again later");
            return full(words, wait.unwrap_or_default());
        }
        // Nobody knows when what is missing is back.
        if self.missing_since.is_some() {
            return Ok(None);
        }
        let limit = self.setup.queue_timeout.min(deadline.since(now));
        match wait.filter(|wait| *wait > limit) {
            Some(wait) => {
                let words = format!(
                    "there is no room: a request could start in about {:.1} s, which is longer than it may wait ({:.1} s): \
                     try again later",
                    wait.as_secs_f64(),
                    limit.as_secs_f64()
                );
                full(words, wait.saturating_sub(limit))
            }
            None => Ok(estimate),
        }
    }

    /// When one more request could start, by how fast those before it get on: when it has a place, and what is ahead of it in the
    /// pipeline has run. `None` if at once, or if nothing has been measured.
    fn starts_in(&self, now: Tick) -> Option<Duration> {
        let place = self.place_in(now);
        let (waiting, begun) = (self.impatient(), self.begun());
        if begun.clone().count() + waiting.clone().count() < FEW {
            return place;
        }
        let rows = |of: &Live| of.progress.rows();
        let (waiting, begun): (usize, usize) = (waiting.map(rows).sum(), begun.map(rows).sum());
        let after_place = place.unwrap_or_default().saturating_add(self.pace.first(waiting));
        Some(after_place.max(self.pace.first(begun + waiting))).filter(|starts| !starts.is_zero())
    }

    /// When one more request could have a place; `None` if at once, or if nothing has been measured.
    fn place_in(&self, now: Tick) -> Option<Duration> {
        // When each place is free. After a refusal for want of KV blocks a place that nobody holds is none.
        let mut places = BinaryHeap::new();
        let crowd = self.crowd();
        for live in self.live.values().filter(|live| live.phase != Phase::Waiting) {
            places.push(Reverse(self.ends_in(now, live, crowd)?));
        }
        if self.hold_until.is_none_or(|until| until <= now) {
            let free = (self.setup.max_num_seqs as usize).saturating_sub(places.len());
            places.extend(std::iter::repeat_n(Reverse(Duration::ZERO), free));
        }
        for live in self.impatient() {
            let Reverse(begins) = places.pop()?;
            places.push(Reverse(begins.saturating_add(self.ends_in(now, live, crowd)?)));
        }
        places.pop().map(|Reverse(begins)| begins).filter(|begins| !begins.is_zero())
    }

    /// When a request that began now would have ended: by its own pace, or by its deadline.
    fn ends_in(&self, now: Tick, live: &Live, crowd: usize) -> Option<Duration> {
        Some(self.pace.left(now, live, crowd)?.min(live.deadline.since(now)))
    }

    /// Sequences that have a place, or had one and are opened again.
    pub(super) fn crowd(&self) -> usize {
        self.live.len() - self.waiting.len()
    }

    /// A sequence is opened now: the rows that have to run until its first token, its own included.
    pub(super) fn rows_until_first(&self, live: &Live) -> usize {
        self.begun().map(|other| other.progress.rows()).sum::<usize>() + live.progress.rows()
    }

    /// Those that have been opened and have no token of that attempt yet.
    fn begun(&self) -> impl Iterator<Item = &Live> + Clone {
        self.live.values().filter(|live| live.rows_ahead.is_some())
    }

    /// When a request that arrives now must have started.
    pub(super) fn must_start_by(&self, now: Tick) -> Tick {
        now + self.setup.queue_timeout.saturating_mul(PATIENCE)
    }

    /// What a request is told that was let in by the estimate, and did not start.
    pub(super) fn no_room_in_time(&self) -> Fault {
        Fault::new(FaultClass::Overloaded, "there was no room in time: try again later").again_after(AGAIN.0)
    }
}
