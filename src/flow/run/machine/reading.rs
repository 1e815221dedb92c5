//! What an owner makes of what the log says.

use super::super::events::{Planted, RunAction, RunSetup};
use super::super::logged::{Logged, Moment};
use super::super::state::State;
use super::{Run, Standing};
use crate::definition::File;
use stageline_core::durable::Wall;
use std::sync::Arc;

impl Run {
    pub(super) fn read_all(&mut self, out: &mut Vec<RunAction>) {
        if self.reading != Some(0) {
            self.reading = Some(0);
            out.push(RunAction::Read { after: 0 });
        }
    }

    /// Looks whether others have written. Where something is on its way to the log, its append is what tells.
    pub(super) fn look(&mut self, out: &mut Vec<RunAction>) {
        let is_settled = self.writing.is_none() && self.pending.is_empty() && !self.is_stale;
        if is_settled && self.reading.is_none() && self.state.last > 0 {
            self.reading = Some(self.state.last);
            out.push(RunAction::Read { after: self.state.last });
        }
    }

    pub(super) fn read_more(&mut self, now: Wall, records: Vec<(u64, Vec<Moment>)>, out: &mut Vec<RunAction>) {
        if records.is_empty() || self.writing.is_some() || !self.pending.is_empty() || self.is_stale {
            return;
        }
        let file = Arc::clone(&self.file);
        for (position, record) in records {
            // What begins anew tells all of it.
            if position > self.state.last {
                self.state.take(&file, position, &record);
            }
        }
        self.stands_as_the_log_says(now, out);
    }

    pub(super) fn read_whole(&mut self, now: Wall, records: Vec<(u64, Vec<Moment>)>, out: &mut Vec<RunAction>) {
        let first = records.first().and_then(|(_, record)| record.first()?.said.first());
        let Some(Logged::Accepted(accepted)) = first else {
            // It is over and forgotten: the job outlived it.
            self.abort_all(out);
            return self.over(RunAction::Done, out);
        };
        let digest = accepted.definition.clone();
        self.unfolded = records;
        if self.defined.as_ref() == Some(&digest) {
            self.rebuild(now, out);
        } else {
            out.push(RunAction::Define(digest.clone()));
            self.defined = Some(digest);
        }
    }

    pub(super) fn define(&mut self, now: Wall, file: Option<Arc<File>>, out: &mut Vec<RunAction>) {
        self.file = file.unwrap_or_default();
        if !self.unfolded.is_empty() {
            self.rebuild(now, out);
        }
    }

    /// Makes the state anew, of nothing but the log.
    fn rebuild(&mut self, now: Wall, out: &mut Vec<RunAction>) {
        let file = Arc::clone(&self.file);
        (self.state, self.is_stale) = (State::default(), false);
        self.known.items.borrow_mut().clear();
        for (position, record) in std::mem::take(&mut self.unfolded) {
            self.state.take(&file, position, &record);
        }
        self.stalled.clear();
        self.waiting.clear();
        self.stands_as_the_log_says(now, out);
    }

    fn stands_as_the_log_says(&mut self, now: Wall, out: &mut Vec<RunAction>) {
        let state = &self.state;
        let is_ours = state.owner.as_ref().is_some_and(|(engine, delivery)| {
            *engine == self.setup.me && *delivery == self.setup.delivery && state.job == Some(self.setup.job)
        });
        let is_twin = state.job.is_some_and(|job| job != self.setup.job);
        let last = if state.accepted.is_none() || state.delivered.is_some() || is_twin {
            // Nothing is left to do, or it is somebody's by another job.
            Some(RunAction::Done)
        } else if is_ours {
            None
        } else if !self.was_ours && state.delivery <= self.setup.delivery {
            // Two takings may have one number, where a broker forgot its last moments: who stands last in the log is the later.
            None
        } else if self.setup.planted == Planted::SettleFenced {
            Some(RunAction::Done)
        } else {
            // Said by us, it would take the job from under its owner.
            Some(RunAction::Leave)
        };
        if let Some(last) = last {
            self.abort_all(out);
            return self.over(last, out);
        }
        let file = Arc::clone(&self.file);
        if !is_ours {
            self.standing = Standing::Claiming;
            let RunSetup { me, job, delivery, .. } = self.setup.clone();
            return self.say(&file, now, Logged::Owned { engine: me, job, delivery });
        }
        match self.standing {
            Standing::Reading | Standing::Claiming => self.claimed(now, out),
            Standing::Active => self.call_what_is_called(out),
            // It was to be let go of, and the log does not say it yet.
            Standing::Releasing(_) => self.say(&file, now, Logged::Released),
            Standing::Telling | Standing::Over => {}
        }
    }
}
