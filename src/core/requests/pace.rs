//! How fast requests get on, and how far an estimate made of that can be trusted.

use super::{Live, Phase};
use crate::base::Tick;
use crate::core::Work;
use std::time::Duration;

/// What one more answer counts, against all before it.
const NEWER: f64 = 0.1;
/// A mean goes over about so many tokens of each sequence.
const TOKENS: f64 = 32.0;
/// Means are kept apart for 1, 2, 4 … sequences at once.
const CROWDS: usize = 32;
/// By what an estimate that was too short stretches those after it, and by what one that was long enough takes that back. They
/// balance where ten stay below for each that does not: a client that starts too late has lost more than one that is told so at
/// once.
const SHORT: f64 = 1.1;
const LONG: f64 = 0.99;
/// Most that estimates are stretched to.
const STRETCH_MOST: f64 = 32.0;
/// What an answer takes of the stretch: who nobody waits behind any more would be the measure for ever.
const FADE: f64 = 0.002;

/// The mean of a step, and of how many tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    seconds: f64,
    tokens: f64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// From one token of a sequence to its next, its first one's included: entry k while 2^k to 2^(k+1) - 1 sequences had a place.
    steps: [Step; CROWDS],
    /// Part of its `max_tokens` that an answer uses.
    used: f64,
    /// How many times longer than estimated a place is waited for. Above 1 since a place is estimated by the pace of those who
    /// hold them, and what is started meanwhile slows them down.
    stretch: f64,
}

impl Pace {
    pub(super) fn unknown() -> Self {
        Self { steps: [Step::default(); CROWDS], used: 1.0, stretch: 1.0 }
    }

    /// A token came `after` the one before it, while `crowd` sequences had a place.
    pub(super) fn token(&mut self, after: Duration, crowd: usize) {
        let step = &mut self.steps[entry(crowd)];
        step.tokens = (step.tokens + 1.0).min(TOKENS * crowd.max(1) as f64);
        step.seconds += (after.as_secs_f64() - step.seconds) / step.tokens;
    }

    /// An answer ended by itself.
    pub(super) fn answered(&mut self, live: &Live) {
        let used = f64::from(live.generated()) / f64::from(live.request.max_tokens.max(1));
        self.used += NEWER * (used - self.used);
        self.stretch -= FADE * (self.stretch - 1.0);
    }

    /// A place that was estimated to be free after `estimate` has been waited for so long.
    pub(super) fn waited(&mut self, estimate: Duration, waited: Duration) {
        let times = waited.as_secs_f64() / estimate.as_secs_f64().max(1e-3);
        let step = if times > self.stretch { SHORT } else { LONG };
        self.stretch = (self.stretch * step).clamp(1.0, STRETCH_MOST);
    }

    /// How long to expect to wait where `estimate` is estimated.
    pub(super) fn stretched(&self, estimate: Duration) -> Duration {
        Duration::try_from_secs_f64(estimate.as_secs_f64() * self.stretch).unwrap_or(Duration::MAX)
    }

    /// What `live` still needs among `crowd` sequences, or all that it will need if it has not begun; `None` as long as nothing
    /// has been measured.
    pub(super) fn left(&self, now: Tick, live: &Live, crowd: usize) -> Option<Duration> {
        let tokens = match live.request.work {
            Work::Generate(_) => {
                let expected = f64::from(live.request.max_tokens) * self.used;
                (expected - f64::from(live.generated())).max(1.0)
            }
            Work::Embed => 1.0,
        };
        let left = Duration::try_from_secs_f64(tokens * self.step_s(crowd)?).unwrap_or(Duration::MAX);
        Some(if live.phase == Phase::Waiting { left } else { left.saturating_sub(now.since(live.moved)) })
    }

    /// Seconds of a step among `crowd` sequences. Where only smaller crowds were measured it grows in proportion, as on a device
    /// that has nothing to spare; where only larger ones were, it is theirs.
    fn step_s(&self, crowd: usize) -> Option<f64> {
        let here = entry(crowd);
        let measured = |at: &usize| self.steps[*at].tokens > 0.0;
        match (0..=here).rev().find(measured) {
            Some(at) => Some(self.steps[at].seconds * 2_f64.powi((here - at) as i32)),
            None => (here..CROWDS).find(measured).map(|at| self.steps[at].seconds),
        }
    }
}

fn entry(crowd: usize) -> usize {
    (crowd.max(1).ilog2() as usize).min(CROWDS - 1)
}
