//! How fast requests get on, and how far an estimate made of that can be trusted.

use super::{Live, Phase};
use stageline_base::Tick;
use std::time::Duration;

/// What one more answer counts, against all before it.
const NEWER: f64 = 0.1;
/// A mean goes over about so many measurements; of tokens, over so many of each sequence.
const MEASUREMENTS: f64 = 32.0;
/// By what an estimate that was too short stretches those after it, and by what one that was long enough takes that back. They
/// balance where ten stay below for each that does not: a client that starts too late has lost more than one that is told so at
/// once.
const SHORT: f64 = 1.1;
const LONG: f64 = 0.99;
/// Most that estimates are stretched to.
const STRETCH_MOST: f64 = 32.0;
/// What an answer takes of the stretch: who nobody waits behind any more would be the measure for ever.
const FADE: f64 = 0.002;

/// Counts are those of rows and sequences, far below 2^32.
const ENTRIES: usize = 32;

/// Means of a time, in seconds, by a count: entry k for counts of 2^k to 2^(k+1) - 1.
#[derive(Clone, Debug, Default)]
struct Means([Mean; ENTRIES]);

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    seconds: f64,
    measurements: f64,
}

impl Means {
    /// One more measurement, in a mean over at most `most`.
    fn add(&mut self, count: usize, time: Duration, most: f64) {
        let mean = &mut self.0[Self::entry(count)];
        mean.measurements = (mean.measurements + 1.0).min(most);
        mean.seconds += (time.as_secs_f64() - mean.seconds) / mean.measurements;
    }

    /// The mean at `count`. Where only smaller counts were measured it grows in proportion, as on a device that has nothing to
    /// spare; where only larger ones were, it is theirs. `None` as long as nothing was.
    fn at(&self, count: usize) -> Option<f64> {
        let here = Self::entry(count);
        let measured = |at: &usize| self.0[*at].measurements > 0.0;
        match (0..=here).rev().find(measured) {
            Some(at) => Some(self.0[at].seconds * 2_f64.powi((here - at) as i32)),
            None => (here..ENTRIES).find(measured).map(|at| self.0[at].seconds),
        }
    }

    fn entry(count: usize) -> usize {
        (count.max(1).ilog2() as usize).min(ENTRIES - 1)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// From one token of a sequence to its next, its first one's included, by how many sequences had a place.
    steps: Means,
    /// From a sequence's opening to its first token, by the rows that had to run until then: its own, and those that were ahead.
    firsts: Means,
    /// Part of its `max_tokens` that an answer uses.
    used: f64,
    /// How many times longer than estimated a start is waited for. Above 1 where places are estimated by the pace of those who
    /// hold them, and what is started meanwhile slows them down.
    stretch: f64,
}

impl Pace {
    pub(super) fn unknown() -> Self {
        Self { steps: Means::default(), firsts: Means::default(), used: 1.0, stretch: 1.0 }
    }

    /// A token came `after` the one before it, while `crowd` sequences had a place.
    pub(super) fn token(&mut self, after: Duration, crowd: usize) {
        self.steps.add(crowd, after, MEASUREMENTS * crowd.max(1) as f64);
    }

    /// A first token came `after` its sequence was opened, with so many rows to run until then.
    pub(super) fn first_token(&mut self, after: Duration, rows: usize) {
        self.firsts.add(rows, after, MEASUREMENTS);
    }

    /// An answer ended by itself.
    pub(super) fn answered(&mut self, live: &Live) {
        self.used += NEWER * (live.progress.used() - self.used);
        self.stretch -= FADE * (self.stretch - 1.0);
    }

    /// What was estimated for `live` is over: it has its first token, or is refused after all.
    pub(super) fn waited(&mut self, now: Tick, live: &mut Live) {
        let Some((estimate, since)) = live.estimate.take() else { return };
        let times = now.since(since).as_secs_f64() / estimate.as_secs_f64().max(1e-3);
        let step = if times > self.stretch { SHORT } else { LONG };
        self.stretch = (self.stretch * step).clamp(1.0, STRETCH_MOST);
    }

    /// How long to expect to wait where `estimate` is estimated.
    pub(super) fn stretched(&self, estimate: Duration) -> Duration {
        seconds(estimate.as_secs_f64() * self.stretch)
    }

    /// How long so many rows take until the last of them gives its first token; nothing as long as nothing has been measured.
    pub(super) fn first(&self, rows: usize) -> Duration {
        seconds(if rows == 0 { 0.0 } else { self.firsts.at(rows).unwrap_or(0.0) })
    }

    /// What `live` still needs among `crowd` sequences, or all that it will need if it has not begun; `None` as long as nothing
    /// has been measured.
    pub(super) fn left(&self, now: Tick, live: &Live, crowd: usize) -> Option<Duration> {
        let left = seconds(live.progress.emissions_left(self.used) * self.steps.at(crowd)?);
        Some(if live.phase == Phase::Waiting { left } else { left.saturating_sub(now.since(live.moved)) })
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}
