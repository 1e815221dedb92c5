//! Carries a plan out, and notes what the processes make of it.

use crate::cable::Mode;
use crate::clock::Clock;
use crate::nats::NatsServer;
use crate::places::{LIMIT, Process, Site};
use crate::plan::{Fault, PLACES, Plan};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often memory is weighed.
const WEIGHED_EVERY: Duration = Duration::from_secs(1);
/// Lines of a log that are printed.
const TAIL: usize = 25;
/// A process that lived less has no slope.
const LEAST_LIFE: f64 = 12.0;

/// What follows a fault.
enum Later {
    Start(usize),
    GoOn(usize),
    Mend(usize, bool),
    Broker,
}

/// The processes, and what is known of those that are gone.
pub struct Driver {
    site: Arc<Site>,
    broker: NatsServer,
    /// What runs at each place.
    places: Vec<Option<Process>>,
    /// How many have run there.
    numbers: Vec<usize>,
    /// Those that were told to finish: their place, and whether another one follows.
    leaving: JoinSet<(usize, bool)>,
    later: Vec<(Duration, Later)>,
    /// Every process's log.
    pub logs: Vec<(String, watch::Receiver<Vec<String>>)>,
    /// How often each kind of fault has happened.
    pub marks: BTreeMap<&'static str, usize>,
    /// Of those, the kills at each place.
    pub killed: BTreeMap<&'static str, usize>,
    /// What must not be.
    faults: Arc<std::sync::Mutex<Vec<String>>>,
    /// Each process's memory: its first and last weight in MiB, and how much it grew a minute.
    weights: Vec<String>,
}

impl Driver {
    /// Starts a process at every place.
    pub async fn start(site: Arc<Site>, broker: NatsServer) -> Self {
        let places = PLACES.iter().map(|_| None).collect();
        let (numbers, logs, leaving) = (vec![0; PLACES.len()], Vec::new(), JoinSet::new());
        let (later, marks, killed) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let (faults, weights) = (Arc::default(), Vec::new());
        let mut driver = Self { site, broker, places, numbers, leaving, later, logs, marks, killed, faults, weights };
        for place in 0..PLACES.len() {
            driver.begin(place).await;
        }
        driver
    }

    /// Starts a process at `place`; gives the one that was there.
    async fn begin(&mut self, place: usize) -> Option<Process> {
        self.numbers[place] += 1;
        let process = Process::start(&self.site, place, self.numbers[place]).await;
        self.logs.push((process.life.name.clone(), process.log()));
        self.places[place].replace(process)
    }

    /// Carries out all of `plan`, and mends everything.
    pub async fn carry_out(&mut self, plan: &Plan) {
        let mut clock = Clock::start();
        let (mut faults, mut weighed) = (plan.faults.iter().peekable(), Duration::ZERO);
        while faults.peek().is_some() || !self.later.is_empty() || !self.leaving.is_empty() {
            let now = clock.tick().await;
            while let Some((_, fault)) = faults.next_if(|(at, _)| *at <= now) {
                self.happen(now, *fault).await;
            }
            for later in self.due(now) {
                self.follow(later).await;
            }
            while let Some(left) = self.leaving.try_join_next() {
                let (place, again) = left.expect("nobody panics there");
                if again {
                    self.begin(place).await;
                }
            }
            self.look().await;
            if now >= weighed {
                weighed = now + WEIGHED_EVERY;
                self.places.iter_mut().flatten().for_each(Process::weigh);
            }
        }
    }

