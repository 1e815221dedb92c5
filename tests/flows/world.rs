//! Engines, a store, callers, and what may happen to them.

mod callers;
mod checks;
mod engines;
mod graphs;

use crate::seeds::Timeline;
use engines::{Engine, Heard, Who, Write};
use graphs::Right;
use serde_json::{Value, json};
use stageline_base::prng::Prng;
use stageline_core::durable::Wall;
use stageline_flow::definition::File;
use stageline_flow::run::{Datum, Key, Moment, Order, Outcome, Planted, State};
use stageline_store::{JobId, Name, State as Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What some seed must make happen.
pub const MARKS: [&str; 27] = [
    "an engine died",
    "an engine froze",
    "an owner gave way",
    "an owner let go",
    "an owner followed another",
    "an append was lost",
    "an append was done late",
    "an acknowledgement was lost",
    "a read failed",
    "the store was away",
    "a job was pushed twice",
    "a run was parked",
    "a parked run was woken",
    "a run was cancelled",
    "a run was paused",
    "a run was tried anew",
    "something was said",
    "a run's time passed",
    "a call failed and was made again",
    "a call took too long",
    "a call was aborted",
    "a call was made again by another engine",
    "a run failed",
    "something was taken back",
    "an item was tolerated",
    "a callback failed",
    "nobody heard that a job is done",
];

const LEASE: Duration = Duration::from_secs(3);
const PATIENCE: u64 = 2000;
/// Faults happen until then; what is left has until the end.
const CALM: u64 = 60_000;
const END: u64 = 600_000;
/// What is said to those who wait for it.
const SAID: i64 = 7;

#[derive(Debug, Default, PartialEq)]
pub struct Report {
    /// Of all that happened, in order.
    pub trace: u64,
    pub violations: Vec<String>,
    pub marks: BTreeMap<&'static str, u64>,
}

/// A run, as its caller means it.
pub struct Asked {
    pub seed: u64,
    pub log: Name,
    pub file: Arc<File>,
    pub right: Right,
    input: Value,
    pub deadline: Wall,
    callback: bool,
    accepted: bool,
    pub told: u32,
    /// Calls that were made of a key and attempt, and how often.
    pub calls: BTreeMap<(Key, u32, u32), u32>,
    /// Owners that said so in its log.
    pub owners: u32,
    pub tried_anew: bool,
    /// All that its log said when it was finished last.
    pub finished: Option<Vec<Moment>>,
}

/// What is due.
#[derive(Debug)]
pub enum Due {
    Ask {
        run: usize,
    },
    Push {
        run: usize,
    },
    Order {
        run: usize,
        order: Order,
    },
    /// An engine looks for a job.
    Take {
        engine: usize,
    },
    Write {
        who: Who,
        what: Write,
    },
    Hear {
        who: Who,
        what: Heard,
    },
    Look {
        who: Who,
        after: u64,
    },
    /// A call ends.
    Return {
        who: Who,
        key: Key,
        attempt: u32,
        outcome: Outcome,
    },
    Clock {
        who: Who,
    },
    Hold {
        job: JobId,
    },
    Tell {
        who: Who,
    },
    Die {
        engine: usize,
    },
    Start {
        engine: usize,
    },
    Freeze {
        engine: usize,
        until: u64,
    },
    Drain {
        engine: usize,
    },
}

pub struct World {
    pub now: u64,
    pub random: Prng,
    pub planted: Planted,
    pub store: Store,
    pub engines: Vec<Engine>,
    pub asked: Vec<Asked>,
    time: Timeline<Due>,
    away: Vec<(u64, u64)>,
    pub report: Report,
}

impl World {
    pub fn new(seed: u64, planted: Planted) -> Self {
        let mut random = Prng::new(seed);
        let engines = (0..2 + random.below(2)).map(|_| Engine::new()).collect();
        let mut world = Self {
            now: 0,
            random,
            planted,
            store: Store::lenient(1000),
            engines,
            asked: Vec::new(),
            time: Timeline::new(),
            away: Vec::new(),
            report: Report::default(),
        };
        world.plan(seed);
        world
    }

    fn plan(&mut self, seed: u64) {
        for engine in 0..self.engines.len() {
            self.at(self.now, Due::Take { engine });
            for _ in 0..self.random.below(3) {
                let (from, how) = (self.random.below(CALM), self.random.below(3));
                match how {
                    0 => self.at(from, Due::Die { engine }),
                    1 => {
                        let until = from + self.random.below(9000);
                        self.at(from, Due::Freeze { engine, until });
                    }
                    _ => self.at(from, Due::Drain { engine }),
                }
            }
        }
        for _ in 0..self.random.below(2) {
            let from = self.random.below(CALM);
            self.away.push((from, from + self.random.below(6000)));
        }
        for run in 0..2 + self.random.below(4) as usize {
            self.plan_run(seed * 100 + run as u64, run);
        }
    }

    fn plan_run(&mut self, seed: u64, run: usize) {
        let file = graphs::random(&mut self.random);
        let input = json!({ "v": self.random.below(100) });
        let right = graphs::right(seed, &file, &input, &json!({ "v": SAID }));
        let begins = self.random.below(30_000);
        let time = if self.chance(8) { 1000 + self.random.below(9000) } else { END };
        let callback = self.chance(40);
        self.asked.push(Asked {
            seed,
            log: Name::new("run", &format!("{run:04}")).unwrap(),
            file: Arc::new(file),
            right,
            input,
            deadline: Wall(begins + time),
            callback,
            accepted: false,
            told: 0,
            calls: BTreeMap::new(),
            owners: 0,
            tried_anew: false,
            finished: None,
        });
        self.at(begins, Due::Ask { run });
        let moment = |world: &mut Self| begins + world.random.below(20_000);
        if self.chance(12) {
            let (when, undo) = (moment(self), self.chance(50));
            self.at(when, Due::Order { run, order: Order::Cancel { undo } });
        }
        if self.chance(15) {
            let when = moment(self);
            self.at(when, Due::Order { run, order: Order::Pause });
            let until = when + self.random.below(15_000);
            self.at(until, Due::Order { run, order: Order::Resume });
        }
        if self.chance(10) {
            let when = CALM + 120_000 + self.random.below(50_000);
            let deadline = Wall(when + 200_000);
            self.at(when, Due::Order { run, order: Order::Retry { from: None, deadline } });
        }
        // As often as anybody may wait for it.
        for place in 0..60 {
            let when = begins + self.random.below(4000) * (1 + place);
            let order = Order::Signal { name: "go".to_owned(), value: Datum::of(&json!({ "v": SAID })) };
            self.at(when, Due::Order { run, order });
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

    pub fn records(&self, run: usize, after: u64) -> Vec<(u64, Vec<Moment>)> {
        let records = self.store.read(self.since(), &self.asked[run].log, after);
        // As it would be read anywhere.
        records.iter().map(|record| (record.position, serde_json::from_slice(&record.bytes).unwrap())).collect()
    }

    /// What a run's log says now.
    pub fn state(&self, run: usize) -> State {
        let mut state = State::default();
        for (position, record) in self.records(run, 0) {
            state.take(&self.asked[run].file, position, &record);
        }
        state
    }

    pub fn queue() -> Name {
        Name::new("jobs", "runs").unwrap()
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
            Due::Ask { run } => self.ask(run),
            Due::Push { run } => self.push(run),
            Due::Order { run, order } => self.order(run, order),
            Due::Take { engine } => self.take(engine),
            Due::Write { who, what } => self.write(who, what),
            Due::Look { who, after } => self.look(who, after),
            Due::Hear { who, what } => self.hear(who, what),
            Due::Return { who, key, attempt, outcome } => self.returns(who, key, attempt, outcome),
            Due::Clock { who } => self.clock(who),
            Due::Hold { job } if !self.is_away() => self.store.due(self.since() + LEASE, &job),
            Due::Hold { .. } => {}
            Due::Tell { who } => self.tell(who),
            Due::Die { engine } => self.die(engine),
            Due::Start { engine } => self.start(engine),
            Due::Freeze { engine, until } => self.freeze(engine, until),
            Due::Drain { engine } => self.drain(engine),
        }
    }
}
