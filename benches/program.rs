//! The program with what only measurements and tests ask for, said by its environment, which its children inherit:
//!
//! - `BENCH_BATCH_US`, `BENCH_ROW_US`: nothing is computed, and a batch takes so many microseconds and so many more for each
//!   row (0 where only the other is said);
//! - `BENCH_AWAY`: how many of the decode batches are under way at once.
//!
//! `stageline-bench up MODEL` then serves all doors as ever: for what a request costs beside computing, and for figures of load.

use stageline::config::Measured;
use stageline_engine::fake::Script;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let micros = [said("BENCH_BATCH_US"), said("BENCH_ROW_US")];
    let cost = |micros: Option<u32>| Duration::from_micros(micros.unwrap_or_default().into());
    let script = Script { batch_cost: cost(micros[0]), row_cost: cost(micros[1]) };
    let script = micros.iter().any(Option::is_some).then_some(script);
    stageline::cli::measured(Measured { script, microbatches_away: said("BENCH_AWAY") })
}

fn said(name: &str) -> Option<u32> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: a whole number is expected")))
}
