//! The calls of a run: made once the log says so, aborted once they count no more.

use super::super::datum::{Blob, Datum};
use super::super::events::{CallOutcome, Calling, RunAction};
use super::super::logged::{Logged, Moment};
use super::super::scope::{Hole, Scope};
use super::super::state::{Key, Slot, SlotState, Spot};
use super::Run;
use crate::definition::{Does, File};
use std::sync::Arc;

/// Blobs that are kept in memory, each of 16 MiB at most.
const MOST_BLOBS: usize = 8;

impl Run {
    /// Makes the calls that a record says are made.
    pub(super) fn make_calls(&mut self, record: &[Moment], out: &mut Vec<RunAction>) {
        for said in record.iter().flat_map(|moment| &moment.said) {
            if let Logged::Called { key, attempt, .. } = said {
                self.call(key.clone(), *attempt, out);
            }
        }
    }

    /// Makes the calls that the log says are under way and that are not, here.
    pub(super) fn call_what_is_called(&mut self, out: &mut Vec<RunAction>) {
        let file = Arc::clone(&self.file);
        for (key, attempt) in self.state.calls(&file) {
            let has_ended = self.outcomes.iter().any(|(known, number, _)| (known, *number) == (&key, attempt));
            if !has_ended && self.under_way.get(&key) != Some(&attempt) {
                self.call(key, attempt, out);
            }
        }
    }

    pub(super) fn call(&mut self, key: Key, attempt: u32, out: &mut Vec<RunAction>) {
        let file = Arc::clone(&self.file);
        let Some(spot) = self.state.spot(&file, &key).filter(|spot| self.state.counts(&file, spot)) else { return };
        let is_called = |slot: &&Slot| matches!(slot.state, SlotState::Called) && slot.attempt == attempt;
        if self.state.slot(&spot).filter(is_called).is_none() {
            return;
        }
        match self.calling(&file, &key, &spot, attempt) {
            Ok(Some(call)) => {
                self.under_way.insert(key.clone(), attempt);
                out.push(RunAction::Call { key, call: Box::new(call) });
            }
            Ok(None) => {}
            Err(Hole::Blob(blob)) => {
                self.waiting.push(key);
                out.push(RunAction::Fetch(blob));
            }
            Err(Hole::Failure(class, reason)) => {
                let outcome = CallOutcome { class, reason, retry_after: None, transient: false, counts: true };
                self.under_way.insert(key.clone(), attempt);
                self.outcomes.push((key, attempt, Err(outcome)));
            }
        }
    }

    fn calling(&self, file: &File, key: &Key, spot: &Spot, attempt: u32) -> Result<Option<Calling>, Hole> {
        let (Some(node), Some(slot)) = (self.state.node(file, spot), self.state.slot(spot)) else { return Ok(None) };
        let (call, seen_from) = match spot {
            Spot::Node { .. } => match &node.does {
                Does::Call(call) => (call, Some(*spot)),
                _ => return Ok(None),
            },
            Spot::Undo(place) => match &node.undo {
                Some(undo) => {
                    (&undo.call, self.state.undoing.get(*place).and_then(|(done, _)| self.state.spot(file, done)))
                }
                None => return Ok(None),
            },
        };
        let Some(Spot::Node { frame, node: place, item }) = seen_from else { return Ok(None) };
        let (state, known, run) = (&self.state, &self.known, &*self.setup.run);
        let scope = Scope { state, file, known, run, frame, node: place, item, error: None, output: None };
        let input = slot.input.as_ref().map_or(Ok(Datum::Nothing), |given| scope.datum(given))?;
        let tries = if state.tries > 0 { format!(".again{}", state.tries) } else { String::new() };
        Ok(Some(Calling {
            target: call.target.clone(),
            limits: file.limits_of(&call.target),
            gateway: file.gateway.clone(),
            method: call.method.clone(),
            id: format!("{run}.{key}{tries}"),
            attempt,
            input,
            with: slot.with.clone(),
            timeout: node.timeout,
            streams: node.streams && matches!(spot, Spot::Node { .. }),
            nonce: state.accepted.as_ref().map_or(0, |run| run.nonce),
        }))
    }

    pub(super) fn fetched(&mut self, blob: &Blob, datum: Option<Datum>, out: &mut Vec<RunAction>) {
        if self.known.blobs.len() >= MOST_BLOBS {
            // What is needed again is read again.
            self.known.blobs.clear();
        }
        self.known.blobs.insert(blob.name.clone(), datum);
        self.state.work.extend(std::mem::take(&mut self.stalled));
        for key in std::mem::take(&mut self.waiting) {
            let file = Arc::clone(&self.file);
            let attempt = self.state.spot(&file, &key).and_then(|spot| self.state.slot(&spot)).map(|slot| slot.attempt);
            self.call(key, attempt.unwrap_or_default(), out);
        }
    }

    pub(super) fn abort_what_counts_no_more(&mut self, out: &mut Vec<RunAction>) {
        // What is not in the log may yet come otherwise.
        if !self.state.has_shrunk || self.writing.is_some() || !self.pending.is_empty() {
            return;
        }
        self.state.has_shrunk = false;
        let file = Arc::clone(&self.file);
        let state = &self.state;
        self.under_way.retain(|key, attempt| {
            let spot = state.spot(&file, key);
            let slot = spot.as_ref().filter(|spot| state.counts(&file, spot)).and_then(|spot| state.slot(spot));
            let counts = slot.is_some_and(|slot| matches!(slot.state, SlotState::Called) && slot.attempt == *attempt);
            if !counts {
                out.push(RunAction::Abort { key: key.clone() });
            }
            counts
        });
    }

    pub(super) fn abort_all(&mut self, out: &mut Vec<RunAction>) {
        for key in std::mem::take(&mut self.under_way).into_keys() {
            out.push(RunAction::Abort { key });
        }
        self.outcomes.clear();
        self.told.clear();
    }
}
