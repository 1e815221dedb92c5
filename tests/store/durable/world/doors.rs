//! Doors with jobs, and what they and the store say to each other.

use super::{Due, LEASE, PATIENCE, World, replica};
use bytes::Bytes;
use stageline_core::Planted;
use stageline_core::durable::{Delivery, Logged, Owner, OwnerAction, OwnerEvent, OwnerSetup, Refused, Wall};
use stageline_store::{JobId, StoreError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Jobs that a door holds at once.
const PLACES: usize = 4;

/// A door, in whatever life it is.
#[derive(Default)]
pub struct Door {
    pub boot: u64,
    pub alive: bool,
    pub frozen_until: u64,
    pub draining: bool,
    pub holds: BTreeMap<u64, Held>,
    slots: u64,
}

/// A job in a door's hands.
pub struct Held {
    pub request: usize,
    pub owner: Owner,
    job: (JobId, u64),
    /// Tokens that the run has made, while there is one, and which run it is.
    pub run: Option<(u32, u64)>,
    pub runs: u64,
    /// Where the tokens end that a client here has seen, once the request runs here.
    pub seen: Option<usize>,
    /// Whether it has seen the end.
    pub seen_end: bool,
}

/// A write on its way to the store.
#[derive(Clone, Debug)]
pub struct Write {
    number: u64,
    request: usize,
    after: u64,
    record: Bytes,
    finishes: bool,
    lost: bool,
}

/// What an owner hears.
#[derive(Clone, Debug)]
pub enum Heard {
    Written(u64, Result<u64, Refused>),
    Read(Option<Vec<(u64, Vec<Logged>)>>),
    Told(Delivery),
}

/// A door, which life of it, and which of its jobs.
pub type Who = (usize, u64, u64);

impl Door {
    pub fn new() -> Self {
        Self { boot: 1, alive: true, ..Self::default() }
    }
}

impl World {
    /// Whether that life of the door goes on; while it stands still, what is due waits.
    pub fn reaches(&mut self, (door, boot, _): Who, due: impl FnOnce() -> Due) -> bool {
        let it = &self.doors[door];
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

    pub fn take(&mut self, door: usize) {
        if !self.doors[door].alive {
            return;
        }
        let again = self.now + 20 + self.random.below(150);
        self.at(again, Due::Take { door });
        let it = &self.doors[door];
        // What runs alone has no others beside it.
        let runs_alone = it.holds.values().any(|held| held.owner.life().deaths >= 2);
        if it.frozen_until > self.now || it.draining || it.holds.len() >= PLACES || runs_alone || self.is_away() {
            return;
        }
        let now = self.since();
        let Ok(job) = self.store.take(now, &Self::queue(), LEASE) else { return };
        let request = u64::from_le_bytes(job.bytes[..].try_into().unwrap()) as usize;
        let it = &mut self.doors[door];
        it.slots += 1;
        let (slot, boot) = (it.slots, it.boot);
        let setup = OwnerSetup {
            me: replica(door, boot),
            job: job.number,
            delivery: job.deliveries,
            beat_ms: 1000,
            retry_ms: 500,
            alone_after: 2,
            planted: self.planted,
        };
        let mut out = Vec::new();
        let owner = Owner::new(Wall(self.now), setup, &mut out);
        let held = Held { request, owner, job: (job.id, job.number), run: None, runs: 0, seen: None, seen_end: false };
        self.doors[door].holds.insert(slot, held);
        self.carry_out((door, boot, slot), out);
    }

    pub fn on(&mut self, who: Who, event: OwnerEvent) {
        let Some(held) = self.doors[who.0].holds.get_mut(&who.2) else { return };
        let mut out = Vec::new();
        held.owner.on(Wall(self.now), event, &mut out);
        self.carry_out(who, out);
    }

    fn carry_out(&mut self, who: Who, out: Vec<OwnerAction>) {
        for action in out {
            self.act(who, action);
        }
        let (door, boot, slot) = who;
        if let Some(held) = self.doors[door].holds.get(&slot) {
            let when = held.owner.next_deadline().0.max(self.now + 1);
            self.at(when, Due::Clock { door, boot, slot });
        }
    }

    fn act(&mut self, who: Who, action: OwnerAction) {
        let (door, boot, slot) = who;
        let soon = self.now + 1 + self.random.below(5);
        let Some(held) = self.doors[door].holds.get_mut(&slot) else { return };
        let (job, number) = held.job.clone();
        match action {
            OwnerAction::Read { after } => self.at(soon, Due::Look { door, boot, slot, after }),
            OwnerAction::Append { write, after, record } => self.send(who, (write, after), record, false),
            OwnerAction::Finish { write, after, record } => self.send(who, (write, after), record, true),
            OwnerAction::AwaitTurn => self.at(soon, Due::Turn { door, boot, slot }),
            OwnerAction::Run { generated } => self.begin(who, generated),
            OwnerAction::Stop => held.run = None,
            OwnerAction::Show(shown) => self.shown((door, slot), &shown),
            OwnerAction::Tell => self.at(soon, Due::Tell { door, boot, slot }),
            OwnerAction::Hold => self.at(soon, Due::Hold { job }),
            OwnerAction::Done => {
                self.settled(who, number);
                self.doors[door].holds.remove(&slot);
                if self.is_away() || (!self.calm() && self.chance(5)) {
                    self.mark("nobody heard that a job is done");
                } else {
                    self.store.done(&job);
                }
            }
            OwnerAction::Again { after_ms } => {
                self.mark("an owner let go");
                self.doors[door].holds.remove(&slot);
                if !self.is_away() {
                    let due = self.since() + Duration::from_millis(after_ms);
                    self.store.due(due, &job);
                }
            }
            OwnerAction::Leave => {
                self.mark("an owner gave way");
                self.doors[door].holds.remove(&slot);
            }
        }
    }

    /// A write on its way to the store, which may be lost, done late, or never heard of.
    fn send(&mut self, (door, boot, slot): Who, (number, after): (u64, u64), record: Vec<Logged>, finishes: bool) {
        let request = self.doors[door].holds[&slot].request;
        let record = self.bytes_of(record);
        let write = |lost| {
            let what = Write { number, request, after, record: record.clone(), finishes, lost };
            Due::Write { door, boot, slot, what }
        };
        let unsure = Due::Hear { door, boot, slot, what: Heard::Written(number, Err(Refused::Unsure)) };
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
    pub fn write(&mut self, (door, boot, slot): Who, what: Write) {
        let Write { number, request, after, record, finishes, lost } = what;
        let hear = |what| Due::Hear { door, boot, slot, what: Heard::Written(number, what) };
        let soon = self.now + 1 + self.random.below(5);
        if self.is_away() {
            self.mark("the store was away");
            let refused = if self.chance(50) { Refused::NotNow } else { Refused::Unsure };
            if !lost {
                self.at(soon, hear(Err(refused)));
            }
            return;
        }
        let (log, before, now) = (self.asked[request].log.clone(), self.life(request), self.since());
        let after = if self.planted == Planted::AppendAnywhere { before.last } else { after };
        // Some are let go of while their ghosts still write.
        let keep = Duration::from_secs(if self.chance(40) { 1 } else { 3600 });
        let done = match finishes {
            true => self.store.finish(now, &log, after, record.clone(), keep),
            false => self.store.append(now, &log, after, record.clone()),
        };
        if done.is_ok() {
            self.appended(request, &before, &record);
            if finishes {
                self.asked[request].finished_by = Some((door, boot, slot));
                self.asked[request].finished = Some(self.life(request));
            }
        }
        if !lost {
            if matches!(done, Err(StoreError::Conflict { last: 0 })) && after > 0 {
                self.mark("a log was gone");
            }
            let refused = |error| match error {
                StoreError::Conflict { last } => Refused::EndsAt(last),
                _ => Refused::NotNow,
            };
            self.at(soon, hear(done.map_err(refused)));
        }
    }

    pub fn look(&mut self, who: Who, after: u64) {
        let (door, boot, slot) = who;
        let Some(held) = self.doors[door].holds.get(&slot) else { return };
        let log = self.asked[held.request].log.clone();
        let soon = self.now + 1 + self.random.below(5);
        let read = if self.is_away() || (!self.calm() && self.chance(3)) {
            self.mark("a read failed");
            None
        } else {
            let records = self.store.read(self.since(), &log, after);
            Some(records.iter().map(|record| (record.position, self.logged(&record.bytes))).collect())
        };
        self.at(soon, Due::Hear { door, boot, slot, what: Heard::Read(read) });
    }

    pub fn hear(&mut self, who: Who, what: Heard) {
        let (door, boot, slot) = who;
        if !self.reaches(who, || Due::Hear { door, boot, slot, what: what.clone() }) {
            return;
        }
        let event = match what {
            Heard::Written(write, written) => OwnerEvent::Written { write, written },
            Heard::Read(Some(records)) => OwnerEvent::Read(records),
            Heard::Read(None) => OwnerEvent::NotRead,
            Heard::Told(delivery) => OwnerEvent::Told(delivery),
        };
        self.on(who, event);
    }

    pub fn clock(&mut self, who: Who) {
        let (door, boot, slot) = who;
        if !self.reaches(who, || Due::Clock { door, boot, slot }) {
            return;
        }
        let now = self.now;
        if self.doors[door].holds.get(&slot).is_some_and(|held| held.owner.next_deadline().0 <= now) {
            self.on(who, OwnerEvent::Time);
        }
    }

    pub fn tell(&mut self, who: Who) {
        let (door, boot, slot) = who;
        if !self.reaches(who, || Due::Tell { door, boot, slot }) {
            return;
        }
        let Some(request) = self.doors[door].holds.get(&slot).map(|held| held.request) else { return };
        let what = match if self.calm() { 99 } else { self.random.below(100) } {
            0..15 => {
                self.mark("a callback failed");
                Delivery::Again(Wall(self.now + 200 + self.random.below(3000)))
            }
            15..18 => {
                self.mark("a callback was given up");
                Delivery::GivenUp("nobody takes it".to_owned())
            }
            _ => {
                self.told(request);
                Delivery::Done
            }
        };
        let soon = self.now + 1 + self.random.below(20);
        self.at(soon, Due::Hear { door, boot, slot, what: Heard::Told(what) });
    }

    pub fn die(&mut self, door: usize) {
        if !self.doors[door].alive {
            return;
        }
        self.mark("a door died");
        let it = &mut self.doors[door];
        *it = Door { boot: it.boot, slots: it.slots, ..Door::default() };
        let when = self.now + 100 + self.random.below(3000);
        self.at(when, Due::Start { door });
    }

    pub fn start(&mut self, door: usize) {
        let it = &mut self.doors[door];
        (it.alive, it.boot) = (true, it.boot + 1);
        self.at(self.now, Due::Take { door });
    }

    pub fn freeze(&mut self, door: usize, until: u64) {
        if self.doors[door].alive {
            self.mark("a door froze");
            self.doors[door].frozen_until = until;
        }
    }

    /// A door is told to end: it lets go of its requests, ends, and comes back.
    pub fn drain(&mut self, door: usize) {
        let it = &mut self.doors[door];
        if !it.alive || it.draining || it.frozen_until > self.now {
            return;
        }
        it.draining = true;
        let (boot, slots) = (it.boot, it.holds.keys().copied().collect::<Vec<_>>());
        for slot in slots {
            self.on((door, boot, slot), OwnerEvent::Release);
        }
        let when = self.now + 2500 + self.random.below(2000);
        self.at(when, Due::Die { door });
    }
}
