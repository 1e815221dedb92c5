//! What happened meanwhile: calls ended, times came, something was said.

use super::super::datum::Datum;
use super::super::events::Outcome;
use super::super::logged::{Failure, FailureClass, Given, Logged, Phase, With};
use super::super::machine::Run;
use super::super::state::{Key, SlotState, Spot};
use super::later;
use crate::definition::{Does, File, Wait};
use stageline_base::prng::Prng;
use stageline_core::durable::Wall;

/// Timeouts after which a call is not made again: what takes too long mostly does so again.
const MOST_TIMEOUTS: u32 = 2;

impl Run {
    pub(super) fn take_outcomes(&mut self, file: &File, now: Wall) {
        for ending in std::mem::take(&mut self.outcomes) {
            self.told.push(ending.clone());
            let (key, attempt, outcome) = ending;
            // One that is told once more may be of a call before the one that is under way.
            if self.under_way.get(&key) == Some(&attempt) {
                self.under_way.remove(&key);
            }
            let Some(spot) = self.state.spot(file, &key) else { continue };
            let counts = self
                .state
                .slot(&spot)
                .is_some_and(|slot| matches!(slot.state, SlotState::Called) && slot.attempt == attempt);
            if counts && self.state.counts(file, &spot) && self.state.ended.is_none() {
                self.call_ended(file, now, (key, spot, attempt), outcome);
            }
        }
    }

    fn call_ended(&mut self, file: &File, now: Wall, (key, spot, attempt): (Key, Spot, u32), outcome: Outcome) {
        let failed = match outcome {
            Ok(datum) => {
                let output = Given::Here(datum);
                return self.say(file, now, Logged::Done { key, output });
            }
            Err(failed) => failed,
        };
        let (Some(node), Some(slot)) = (self.state.node(file, &spot), self.state.slot(&spot)) else { return };
        let (retry, counts) = (&node.retry, failed.counts);
        let took_too_long = failed.class == FailureClass::Timeout;
        let (strikes, timeouts) = (slot.strikes + u32::from(counts), slot.timeouts + u32::from(took_too_long));
        let may = match &retry.on {
            Some(on) => on.iter().any(|on| failed.class.is(*on)),
            None => failed.transient,
        };
        let most_timeouts = if retry.on.is_some() { u32::MAX } else { MOST_TIMEOUTS };
        let may = may && strikes < retry.attempts && timeouts < most_timeouts.min(retry.attempts);
        let grown = retry
            .min
            .mul_f64(retry.factor.powi(attempt.saturating_sub(1).min(64) as i32).clamp(1.0, 1e9))
            .min(retry.max);
        let nonce = self.state.accepted.as_ref().map_or(0, |run| run.nonce);
        let seed =
            key.as_str().bytes().fold(nonce ^ u64::from(attempt), |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
        // Somewhere in the whole pause, so that what failed together does not come back together; never sooner than was asked for.
        let pause = grown.mul_f64(Prng::new(seed).unit()).max(failed.retry_after.unwrap_or_default());
        let again = later(now, pause);
        let in_time = retry.within.is_none_or(|within| again <= later(slot.since, within))
            && (self.state.phase != Some(Phase::Main)
                || self.state.accepted.as_ref().is_none_or(|run| again < run.deadline));
        let again = (may && in_time).then_some(again);
        let failure = Failure { node: Some(key.clone()), class: failed.class, reason: failed.reason };
        self.say(file, now, Logged::Failed { key, failure, again, counts });
    }

    pub(super) fn take_timers(&mut self, file: &File, now: Wall) {
        if self.state.phase == Some(Phase::Main) && self.state.paused.is_none() && !self.state.is_stopping() {
            let late = self.state.accepted.as_ref().filter(|run| run.deadline <= now && self.state.output.is_none());
            if late.is_some() {
                let reason = "the run's timeout passed before the flow was done".to_owned();
                self.say(file, now, Logged::Failing(Failure { node: None, class: FailureClass::Timeout, reason }));
            }
        }
        if self.state.paused.is_some() && !self.state.is_stopping() {
            return;
        }
        while let Some((at, key)) = self.state.timers.first().filter(|(at, _)| *at <= now).cloned() {
            self.state.timers.remove(&(at, key.clone()));
            let Some(spot) = self.state.spot(file, &key).filter(|spot| self.state.counts(file, spot)) else { continue };
            if self.state.is_stopping() {
                continue;
            }
            let Some((state, attempt)) = self.state.slot(&spot).map(|slot| (slot.state.clone(), slot.attempt)) else {
                continue;
            };
            match state {
                SlotState::Resting(due) if due == at => {
                    let (attempt, input, with) = (attempt + 1, None, With::default());
                    self.say(file, now, Logged::Called { key, attempt, input, with });
                }
                SlotState::Waits(due) if due == at => {
                    let signal = self.state.node(file, &spot).and_then(|node| match &node.does {
                        Does::Wait(Wait::Signal(name)) => Some(name.clone()),
                        _ => None,
                    });
                    match signal {
                        Some(name) => {
                            let words = format!("nobody said `{name}` in time");
                            self.fail(file, now, key, (FailureClass::Timeout, words));
                        }
                        None => self.say(file, now, Logged::Done { key, output: Given::Here(Datum::Nothing) }),
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn take_signals(&mut self, file: &File, now: Wall) {
        if self.state.is_stopping() {
            return;
        }
        // One at a time: what was said is said to one.
        while let Some((key, value)) = self.state.awaiting.iter().find_map(|waits| self.heard(file, waits)) {
            self.say(file, now, Logged::Done { key, output: Given::Here(value) });
        }
    }

    /// What was said to a key that waits for it.
    fn heard(&self, file: &File, (name, key): &(String, Key)) -> Option<(Key, Datum)> {
        let (_, value) = self.state.signals.iter().find(|(said, _)| said == name)?;
        let spot = self.state.spot(file, key)?;
        let waits = matches!(self.state.slot(&spot)?.state, SlotState::Waits(_)) && self.state.counts(file, &spot);
        waits.then(|| (key.clone(), value.clone()))
    }
}
