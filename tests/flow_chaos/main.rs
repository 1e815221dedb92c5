//! Engines of flows at a real broker while they are killed, stopped and told to end, the broker dies, and runs are cancelled and
//! told things: every run that was accepted ends once, with what its flow gives; nothing is recorded twice.
//!
//! `STAGELINE_FLOW_CHAOS_SECONDS` and `STAGELINE_FLOW_CHAOS_SEED` say for how long and by which seed. Needs a nats-server:
//! `scripts/test` installs it.

mod callers;
mod engines;
#[path = "../support/environment.rs"]
mod environment;
mod functions;
#[path = "../support/nats.rs"]
mod nats;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../server/programs.rs"]
#[allow(dead_code, reason = "other tests look at more of a program")]
mod programs;
mod verdict;

use callers::Callers;
use engines::{Engines, Fault};
use functions::Functions;
use nats::NatsServer;
use stageline_base::prng::Prng;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, interval, interval_at, timeout};

/// Engines of the same flows.
const ENGINES: usize = 3;
/// Faults come so often, in milliseconds: at least one every two seconds.
const FAULT_EVERY: std::ops::Range<u64> = 700..1800;
/// What was accepted has so long to end when nothing happens any more.
const CALM: Duration = Duration::from_secs(120);

/// Resolves `after` from now: for what a function or a caller takes its time with.
pub async fn due(after: Duration) {
    interval_at(Instant::now() + after, after.max(Duration::from_millis(1))).tick().await;
}

fn asked(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_run_ends_once_and_rightly_whatever_dies() {
    let time = Duration::from_secs(asked("STAGELINE_FLOW_CHAOS_SECONDS", 60));
    let seed = asked("STAGELINE_FLOW_CHAOS_SEED", 7);
    let mut random = Prng::new(seed);
    let mut broker = NatsServer::start().await;
    let functions = Functions::start().await;
    let mut engines = Engines::start(ENGINES, &broker.url(), &functions.address).await;
    let callers = Callers::start(engines.addresses(), seed);
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    let (begun, mut next) = (Instant::now(), Duration::ZERO);
    // A schedule, kept by beats: nobody waits here for something to have happened.
    let mut beat = interval(Duration::from_millis(20));
    while begun.elapsed() < time {
        beat.tick().await;
        engines.mend().await;
        if begun.elapsed() >= next {
            let fault = engines.strike(&mut random, &mut broker).await;
            *faults.entry(fault).or_default() += 1;
            let (from, until) = (FAULT_EVERY.start, FAULT_EVERY.end);
            next = begun.elapsed() + Duration::from_millis(from + random.below(until - from));
        }
    }
    engines.calm(&mut broker).await;
    let asked = callers.stop().await;
    let judged = timeout(CALM, verdict::of(&engines, asked)).await;
    let verdict = judged.unwrap_or_else(|_| panic!("runs are left:\n{}", engines.logs()));
    eprintln!("{verdict}\nfaults: {faults:?}\ncalls of functions: {}", functions.calls());
    assert!(verdict.wrong.is_empty(), "{}\n{}", verdict.wrong.join("\n"), engines.logs());
    // A test whose faults never fire proves nothing.
    for fault in Fault::ALL {
        assert!(faults.contains_key(&fault), "{fault:?} never fired: {faults:?}");
    }
    assert!(verdict.ended >= 100, "only {} runs", verdict.ended);
}
