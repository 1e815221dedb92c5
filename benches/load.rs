//! The load harness against a server whose every answer is known: its percentiles beside that server's own stamps on the same
//! clock, below capacity and under overload, and the most requests it sends from the cores that it has.
//!
//! `cargo bench --bench load`, or pinned to one core: `taskset -c 0 cargo bench --bench load`.

#[path = "../tests/load/queue.rs"]
mod queue;

use queue::{Queue, Stamps, lindley, quantile};
use stageline_load::driver::Tally;
use stageline_load::usage::{Harness, Mark};
use stageline_load::{Amount, Arrivals, Scenario, Shape, Workload, drive};
use std::sync::Arc;
use std::time::Duration;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    println!("e2e percentiles in ms: the harness / the server's stamps (difference) / the least that is possible");
    for (rate, service_us, seconds) in
        [(100.0, 5000, 8), (150.0, 5000, 8), (400.0, 5000, 3), (5000.0, 20, 5), (5000.0, 400, 3)]
    {
        against(rate, Duration::from_micros(service_us), Duration::from_secs(seconds)).await;
    }
}

async fn against(rate: f64, service: Duration, time: Duration) {
    let shape = Shape::Open { rate, arrivals: Arrivals::Poisson };
    let scenario = Scenario {
        shape: shape.clone(),
        amount: Some(Amount::Time(time)),
        drain: Duration::from_secs(60),
        max_outstanding: 1 << 20,
        ..Scenario::default()
    };
    let server = Queue::start(service, Stamps::Harness);
    let workload = Workload::new(scenario.clone(), Vec::new(), Vec::new()).expect("a workload");
    let begun = Mark::now();
    let driven =
        drive(&scenario, server.clone(), Arc::new(workload), Arc::new(Tally::default())).await.expect("it runs");
    let harness = Harness::judge(begun, &shape, &driven.recorder, driven.held_back, false);
    let schedule: Vec<Duration> = Arrivals::Poisson.times(rate, scenario.seed).take_while(|at| *at < time).collect();
    let mut truth: Vec<Duration> =
        server.ends(driven.begun).iter().map(|(index, end)| *end - schedule[*index as usize]).collect();
    let mut least = lindley(&schedule, service);
    let load = rate * service.as_secs_f64();
    println!("{rate} requests/s, {service:?} each (load {load:.2}), {} answered:", driven.recorder.answered);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    for share in [0.5, 0.9, 0.95, 0.99, 0.999] {
        let (measured, truth) = (ms(driven.recorder.e2e.quantile(share)), ms(quantile(&mut truth, share)));
        let (least, error) = (ms(quantile(&mut least, share)), 100.0 * (measured / truth - 1.0));
        println!("  p{:<5} {measured:9.3} / {truth:9.3} ({error:+.2} %) / {least:9.3}", 100.0 * share);
    }
    println!("  {}", harness.verdict);
}
