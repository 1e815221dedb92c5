//! A pipeline at work while everything goes wrong that a seed can think of: processes of two replicas a stage are killed, stopped,
//! told to finish and replaced, the broker dies, and links are cut, held and slow. Clients that know both doors ask all the
//! while; every answer must be the one that an undisturbed pipeline gave, and in the end nothing may be left.
//!
//! `STAGELINE_CHAOS_SEED` is the plan, 1 if not said, and `STAGELINE_CHAOS_SECONDS` how long faults happen, 60 if not said: by
//! hand 600, as in `STAGELINE_CHAOS_SECONDS=600 STAGELINE_CHAOS_SEED=7 scripts/test --test chaos -- --nocapture`. The plan is
//! made before anything happens and printed if anything is wrong, with the end of each process's log.

#[path = "../support/environment.rs"]
mod environment;
#[path = "../server/looking.rs"]
mod looking;
#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "its settings are the usual ones")]
mod nats;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../server/programs.rs"]
#[allow(dead_code, reason = "tests/server looks at more")]
mod programs;
#[path = "../model/random.rs"]
#[allow(dead_code, reason = "nobody compares the weights' digest here")]
mod random;
#[path = "../support/real_models.rs"]
#[allow(dead_code, reason = "only the tokenizer is real")]
mod real_models;
#[path = "../split/tiny.rs"]
#[allow(dead_code, reason = "the model is another")]
mod tiny;

mod asks;
mod cable;
mod clients;
mod clock;
mod drive;
mod kept;
mod leftovers;
mod model;
mod places;
mod plan;

use asks::{Ask, End, Way};
use clients::{Clients, Known};
use drive::Driver;
use nats::NatsServer;
use places::Site;
use plan::{DOORS, KINDS, Plan};
use programs::Program;
use stageline_base::prng::Prng;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Clients at once.
const CLIENTS: u64 = 6;
/// Clients at once whose requests are kept.
const KEEPERS: u64 = 2;
/// Different requests.
const ASKS: usize = 24;
/// Of the things that must not be.
const SHOWN: usize = 20;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Requests of `seed`, and what a pipeline in one process makes of them that nothing happens to.
async fn known(site: &Site, seed: u64) -> Known {
    let mut random = Prng::new(seed);
    let path = site.folder.path();
    let limits = ["--http", "127.0.0.1:0", "--threads", "1", "--max-num-seqs", "32", "--healthcheck-interval", "0s"];
    let program = Program::start(&[&["up", path.to_str().expect("a plain path")], &limits[..]].concat());
    let address = program.ready(0, 1).await;
    let asks: Vec<Ask> = (0..ASKS).map(|_| Ask::draw(&mut random)).collect();
    let answers = asks.into_iter().map(|ask| {
        let address = address.clone();
        async move {
            match ask.at(&address, Way::Whole, None).await {
                End::Done(given) => (ask, given),
                other => panic!("{other:?} of a pipeline that nothing happens to"),
            }
        }
    });
    futures::future::join_all(answers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_right_whatever_happens() {
    let seed = number("STAGELINE_CHAOS_SEED", 1);
    let plan = Plan::of(seed, Duration::from_secs(number("STAGELINE_CHAOS_SECONDS", 60)));
    println!("{plan}");
    let broker = NatsServer::start().await;
    let site = Arc::new(Site::new(&broker, plan.hops.clone()));
    let known = known(&site, seed).await;
    let mut driver = Driver::start(site.clone(), broker).await;
    leftovers::are_ready(&site).await;

    let (ledger, stop) = (Mutex::default(), CancellationToken::new());
    let clients = Arc::new(Clients { seed, known, site: site.clone(), ledger, stop: stop.clone() });
    let asking = (0..CLIENTS).map(|number| {
        let clients = clients.clone();
        tokio::spawn(async move { clients.ask(number).await })
    });
    let keeping = (0..KEEPERS).map(|number| {
        let clients = clients.clone();
        tokio::spawn(async move { clients.keep(number).await })
    });
    let asking: Vec<_> = asking.chain(keeping).collect();
    let counting = tokio::spawn(leftovers::replays(site.clone(), stop.clone()));
    driver.carry_out(&plan).await;
    stop.cancel();
    for client in asking {
        client.await.expect("a client");
    }
    let replays = counting.await.expect("who counts");
    let mut ledger = std::mem::take(&mut *clients.ledger.lock().expect("nobody panics there"));
    ledger.faults.extend(leftovers::nothing_is_left(&site).await);
    // Calm again: every answer once more, at each door.
    for door in DOORS {
        let (address, _) = &site.found(door).await;
        for some in clients.known.chunks(CLIENTS as usize) {
            let again = some.iter().map(|(ask, right)| async move {
                let end = ask.at(address, Way::Events, None).await;
                (!matches!(&end, End::Done(given) if given == right))
                    .then(|| format!("at door {door}, at the end: {end:?}"))
            });
            ledger.faults.extend(futures::future::join_all(again).await.into_iter().flatten());
        }
    }
    ledger.faults.extend(leftovers::nothing_is_left(&site).await);
    let marks = driver.marks.clone();
    let (faults, weights) = driver.end().await;
    ledger.faults.extend(faults);

    let counts = &site.counts;
    let cables = [&counts.cut, &counts.held, &counts.late].map(|count| count.load(Relaxed));
    println!(
        "seed {seed}: {replays} replays, kills {:?}, faults {marks:?}, connections cut, pieces held and late {cables:?}",
        driver.killed
    );
    let mut wrong = std::mem::take(&mut ledger.faults);
    println!("{ledger:#?}\n{}", weights.join("\n"));
    // Faults that do nothing prove nothing.
    wrong.extend(KINDS.iter().filter(|kind| !marks.contains_key(**kind)).map(|kind| format!("no {kind} happened")));
    let right = ledger.right as u64;
    let (kept, resumed) = (ledger.kept as u64, ledger.kept_streams.saturating_sub(ledger.kept) as u64);
    for (name, count) in [
        ("replay", replays),
        ("cut", cables[0]),
        ("hold", cables[1]),
        ("delay", cables[2]),
        ("answer", right),
        ("kept answer", kept),
        ("stream taken up again", resumed),
    ] {
        if count == 0 {
            wrong.push(format!("no {name} was seen"));
        }
    }
    if !wrong.is_empty() {
        let (count, first) = (wrong.len(), &wrong[..wrong.len().min(SHOWN)]);
        panic!("seed {seed}, {count} things that must not be; the first:\n{}", first.join("\n"));
    }
}