    /// What is to follow by now.
    fn due(&mut self, now: Duration) -> Vec<Later> {
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
        self.later = later;
        let mut due: Vec<(Duration, Later)> = due;
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, later)| later).collect()
    }

    async fn happen(&mut self, now: Duration, fault: Fault) {
        let happened = match fault {
            Fault::Kill { place, away } => {
                self.later.push((now + away, Later::Start(place)));
                match self.places[place].take() {
                    Some(process) => {
                        self.weigh(&process);
                        process.kill().await;
                        true
                    }
                    None => false,
                }
            }
            Fault::Stop { place, time } => {
                self.later.push((now + time, Later::GoOn(place)));
                self.places[place].as_ref().map(Process::stop).is_some()
            }
            Fault::Finish { place } => match self.places[place].take() {
                Some(process) => {
                    self.let_go(place, process, true);
                    true
                }
                None => false,
            },
            Fault::Replace { place } => match self.begin(place).await {
                Some(old) => {
                    self.let_go_after_the_new(place, old);
                    true
                }
                None => false,
            },
            Fault::Broker { away } => {
                self.later.push((now + away, Later::Broker));
                self.broker.kill();
                true
            }
            Fault::Cut { place, hop, time } => self.bend(now + time, (place, hop), Mode::Cut),
            Fault::Hole { place, hop, time } => self.bend(now + time, (place, hop), Mode::Hole),
            Fault::Slow { place, hop, time, by } => self.bend(now + time, (place, hop), Mode::Slow(by)),
        };
        *self.marks.entry(fault.kind()).or_default() += usize::from(happened);
        if let (Fault::Kill { place, .. }, true) = (fault, happened) {
            *self.killed.entry(PLACES[place].0).or_default() += 1;
        }
    }

    fn bend(&mut self, until: Duration, (place, hop): (usize, bool), mode: Mode) -> bool {
        self.later.push((until, Later::Mend(place, hop)));
        self.places[place].as_ref().map(|process| process.cable(hop).set(mode)).is_some()
    }

    async fn follow(&mut self, later: Later) {
        match later {
            Later::Start(place) => {
                // One that a replacement brought meanwhile stays.
                if self.places[place].is_none() {
                    self.begin(place).await;
                }
            }
            Later::GoOn(place) => self.places[place].iter().for_each(Process::go_on),
            Later::Mend(place, hop) => self.places[place].iter().for_each(|it| it.cable(hop).set(Mode::Open)),
            Later::Broker => self.broker.start_again().await,
        }
    }

    /// Tells a process to finish, and looks at how it does.
    fn let_go(&mut self, place: usize, process: Process, again: bool) {
        self.weigh(&process);
        let faults = self.faults.clone();
        self.leaving.spawn(async move {
            finish(process, &faults).await;
            (place, again)
        });
    }

    /// The same, when the next one is ready, or has ended.
    fn let_go_after_the_new(&mut self, place: usize, old: Process) {
        self.weigh(&old);
        let (faults, mut address) = (self.faults.clone(), self.site.addresses[place].subscribe());
        self.leaving.spawn(async move {
            let is_new = |address: &crate::places::Address| {
                address.as_ref().is_some_and(|(_, life)| !Arc::ptr_eq(life, &old.life))
            };
            // The new one may be killed before it is ready: another follows then.
            let _ = address.wait_for(is_new).await;
            finish(old, &faults).await;
            (place, false)
        });
    }

    /// Notes processes that have ended by themselves.
    async fn look(&mut self) {
        for place in 0..PLACES.len() {
            if let Some(process) = self.places[place].take_if(|process| process.has_ended()) {
                let name = process.life.name.clone();
                let status = process.status().await;
                self.faults.lock().expect("nobody panics there").push(format!("{name} ended by itself: {status}"));
                self.begin(place).await;
            }
        }
    }

    fn weigh(&mut self, process: &Process) {
        let points = &process.resident;
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        if last.0 - first.0 >= LEAST_LIFE {
            let name = &process.life.name;
            let slope = 60.0 * slope(points);
            self.weights.push(format!("{name}: {:.0} to {:.0} MiB, {slope:+.1} a minute", first.1, last.1));
        }
    }

    /// Tells all to finish, doors first; what must not be, and each process's memory.
    pub async fn end(&mut self) -> (Vec<String>, Vec<String>) {
        for stage in 0..=2 {
            for place in (0..PLACES.len()).filter(|place| PLACES[*place].1 == stage) {
                if let Some(process) = self.places[place].take() {
                    self.let_go(place, process, false);
                }
            }
            while self.leaving.join_next().await.is_some() {}
        }
        let faults = std::mem::take(&mut *self.faults.lock().expect("nobody panics there"));
        (faults, std::mem::take(&mut self.weights))
    }

    /// The end of each process's log.
    pub fn print_logs(&self) {
        for (name, lines) in &self.logs {
            let lines = lines.borrow();
            println!("--- {name}\n{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"));
        }
    }
}

/// Whatever the test fails at, what the processes said is seen.
impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}

async fn finish(process: Process, faults: &std::sync::Mutex<Vec<String>>) {
    let life = process.life.clone();
    let fault = match process.finish().await {
        Some((status, _)) if status.success() => return,
        Some((status, took)) => format!("{} was told to finish, and ended with {status} after {took:?}", life.name),
        None => format!("{} was told to finish, and had not ended after {LIMIT:?}", life.name),
    };
    if !life.killed.load(SeqCst) {
        faults.lock().expect("nobody panics there").push(fault);
    }
}

/// The slope of the line nearest to `points`.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), point| {
        (over + (point.0 - x) * (point.1 - y), under + (point.0 - x) * (point.0 - x))
    });
    if under > 0.0 { over / under } else { 0.0 }
}
