//! The harness against what is known: the schedule, and the server's own stamps on the same clock.

use crate::queue::{Queue, Stamps, lindley, quantile};
use crate::run;
use futures::future::BoxFuture;
use stageline_load::driver::Tally;
use stageline_load::{Amount, Arrivals, Ask, Failure, Progress, Scenario, Shape, Target, Workload, drive};
use std::sync::Arc;
use std::time::Duration;

const SERVICE: Duration = Duration::from_micros(400);
const SHARES: [f64; 5] = [0.5, 0.9, 0.95, 0.99, 0.999];

fn scenario(rate: f64, arrivals: Arrivals, requests: u64) -> Scenario {
    Scenario {
        shape: Shape::Open { rate, arrivals },
        amount: Some(Amount::Requests(requests)),
        drain: Duration::from_secs(60),
        ..Scenario::default()
    }
}

/// Runs it, and holds every percentile against the server's stamps and the schedule: within 2 %, and never below what no
/// server of this speed can do. Counting from the send, or sending less when the server is slow, would show.
async fn check(scenario: Scenario) {
    let Shape::Open { rate, arrivals } = scenario.shape else { panic!("an open loop") };
    let Some(Amount::Requests(count)) = scenario.amount else { panic!("a number of requests") };
    let server = Queue::start(SERVICE, Stamps::Server);
    let driven = run(&scenario, server.clone()).await;
    let schedule: Vec<Duration> = arrivals.times(rate, scenario.seed).take(count as usize).collect();
    let ends = server.ends(driven.begun);
    assert_eq!(driven.recorder.answered, count);
    assert_eq!(ends.len() as u64, count);
    let mut truth: Vec<Duration> = ends.iter().map(|(index, end)| *end - schedule[*index as usize]).collect();
    let mut least = lindley(&schedule, SERVICE);
    for share in SHARES {
        let (measured, truth) = (driven.recorder.e2e.quantile(share), quantile(&mut truth, share));
        let error = measured.as_secs_f64() / truth.as_secs_f64() - 1.0;
        assert!(error.abs() < 0.02, "{share}: measured {measured:?}, the server says {truth:?} ({scenario:?})");
        let least = quantile(&mut least, share);
        assert!(measured >= least.mul_f64(0.98), "{share}: {measured:?} is less than {least:?}, which is impossible");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn percentiles_are_the_servers_below_its_capacity() {
    check(scenario(1000.0, Arrivals::Poisson, 1000)).await;
    check(scenario(1000.0, Arrivals::Bursts(50), 1000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn percentiles_are_the_servers_under_overload() {
    check(scenario(5000.0, Arrivals::Poisson, 1500)).await;
    check(scenario(1e6, Arrivals::Constant, 1000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_in_the_harness_count_from_their_schedule() {
    check(Scenario { max_outstanding: 2, ..scenario(5000.0, Arrivals::Constant, 1000) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_back_is_told() {
    let server = Queue::start(SERVICE, Stamps::Server);
    let driven = run(&Scenario { max_outstanding: 1, ..scenario(1e6, Arrivals::Constant, 200) }, server).await;
    assert!(driven.held_back > 100, "{}", driven.held_back);
    assert!(driven.recorder.lag.quantile(1.0) >= SERVICE * 150, "{:?}", driven.recorder.lag.quantile(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_never_has_more_out_than_asked_and_sends_all() {
    let server = Queue::start(SERVICE, Stamps::Server);
    let closed = Scenario {
        shape: Shape::Closed { concurrency: 3 },
        amount: Some(Amount::Requests(300)),
        warm_up: Amount::Requests(20),
        ..Scenario::default()
    };
    let driven = run(&closed, server.clone()).await;
    assert_eq!((driven.recorder.requests, server.ends(driven.begun).len()), (300, 320));
    let mut moments: Vec<(Duration, i32)> =
        driven.recorder.records.iter().flat_map(|r| [(r.sent, 1), (r.end, -1)]).collect();
    // An end comes before the send that it allows.
    moments.sort();
    let mut out = 0;
    let most = moments.iter().map(|(_, change)| {
        out += change;
        out
    });
    assert!(most.max().unwrap() <= 3);
}

/// Answers nobody.
struct Silent;

impl Target for Silent {
    fn send<'a>(&'a self, _: &'a Ask, _: &'a mut Progress) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_answered_by_the_end_of_the_drain_is_an_error() {
    let drain = Duration::from_millis(20);
    // Some are out, the others wait for a place: all of them count.
    let open = Scenario { drain, max_outstanding: 5, ..scenario(1e5, Arrivals::Constant, 50) };
    let closed =
        Scenario { shape: Shape::Closed { concurrency: 4 }, amount: Some(Amount::Requests(4)), ..open.clone() };
    let driven = run(&open, Arc::new(Silent)).await;
    assert_eq!((driven.recorder.answered, driven.recorder.errors["unfinished"].count), (0, 50));
    let driven = tokio::time::timeout(Duration::from_secs(60), run(&closed, Arc::new(Silent))).await;
    let recorder = driven.expect("a closed loop whose requests never end is ended too").recorder;
    assert_eq!((recorder.answered, recorder.errors["unfinished"].count), (0, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_ends_with_what_it_has() {
    for shape in [Shape::Open { rate: 100.0, arrivals: Arrivals::Poisson }, Shape::Closed { concurrency: 3 }] {
        let endless = Scenario { shape, amount: None, ..Scenario::default() };
        let workload = Arc::new(Workload::new(endless.clone(), Vec::new(), Vec::new()).unwrap());
        let tally = Arc::new(Tally::default());
        let stop = async {
            tally.measuring.notified().await;
            tally.stop.cancel();
        };
        let driving = drive(&endless, Arc::new(Silent), workload, tally.clone());
        let driven = tokio::join!(driving, stop).0.unwrap();
        let recorder = driven.recorder;
        assert!(
            driven.interrupted && recorder.requests > 0 && recorder.errors["unfinished"].count == recorder.requests
        );
    }
}
