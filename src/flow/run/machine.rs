//! An engine with the job of one run.

mod calls;
mod reading;

use super::datum::Blob;
use super::events::{Delivery, Outcome, Planted, Refused, RunAction, RunEvent, RunSetup};
use super::logged::{Ended, Failure, FailureClass, Logged, Moment};
use super::scope::Known;
use super::state::{Key, State, Work};
use crate::definition::File;
use stageline_core::durable::Wall;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing is known of it yet.
    Reading,
    /// It says in the log that it owns it.
    Claiming,
    /// It goes on with it.
    Active,
    /// Who is to be told of the end is told.
    Telling,
    /// It lets go, for another to take it after so long.
    Releasing(Duration),
    /// It is over.
    Over,
}

/// What is on its way to the log.
#[derive(Debug)]
struct Writing {
    record: Vec<Moment>,
    finishes: bool,
    /// The ends of calls that it tells.
    tells: Vec<Ending>,
    /// To be asked again at that time.
    again_at: Option<Wall>,
}

/// How a call of a key ended, and which.
pub(super) type Ending = (Key, u32, Outcome);

/// See the module.
#[derive(Debug)]
pub struct Run {
    pub(super) setup: RunSetup,
    /// What the log says, with what is on its way there.
    pub(super) state: State,
    pub(super) file: Arc<File>,
    /// The digest of what `file` was read from.
    defined: Option<String>,
    pub(super) known: Known,
    standing: Standing,
    /// The whole log, as it was read, until it is known what the flow is.
    unfolded: Vec<(u64, Vec<Moment>)>,
    /// The log is being read behind this position.
    reading: Option<u64>,
    /// The state holds what did not get into the log: it must be made anew.
    is_stale: bool,
    /// What is to be written next.
    pending: Vec<Moment>,
    writing: Option<Writing>,
    writes: u64,
    /// The calls that were made here, and how many-th of its key each is.
    pub(super) under_way: BTreeMap<Key, u32>,
    /// How calls ended, of which nothing is said yet.
    pub(super) outcomes: Vec<Ending>,
    /// The same, of which `pending` tells: should that not get into the log, it is said anew.
    pub(super) told: Vec<Ending>,
    /// What waits for a blob.
    pub(super) stalled: Vec<Work>,
    /// Blobs that are needed and not asked for.
    pub(super) wanted: Vec<Arc<Blob>>,
    /// Calls whose input is in a blob that is being read.
    waiting: Vec<Key>,
    beat_at: Wall,
    /// Since when there is nothing to do.
    idle_since: Option<Wall>,
    /// Whether the log has said that it is ours.
    was_ours: bool,
    release: bool,
}

fn later(at: Wall, by: Duration) -> Wall {
    Wall(at.0.saturating_add(by.as_millis() as u64))
}

impl Run {
    /// Of a job that was just taken.
    pub fn new(now: Wall, setup: RunSetup, out: &mut Vec<RunAction>) -> Self {
        let beat_at = later(now, setup.beat);
        let mut run = Self {
            setup,
            state: State::default(),
            file: Arc::default(),
            defined: None,
            known: Known::default(),
            standing: Standing::Reading,
            unfolded: Vec::new(),
            reading: None,
            is_stale: false,
            pending: Vec::new(),
            writing: None,
            writes: 0,
            under_way: BTreeMap::new(),
            outcomes: Vec::new(),
            told: Vec::new(),
            stalled: Vec::new(),
            wanted: Vec::new(),
            waiting: Vec::new(),
            beat_at,
            idle_since: None,
            was_ours: false,
            release: false,
        };
        run.read_all(out);
        run
    }

