//! Doors, a store, clients, and what may happen to them.

mod answers;
mod checks;
mod doors;
mod runs;

use crate::seeds::Timeline;
use answers::{replica, right_prompt, right_tokens};
use bytes::Bytes;
use doors::Door;
use stageline_base::prng::Prng;
use stageline_core::Planted;
use stageline_core::durable::{Accepted, Life, Logged, Wall};
use stageline_store::{Name, State};
use std::collections::BTreeMap;
use std::time::Duration;

/// What some seed must make happen.
pub const MARKS: [&str; 19] = [
    "a door died",
    "a door froze",
    "an owner gave way",
    "an owner let go",
    "an owner followed another",
    "an append was lost",
    "an append was done late",
    "an acknowledgement was lost",
    "a read failed",
    "the store was away",
    "a job was pushed twice",
    "a request was cancelled",
    "a deadline passed",
    "a request was given up",
    "a request ran alone",
    "a callback failed",
    "a callback was given up",
    "nobody heard that a job is done",
    "a log was gone",
];

/// How long jobs are held, and how long the store's answer is waited for.
const LEASE: Duration = Duration::from_secs(3);
const PATIENCE: u64 = 2000;
/// Faults happen until then; what is left has until the end.
const CALM: u64 = 60_000;
const END: u64 = 400_000;

#[derive(Debug, Default, PartialEq)]
pub struct Report {
    /// Of all that happened, in order.
    pub trace: u64,
    pub violations: Vec<String>,
    pub marks: BTreeMap<&'static str, u64>,
}

/// A request, as its client means it.
pub struct Asked {
    pub log: Name,
    /// Tokens of the right answer.
    pub length: u32,
    pub deadline: Wall,
    pub callback: bool,
    /// Its run ends every door that runs it, once it has made so many tokens.
    pub poison: Option<u32>,
    /// Whether its client has been told that it is accepted.
    pub accepted: bool,
    pub cancelled: bool,
    pub told: u32,
    /// What its log said when it was finished.
    pub finished: Option<Life>,
    /// Whose last record stands in its log.
    pub finished_by: Option<doors::Who>,
}

/// What is due.
#[derive(Debug)]
pub enum Due {
    /// A client sends its request, perhaps once more.
    Ask {
        request: usize,
    },
    /// The job of an accepted request is pushed.
    Push {
        request: usize,
    },
    /// A client wants its request no more.
    Cancel {
        request: usize,
    },
    /// A door looks for a job.
    Take {
        door: usize,
    },
    /// A write of an owner gets to the store.
    Write {
        door: usize,
        boot: u64,
        slot: u64,
        what: doors::Write,
    },
    /// An owner hears of its write, its read, its telling.
    Hear {
        door: usize,
        boot: u64,
        slot: u64,
        what: doors::Heard,
    },
    /// An owner's look gets to the store.
    Look {
        door: usize,
        boot: u64,
        slot: u64,
        after: u64,
    },
    /// A run's next token.
    Token {
        door: usize,
        boot: u64,
        slot: u64,
        run: u64,
    },
    /// An owner that waits to run alone looks whether it may.
    Turn {
        door: usize,
        boot: u64,
        slot: u64,
    },
    /// An owner's own time.
    Clock {
        door: usize,
        boot: u64,
        slot: u64,
    },
    /// A job's lease is renewed.
    Hold {
        job: stageline_store::JobId,
    },
    /// A callback arrives.
    Tell {
        door: usize,
        boot: u64,
        slot: u64,
    },
    Die {
        door: usize,
    },
    Start {
        door: usize,
    },
    Freeze {
        door: usize,
        until: u64,
    },
    Drain {
        door: usize,
    },
}

pub struct World {
    pub now: u64,
    pub random: Prng,
    pub planted: Planted,
    pub store: State,
    pub doors: Vec<Door>,
    pub asked: Vec<Asked>,
    time: Timeline<Due>,
    /// What the store's bytes mean: their number here.
    records: Vec<Vec<Logged>>,
    away: Vec<(u64, u64)>,
    pub report: Report,
}

