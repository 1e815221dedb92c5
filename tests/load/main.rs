//! The load harness: against a server whose every answer is known, over every way to a pipeline, and as a program.

#[path = "../support/environment.rs"]
mod environment;
#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "no broker dies here")]
mod nats;

mod answers;
mod doors;
mod program;
mod queue;
mod truth;

use stageline_load::driver::{Driven, Tally};
use stageline_load::{Scenario, Target, Workload, drive};
use std::sync::Arc;

/// Runs `scenario` at `target`.
async fn run(scenario: &Scenario, target: Arc<dyn Target>) -> Driven {
    let workload = Workload::new(scenario.clone(), Vec::new(), Vec::new()).unwrap();
    drive(scenario, target, Arc::new(workload), Arc::new(Tally::default())).await.unwrap()
}