    /// What the log says, and what is on its way there.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.standing == Standing::Over
    }

    /// When it is to be told of the time next.
    pub fn next_deadline(&self) -> Wall {
        let again = self.writing.as_ref().and_then(|writing| writing.again_at);
        let due = self.next_due().filter(|_| self.standing == Standing::Active && self.writing.is_none());
        let park = self.idle_since.map(|since| later(since, self.setup.park));
        [again, due, park].into_iter().flatten().fold(self.beat_at, Wall::min)
    }

    /// When something of the run's own is due.
    fn next_due(&self) -> Option<Wall> {
        let state = &self.state;
        if state.paused.is_some() || state.ended.is_some() {
            return None;
        }
        let main = state.phase == Some(super::Phase::Main) && !state.is_stopping() && state.output.is_none();
        let deadline = state.accepted.as_ref().filter(|_| main).map(|run| run.deadline);
        [deadline, state.next_due()].into_iter().flatten().min()
    }

    /// Takes `event` in; what is to be done is added to `out`.
    pub fn on(&mut self, now: Wall, event: RunEvent, out: &mut Vec<RunAction>) {
        if self.is_over() {
            return;
        }
        match event {
            RunEvent::Read { after, records } if self.reading == Some(after) => {
                self.reading = None;
                if after == 0 { self.read_whole(now, records, out) } else { self.read_more(now, records, out) }
            }
            RunEvent::Read { .. } => {}
            // Asked again with the next beat.
            RunEvent::NotRead => self.reading = None,
            RunEvent::Unreadable => self.over(RunAction::Leave, out),
            RunEvent::Defined(file) => self.define(now, file, out),
            RunEvent::Fetched(blob, datum) => self.fetched(&blob, datum, out),
            RunEvent::Written { write, written } if write == self.writes => self.written(now, written, out),
            RunEvent::Written { .. } => {}
            RunEvent::Called { key, attempt, outcome } => {
                if self.under_way.get(&key) == Some(&attempt) {
                    self.outcomes.push((key, attempt, outcome));
                }
            }
            RunEvent::Told(delivery) => self.told(now, delivery),
            RunEvent::Nudged => self.look(out),
            RunEvent::Release => self.release = true,
            RunEvent::Time => {}
        }
        self.go_on(now, out);
    }

    fn go_on(&mut self, now: Wall, out: &mut Vec<RunAction>) {
        if self.is_over() {
            return;
        }
        if self.beat_at <= now {
            self.beat_at = later(now, self.setup.beat);
            out.push(RunAction::Hold);
            match self.standing {
                _ if self.is_stale && self.unfolded.is_empty() => self.read_all(out),
                Standing::Reading if self.unfolded.is_empty() => self.read_all(out),
                _ if self.setup.planted != Planted::NeverLook => self.look(out),
                _ => {}
            }
        }
        if self.standing == Standing::Active {
            if self.release && self.state.ended.is_none() {
                self.let_go(now, Duration::ZERO, out);
            } else {
                self.decide(now, out);
                out.extend(std::mem::take(&mut self.wanted).into_iter().map(RunAction::Fetch));
                self.abort_what_counts_no_more(out);
                self.park(now, out);
            }
        }
        match &mut self.writing {
            Some(writing) if writing.again_at.is_some_and(|at| at <= now) => {
                writing.again_at = None;
                self.write(out);
            }
            Some(_) => {}
            None if !self.pending.is_empty() => {
                let said = std::mem::take(&mut self.pending);
                self.state.remember(&said);
                let finishes = self.state.delivered.is_some();
                let record = if finishes { self.state.whole() } else { said };
                let tells = std::mem::take(&mut self.told);
                self.writing = Some(Writing { record, finishes, tells, again_at: None });
                self.write(out);
            }
            None => {}
        }
    }

    /// Says it: it is in the log soon, unless somebody else was faster.
    pub(super) fn say(&mut self, file: &File, now: Wall, said: Logged) {
        self.state.fold(file, now, &said);
        match self.pending.last_mut() {
            Some(moment) if moment.at == now => moment.said.push(said),
            _ => self.pending.push(Moment { at: now, said: vec![said] }),
        }
    }

    /// Says how the run ends.
    pub(super) fn ends(&mut self, file: &File, now: Wall, ended: Ended) {
        self.say(file, now, Logged::Ended(ended));
        if self.state.accepted.as_ref().is_none_or(|run| run.callback.is_none()) {
            self.say(file, now, Logged::Delivered { given_up: None });
        }
    }

    fn write(&mut self, out: &mut Vec<RunAction>) {
        let Some(Writing { record, finishes, .. }) = &self.writing else { return };
        self.writes += 1;
        let (write, after, record, finishes) = (self.writes, self.state.last, record.clone(), *finishes);
        if self.setup.planted == Planted::CallUnlogged {
            let said: Vec<Moment> = record.clone();
            self.make_calls(&said, out);
        }
        if self.setup.planted == Planted::TellEarly && self.has_callback() && self.state.ended.is_some() {
            out.push(RunAction::Tell);
        }
        out.push(match finishes {
            true => RunAction::Finish { write, after, record },
            false => RunAction::Append { write, after, record },
        });
    }

    /// It is ours.
    pub(super) fn claimed(&mut self, now: Wall, out: &mut Vec<RunAction>) {
        (self.standing, self.was_ours) = (Standing::Active, true);
        let deaths = self.state.deaths;
        if self.state.ended.is_some() {
            self.ended(out);
        } else if deaths >= self.setup.deaths {
            let reason = format!("{deaths} engines ended with this run in hand, and it did not get on: it is given up");
            let file = Arc::clone(&self.file);
            self.ends(&file, now, Ended::Failed(Failure { node: None, class: FailureClass::Poison, reason }));
        } else if self.setup.planted != Planted::ForgetCalls {
            self.call_what_is_called(out);
        }
    }

    fn has_callback(&self) -> bool {
        self.state.accepted.as_ref().is_some_and(|run| run.callback.is_some())
    }

    fn ended(&mut self, out: &mut Vec<RunAction>) {
        self.abort_all(out);
        self.standing = Standing::Telling;
        if self.has_callback() {
            out.push(RunAction::Tell);
        }
    }

    fn told(&mut self, now: Wall, delivery: Delivery) {
        if self.standing != Standing::Telling || self.state.delivered.is_some() {
            return;
        }
        let file = Arc::clone(&self.file);
        match delivery {
            Delivery::Done => self.say(&file, now, Logged::Delivered { given_up: None }),
            Delivery::GivenUp(why) => self.say(&file, now, Logged::Delivered { given_up: Some(why) }),
            // Who waits for so long holds nothing meanwhile.
            Delivery::Again(at) => {
                self.standing = Standing::Releasing(Duration::from_millis(at.0.saturating_sub(now.0)));
                self.say(&file, now, Logged::Released);
            }
        }
    }

    fn let_go(&mut self, now: Wall, after: Duration, out: &mut Vec<RunAction>) {
        self.abort_all(out);
        self.standing = Standing::Releasing(after);
        self.idle_since = None;
        let file = Arc::clone(&self.file);
        self.say(&file, now, Logged::Released);
    }

    /// Lets go of a run that has nothing to do for a while: it takes nobody's memory then.
    fn park(&mut self, now: Wall, out: &mut Vec<RunAction>) {
        let has_something = !self.under_way.is_empty()
            || self.writing.is_some()
            || !self.pending.is_empty()
            || !self.stalled.is_empty()
            || !self.waiting.is_empty()
            || self.reading.is_some_and(|after| after == 0)
            || self.state.ended.is_some();
        let due = self.next_due();
        if has_something || due.is_some_and(|due| due <= later(now, self.setup.park)) {
            self.idle_since = None;
            return;
        }
        let since = *self.idle_since.get_or_insert(now);
        if later(since, self.setup.park) <= now {
            const LONGEST: Duration = Duration::from_secs(3600);
            let after = due.map_or(LONGEST, |due| Duration::from_millis(due.0.saturating_sub(now.0)).min(LONGEST));
            let forgets = self.setup.planted == Planted::ForgetParked;
            self.let_go(now, if forgets { Duration::from_secs(1 << 30) } else { after }, out);
        }
    }

    fn written(&mut self, now: Wall, written: Result<u64, Refused>, out: &mut Vec<RunAction>) {
        let Some(mut writing) = self.writing.take() else { return };
        match written {
            Ok(position) => self.wrote(now, position, writing, out),
            Err(Refused::NotNow) => {
                writing.again_at = Some(later(now, self.setup.retry));
                self.writing = Some(writing);
            }
            Err(_) if self.setup.planted == Planted::TrustUnsure => self.wrote(now, self.state.last, writing, out),
            // Somebody else wrote, or nobody knows: whatever was to be said is decided anew, of what the log says now.
            Err(Refused::Unsure | Refused::EndsAt(_)) => {
                self.pending.clear();
                writing.tells.append(&mut self.told);
                writing.tells.append(&mut self.outcomes);
                self.outcomes = writing.tells;
                (self.reading, self.is_stale) = (None, true);
                self.read_all(out);
                // Nothing is decided until then.
                self.standing = match self.standing {
                    Standing::Active | Standing::Telling => Standing::Reading,
                    standing => standing,
                };
            }
        }
    }

    fn wrote(&mut self, now: Wall, position: u64, writing: Writing, out: &mut Vec<RunAction>) {
        self.state.last = position;
        if writing.finishes {
            return self.over(RunAction::Done, out);
        }
        match self.standing {
            Standing::Claiming => self.claimed(now, out),
            // Behind what was being written before, it is on its way.
            Standing::Releasing(after) if self.pending.is_empty() => self.over(RunAction::Again { after }, out),
            Standing::Active if self.state.ended.is_some() && self.pending.is_empty() => self.ended(out),
            _ if self.setup.planted == Planted::CallUnlogged => {}
            _ => self.make_calls(&writing.record, out),
        }
    }

    pub(super) fn over(&mut self, last: RunAction, out: &mut Vec<RunAction>) {
        self.standing = Standing::Over;
        out.push(last);
    }
}
