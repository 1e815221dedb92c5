//! The parts of a run's life: what the flow does, what takes that back, what is for runs that failed, what is at the end of each.

use super::super::datum::Datum;
use super::super::logged::{Ended, Failure, FailureClass, Given, Logged, Phase};
use super::super::machine::Run;
use super::super::scope::{Hole, Scope};
use super::super::state::{Frame, Key, NodeState, SlotState, Spot, root_of};
use super::with;
use crate::definition::{File, Flow};
use stageline_core::durable::Wall;

impl Run {
    /// Goes on to the next part of the run's life, if this one is over; whether it did.
    pub(super) fn next_phase(&mut self, file: &File, now: Wall) -> bool {
        let Some(flow) = self.state.flow(file) else {
            let reason = "the flow's definition is gone or cannot be read".to_owned();
            self.ends(file, now, Ended::Failed(Failure { node: None, class: FailureClass::Internal, reason }));
            return true;
        };
        match self.state.phase {
            Some(Phase::Main) if self.state.is_stopping() => {
                // What nobody waits for may come to its end.
                if self.state.calls(file).iter().any(|(key, _)| self.spot_counts(file, key)) {
                    return false;
                }
                let undoes = self.state.cancelled.unwrap_or(true) && self.state.has_undoable();
                if undoes {
                    self.say(file, now, Logged::Entered(Phase::Undoing))
                } else {
                    self.after_undoing(file, flow, now)
                }
            }
            Some(Phase::Main) if self.state.output.is_some() => self.finally(file, flow, now),
            Some(Phase::Main) | None => return false,
            Some(Phase::Undoing) => {
                let next = self.state.undoing.iter().find(|(_, slot)| !slot.is_settled()).cloned();
                match next {
                    None => self.after_undoing(file, flow, now),
                    Some((key, slot)) if matches!(slot.state, SlotState::Idle) => {
                        return self.undo(file, now, &key);
                    }
                    Some(_) => return false,
                }
            }
            Some(phase @ (Phase::OnFailure | Phase::Finally)) => {
                let root = root_of(phase).and_then(|root| self.state.roots[root]);
                let frame = root.and_then(|root| self.state.frames.get(root));
                // Where something failed, what waits for that never comes.
                let goes_on = |frame: &Frame| !frame.failed || frame.nodes.iter().any(NodeState::is_begun);
                if frame.is_some_and(|frame| frame.left > 0 && goes_on(frame)) {
                    return false;
                }
                if phase == Phase::OnFailure { self.finally(file, flow, now) } else { self.is_done(file, now) }
            }
        }
        true
    }

    fn spot_counts(&self, file: &File, key: &Key) -> bool {
        self.state.spot(file, key).is_some_and(|spot| self.state.counts(file, &spot))
    }

    fn after_undoing(&mut self, file: &File, flow: &Flow, now: Wall) {
        if self.state.failing.is_some() && !flow.on_failure.nodes.is_empty() {
            self.say(file, now, Logged::Entered(Phase::OnFailure));
        } else {
            self.finally(file, flow, now);
        }
    }

    fn finally(&mut self, file: &File, flow: &Flow, now: Wall) {
        if flow.finally.nodes.is_empty() {
            self.is_done(file, now);
        } else {
            self.say(file, now, Logged::Entered(Phase::Finally));
        }
    }

    fn is_done(&mut self, file: &File, now: Wall) {
        let ended = match (&self.state.failing, self.state.cancelled, &self.state.output) {
            (Some(failure), ..) => Ended::Failed(failure.clone()),
            (None, Some(_), _) => Ended::Cancelled,
            (None, None, output) => Ended::Succeeded(output.clone().unwrap_or(Datum::Nothing)),
        };
        self.ends(file, now, ended);
    }

    /// Takes back what a key did; whether something was said.
    fn undo(&mut self, file: &File, now: Wall, done: &Key) -> bool {
        let key = done.undo();
        let Some(Spot::Node { frame, node, item }) = self.state.spot(file, done) else {
            self.fail(file, now, key, (FailureClass::Internal, "what is to be taken back is gone".to_owned()));
            return true;
        };
        let said = self.state.graph(file, frame).and_then(|graph| graph.nodes.get(node));
        let Some(undo) = said.and_then(|said| said.undo.as_ref()) else {
            self.fail(file, now, key, (FailureClass::Internal, "nothing is said that takes it back".to_owned()));
            return true;
        };
        let scope = self.scope(file, frame, node, item);
        let gave = Given::OutputOf(done.clone());
        let whole = match &undo.input {
            crate::definition::Input::Usual => Ok(gave),
            given => scope.datum(&gave).and_then(|datum| {
                let output = scope.value(&datum)?;
                Scope { output: Some(&output), ..scope }.given(given)
            }),
        };
        let whole = whole.and_then(|input| Ok((input, with(scope, &undo.call)?)));
        match whole {
            Ok((input, with)) => self.say(file, now, Logged::Called { key, attempt: 1, input: Some(input), with }),
            // It is read, and this is looked at again then.
            Err(Hole::Blob(blob)) => {
                if !self.wanted.contains(&blob) {
                    self.wanted.push(blob);
                }
                return false;
            }
            Err(Hole::Failure(class, reason)) => self.fail(file, now, key, (class, reason)),
        }
        true
    }
}
