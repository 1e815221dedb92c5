//! Engines with jobs, and what they, the store and functions say to each other.

use super::{Due, LEASE, PATIENCE, World, graphs};
use bytes::Bytes;
use stageline_core::durable::Wall;
use stageline_flow::run::{
    CallOutcome, Calling, Datum, Delivery, FailureClass, Key, Moment, Outcome, Planted, Refused, Run, RunAction,
    RunEvent, RunSetup,
};
use stageline_store::{JobId, StoreError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Runs that an engine holds at once.
const PLACES: usize = 4;

/// An engine, in whatever life it is.
#[derive(Default)]
pub struct Engine {
    pub boot: u64,
    pub alive: bool,
    frozen_until: u64,
    draining: bool,
    holds: BTreeMap<u64, Held>,
    slots: u64,
}

/// A job in an engine's hands.
struct Held {
    run: usize,
    owner: Run,
    job: JobId,
}

/// A write on its way to the store.
#[derive(Clone, Debug)]
pub struct Write {
    number: u64,
    run: usize,
    after: u64,
    record: Bytes,
    finishes: bool,
    lost: bool,
}

/// What an owner hears.
#[derive(Clone, Debug)]
pub enum Heard {
    Written(u64, Result<u64, Refused>),
    Read(u64, Option<Vec<(u64, Vec<Moment>)>>),
    Defined,
    Told(Delivery),
}

/// An engine, which life of it, and which of its jobs.
pub type Who = (usize, u64, u64);

impl Engine {
    pub fn new() -> Self {
        Self { boot: 1, alive: true, ..Self::default() }
    }
}

impl World {
    /// Whether that life of the engine goes on; while it stands still, what is due waits.
    fn reaches(&mut self, (engine, boot, _): Who, due: impl FnOnce() -> Due) -> bool {
        let it = &self.engines[engine];
        if !it.alive || it.boot != boot {
            return false;
        }
        if it.frozen_until > self.now {
            let until = it.frozen_until;
            self.at(until, due());
            return false;
        }
        true
    }

    pub fn take(&mut self, engine: usize) {
        if !self.engines[engine].alive {
            return;
        }
        let again = self.now + 20 + self.random.below(150);
        self.at(again, Due::Take { engine });
        let it = &self.engines[engine];
        if it.frozen_until > self.now || it.draining || it.holds.len() >= PLACES || self.is_away() {
            return;
        }
        let now = self.since();
        let Ok(job) = self.store.take(now, &Self::queue(), LEASE) else { return };
        let run = u64::from_le_bytes(job.bytes[..].try_into().unwrap()) as usize;
        let it = &mut self.engines[engine];
        it.slots += 1;
        let (slot, boot) = (it.slots, it.boot);
        let setup = RunSetup {
            me: format!("engine-{engine}-{boot}"),
            run: self.asked[run].log.token().to_owned(),
            job: job.number,
            delivery: job.deliveries,
            beat: Duration::from_secs(1),
            retry: Duration::from_millis(500),
            park: Duration::from_secs(2),
            deaths: 10,
            planted: self.planted,
        };
        let mut out = Vec::new();
        let owner = Run::new(Wall(self.now), setup, &mut out);
        self.engines[engine].holds.insert(slot, Held { run, owner, job: job.id });
        self.carry_out((engine, boot, slot), out);
    }

    fn on(&mut self, who: Who, event: RunEvent) {
        let Some(held) = self.engines[who.0].holds.get_mut(&who.2) else { return };
        let mut out = Vec::new();
        held.owner.on(Wall(self.now), event, &mut out);
        self.carry_out(who, out);
    }

    fn carry_out(&mut self, who: Who, out: Vec<RunAction>) {
        for action in out {
            self.act(who, action);
        }
        if let Some(held) = self.engines[who.0].holds.get(&who.2) {
            let when = held.owner.next_deadline().0.max(self.now + 1);
            self.at(when, Due::Clock { who });
        }
    }

    fn act(&mut self, who: Who, action: RunAction) {
        let (engine, _, slot) = who;
        let soon = self.now + 1 + self.random.below(5);
        let Some(held) = self.engines[engine].holds.get_mut(&slot) else { return };
        let (job, run) = (held.job.clone(), held.run);
        match action {
            RunAction::Read { after } => self.at(soon, Due::Look { who, after }),
            RunAction::Define(_) => self.at(soon, Due::Hear { who, what: Heard::Defined }),
            RunAction::Fetch(_) => panic!("nothing is in a blob"),
            RunAction::Append { write, after, record } => self.send(who, (write, after), &record, false),
            RunAction::Finish { write, after, record } => self.send(who, (write, after), &record, true),
            RunAction::Call { key, call } => self.call(who, key, *call),
            RunAction::Abort { .. } => self.mark("a call was aborted"),
            RunAction::Tell => self.at(soon, Due::Tell { who }),
            RunAction::Hold => self.at(soon, Due::Hold { job }),
            RunAction::Done => {
                self.settled(run, &job);
                self.engines[engine].holds.remove(&slot);
                if self.is_away() || (!self.calm() && self.chance(5)) {
                    self.mark("nobody heard that a job is done");
                } else {
                    self.store.done(&job);
                }
            }
            RunAction::Again { after } => {
                let is_drained = self.engines[engine].draining;
                self.mark(if is_drained { "an owner let go" } else { "a run was parked" });
                self.engines[engine].holds.remove(&slot);
                if !self.is_away() {
                    self.store.due(self.since() + after, &job);
                }
            }
            RunAction::Leave => {
                self.mark("an owner gave way");
                self.engines[engine].holds.remove(&slot);
            }
        }
    }

    /// A function is called. It answers by and by, perhaps not well.
    fn call(&mut self, who: Who, key: Key, call: Calling) {
        let run = self.engines[who.0].holds[&who.2].run;
        self.called(run, &key, &call);
        let seed = self.asked[run].seed;
        let input = match &call.input {
            Datum::Nothing => serde_json::Value::Null,
            Datum::Json(json) => json.value(),
            other => panic!("{other:?}"),
        };
        let failed = |class, counts, retry_after| {
            Err(CallOutcome { class, reason: "it is so".to_owned(), retry_after, transient: true, counts })
        };
        let latency = match self.random.below(20) {
            0 => self.random.below(15_000),
            _ => 1 + self.random.below(700),
        };
        let stumbles = graphs::stumbles(seed, key.as_str());
        let (latency, outcome): (u64, Outcome) = if call.attempt <= stumbles && !key.as_str().starts_with('~') {
            self.mark("a call failed and was made again");
            if call.attempt == 1 && stumbles == 2 {
                self.mark("a call took too long");
                (6000, failed(FailureClass::Timeout, true, None))
            } else {
                let wait = self.chance(50).then(|| Duration::from_millis(1500));
                (latency, failed(FailureClass::Status(503), wait.is_none(), wait))
            }
        } else {
            match graphs::answer(seed, key.as_str(), &input) {
                Some(value) => (latency, Ok(Datum::of(&value))),
                None => {
                    let reason = "it cannot be done".to_owned();
                    let class = FailureClass::Status(400);
                    (latency, Err(CallOutcome { class, reason, retry_after: None, transient: false, counts: true }))
                }
            }
        };
        let when = self.now + latency;
        self.at(when, Due::Return { who, key, attempt: call.attempt, outcome });
    }

    pub fn returns(&mut self, who: Who, key: Key, attempt: u32, outcome: Outcome) {
        if self.reaches(who, || Due::Return { who, key: key.clone(), attempt, outcome: outcome.clone() }) {
            self.on(who, RunEvent::Called { key, attempt, outcome });
        }
    }

    /// A write on its way to the store, which may be lost, done late, or never heard of.
    fn send(&mut self, who: Who, (number, after): (u64, u64), record: &[Moment], finishes: bool) {
        let run = self.engines[who.0].holds[&who.2].run;
        let record: Bytes = serde_json::to_vec(record).unwrap().into();
        let write =
            |lost| Due::Write { who, what: Write { number, run, after, record: record.clone(), finishes, lost } };
        let unsure = Due::Hear { who, what: Heard::Written(number, Err(Refused::Unsure)) };
        let soon = self.now + 1 + self.random.below(8);
        match if self.calm() { 99 } else { self.random.below(100) } {
            0..4 => {
                self.mark("an append was lost");
                self.at(self.now + PATIENCE, unsure);
            }
            4..8 => {
                self.mark("an append was done late");
                let late = self.now + PATIENCE + self.random.below(3000);
                self.at(late, write(true));
                self.at(self.now + PATIENCE, unsure);
            }
            8..12 => {
                self.mark("an acknowledgement was lost");
                self.at(soon, write(true));
                self.at(self.now + PATIENCE, unsure);
            }
            _ => self.at(soon, write(false)),
        }
    }

    /// At the store, whatever has become of who wrote; of what is lost nobody hears.
    pub fn write(&mut self, who: Who, what: Write) {
        let Write { number, run, after, record, finishes, lost } = what;
        let soon = self.now + 1 + self.random.below(5);
        if self.is_away() {
            self.mark("the store was away");
            let refused = if self.chance(50) { Refused::NotNow } else { Refused::Unsure };
            if !lost {
                self.at(soon, Due::Hear { who, what: Heard::Written(number, Err(refused)) });
            }
            return;
        }
        let (log, now) = (self.asked[run].log.clone(), self.since());
        let after = if self.planted == Planted::AppendAnywhere { self.state(run).last } else { after };
        let keep = Duration::from_secs(3600);
        let done = match finishes {
            true => self.store.finish(now, &log, after, record.clone(), keep),
            false => self.store.append(now, &log, after, record.clone()),
        };
        if done.is_ok() {
            self.appended(run, &record, finishes);
        }
        if !lost {
            let refused = |error| match error {
                StoreError::Conflict { last } => Refused::EndsAt(last),
                _ => Refused::NotNow,
            };
            self.at(soon, Due::Hear { who, what: Heard::Written(number, done.map_err(refused)) });
        }
    }

    pub fn look(&mut self, who: Who, after: u64) {
        let Some(run) = self.engines[who.0].holds.get(&who.2).map(|held| held.run) else { return };
        let soon = self.now + 1 + self.random.below(5);
        let read = if self.is_away() || (!self.calm() && self.chance(3)) {
            self.mark("a read failed");
            None
        } else {
            Some(self.records(run, after))
        };
        self.at(soon, Due::Hear { who, what: Heard::Read(after, read) });
    }

    pub fn hear(&mut self, who: Who, what: Heard) {
        if !self.reaches(who, || Due::Hear { who, what: what.clone() }) {
            return;
        }
        let Some(run) = self.engines[who.0].holds.get(&who.2).map(|held| held.run) else { return };
        let event = match what {
            Heard::Written(write, written) => RunEvent::Written { write, written },
            Heard::Read(after, Some(records)) => RunEvent::Read { after, records },
            Heard::Read(_, None) => RunEvent::NotRead,
            Heard::Defined => RunEvent::Defined(Some(self.asked[run].file.clone())),
            Heard::Told(delivery) => RunEvent::Told(delivery),
        };
        self.on(who, event);
    }

    pub fn clock(&mut self, who: Who) {
        if !self.reaches(who, || Due::Clock { who }) {
            return;
        }
        let now = self.now;
        if self.engines[who.0].holds.get(&who.2).is_some_and(|held| held.owner.next_deadline().0 <= now) {
            self.on(who, RunEvent::Time);
        }
    }

    pub fn tell(&mut self, who: Who) {
        if !self.reaches(who, || Due::Tell { who }) {
            return;
        }
        let Some(run) = self.engines[who.0].holds.get(&who.2).map(|held| held.run) else { return };
        let what = match if self.calm() { 99 } else { self.random.below(100) } {
            0..15 => {
                self.mark("a callback failed");
                Delivery::Again(Wall(self.now + 200 + self.random.below(3000)))
            }
            15..18 => Delivery::GivenUp("nobody takes it".to_owned()),
            _ => {
                self.told(run);
                Delivery::Done
            }
        };
        let soon = self.now + 1 + self.random.below(20);
        self.at(soon, Due::Hear { who, what: Heard::Told(what) });
    }

    pub fn die(&mut self, engine: usize) {
        if !self.engines[engine].alive {
            return;
        }
        self.mark("an engine died");
        let it = &mut self.engines[engine];
        *it = Engine { boot: it.boot, slots: it.slots, ..Engine::default() };
        let when = self.now + 100 + self.random.below(3000);
        self.at(when, Due::Start { engine });
    }

    pub fn start(&mut self, engine: usize) {
        let it = &mut self.engines[engine];
        (it.alive, it.boot) = (true, it.boot + 1);
        self.at(self.now, Due::Take { engine });
    }

    pub fn freeze(&mut self, engine: usize, until: u64) {
        if self.engines[engine].alive {
            self.mark("an engine froze");
            self.engines[engine].frozen_until = until;
        }
    }

    /// An engine is told to end: it lets go of its runs, ends, and comes back.
    pub fn drain(&mut self, engine: usize) {
        let it = &mut self.engines[engine];
        if !it.alive || it.draining || it.frozen_until > self.now {
            return;
        }
        it.draining = true;
        let (boot, slots) = (it.boot, it.holds.keys().copied().collect::<Vec<_>>());
        for slot in slots {
            self.on((engine, boot, slot), RunEvent::Release);
        }
        let when = self.now + 2500 + self.random.below(2000);
        self.at(when, Due::Die { engine });
    }
}