impl World {
    pub fn new(seed: u64, planted: Planted) -> Self {
        let mut random = Prng::new(seed);
        let doors = (0..2 + random.below(2)).map(|_| Door::new()).collect();
        let mut world = Self {
            now: 0,
            random,
            planted,
            store: State::lenient(1000),
            doors,
            asked: Vec::new(),
            time: Timeline::new(),
            records: Vec::new(),
            away: Vec::new(),
            report: Report::default(),
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        for door in 0..self.doors.len() {
            self.at(self.now, Due::Take { door });
            for _ in 0..self.random.below(3) {
                let (from, how) = (self.random.below(CALM), self.random.below(3));
                match how {
                    0 => self.at(from, Due::Die { door }),
                    1 => {
                        let until = from + self.random.below(9000);
                        self.at(from, Due::Freeze { door, until });
                    }
                    _ => self.at(from, Due::Drain { door }),
                }
            }
        }
        for _ in 0..self.random.below(2) {
            let from = self.random.below(CALM);
            self.away.push((from, from + self.random.below(6000)));
        }
        for request in 0..3 + self.random.below(6) as usize {
            let begins = self.random.below(30_000);
            let length = 1 + self.random.below(60) as u32;
            let time = if self.chance(10) { 1000 + self.random.below(4000) } else { END };
            let poison = self.chance(6).then(|| self.random.below(length.into()) as u32);
            let callback = self.chance(40);
            self.asked.push(Asked {
                log: Name::new("request", &format!("{request:04}")).unwrap(),
                length,
                deadline: Wall(begins + time),
                callback,
                poison,
                accepted: false,
                cancelled: false,
                told: 0,
                finished: None,
                finished_by: None,
            });
            self.at(begins, Due::Ask { request });
            if self.chance(10) {
                let when = begins + self.random.below(8000);
                self.at(when, Due::Cancel { request });
            }
        }
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    pub fn mark(&mut self, mark: &'static str) {
        debug_assert!(MARKS.contains(&mark), "{mark}");
        *self.report.marks.entry(mark).or_default() += 1;
    }

    pub fn at(&mut self, when: u64, due: Due) {
        self.time.at(when, due);
    }

    pub fn since(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    pub fn calm(&self) -> bool {
        self.now > CALM
    }

    /// Whether the store can be reached.
    pub fn is_away(&self) -> bool {
        self.away.iter().any(|(from, until)| (*from..*until).contains(&self.now))
    }

    pub fn bytes_of(&mut self, record: Vec<Logged>) -> Bytes {
        self.records.push(record);
        Bytes::copy_from_slice(&(self.records.len() as u64 - 1).to_le_bytes())
    }

    pub fn logged(&self, bytes: &Bytes) -> Vec<Logged> {
        let number = u64::from_le_bytes(bytes[..].try_into().unwrap());
        self.records[number as usize].clone()
    }

    /// What a request's log says now, or said in the end.
    pub fn life(&self, request: usize) -> Life {
        let records = self.store.read(self.since(), &self.asked[request].log, 0);
        if let (Some(finished), true) = (&self.asked[request].finished, records.is_empty()) {
            return finished.clone();
        }
        let records: Vec<_> = records.iter().map(|record| (record.position, self.logged(&record.bytes))).collect();
        Life::of(records.iter().map(|(position, record)| (*position, &record[..])))
    }

    pub fn queue() -> Name {
        Name::new("jobs", "requests").unwrap()
    }

    pub fn run(mut self) -> Report {
        while self.report.violations.len() <= 5
            && let Some((when, due)) = self.time.next(END)
        {
            self.now = when;
            self.happens(due);
        }
        self.now = END;
        self.check_end();
        self.report.trace = self.time.trace;
        self.report.violations.truncate(5);
        self.report
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Ask { request } => self.ask(request),
            Due::Push { request } => self.push(request),
            Due::Cancel { request } => self.cancel(request),
            Due::Take { door } => self.take(door),
            Due::Write { door, boot, slot, what } => self.write((door, boot, slot), what),
            Due::Look { door, boot, slot, after } => self.look((door, boot, slot), after),
            Due::Hear { door, boot, slot, what } => self.hear((door, boot, slot), what),
            Due::Token { door, boot, slot, run } => self.token((door, boot, slot), run),
            Due::Turn { door, boot, slot } => self.turn((door, boot, slot)),
            Due::Clock { door, boot, slot } => self.clock((door, boot, slot)),
            Due::Hold { job } if !self.is_away() => self.store.due(self.since() + LEASE, &job),
            Due::Hold { .. } => {}
            Due::Tell { door, boot, slot } => self.tell((door, boot, slot)),
            Due::Die { door } => self.die(door),
            Due::Start { door } => self.start(door),
            Due::Freeze { door, until } => self.freeze(door, until),
            Due::Drain { door } => self.drain(door),
        }
    }

    /// A client's request: accepted once it is in the log and its job is pushed. A client that has heard nothing asks again.
    fn ask(&mut self, request: usize) {
        if self.asked[request].accepted {
            return;
        }
        let again = self.now + 1000 + self.random.below(2000);
        if self.is_away() || (!self.calm() && self.chance(10)) {
            self.at(again, Due::Ask { request });
            return;
        }
        let Asked { log, deadline, callback, .. } = &self.asked[request];
        let log = log.clone();
        let accepted = Accepted { request: Bytes::new(), deadline: *deadline, callback: *callback };
        let record = self.bytes_of(vec![Logged::Accepted(accepted)]);
        // Somebody has it in the log already: it was this client, and it joins.
        let _ = self.store.append(self.since(), &log, 0, record);
        match self.random.below(if self.calm() { 8 } else { 10 }) {
            // The door dies here, or the client does not hear of it.
            8 => self.at(again, Due::Ask { request }),
            9 => {
                let when = self.now + self.random.below(50);
                self.at(when, Due::Push { request });
                self.at(again, Due::Ask { request });
            }
            _ => {
                let when = self.now + self.random.below(50);
                self.at(when, Due::Push { request });
            }
        }
    }

    fn push(&mut self, request: usize) {
        let id = Bytes::copy_from_slice(&(request as u64).to_le_bytes());
        self.store.push(self.since(), &Self::queue(), id.clone()).unwrap();
        if !self.calm() && self.chance(15) {
            self.mark("a job was pushed twice");
            self.store.push(self.since(), &Self::queue(), id).unwrap();
        }
        self.asked[request].accepted = true;
    }

    /// Anybody may write that into the log, behind whatever is there.
    fn cancel(&mut self, request: usize) {
        let life = self.life(request);
        if life.accepted.is_none() || life.delivered.is_some() {
            return;
        }
        let record = self.bytes_of(vec![Logged::Cancelled]);
        let log = self.asked[request].log.clone();
        self.store.append(self.since(), &log, life.last, record).unwrap();
        self.asked[request].cancelled = true;
        self.mark("a request was cancelled");
    }
}
