//! What a run came to, as the JSON file holds it.

use crate::driver::Driven;
use crate::histogram::{Summary, Times};
use crate::knee::Knee;
use crate::record::Recorder;
use crate::scenario::{Scenario, Shape};
use crate::stages::{DeviceReport, StageReport};
use crate::usage::Harness;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The form of the file. It rises when a reader of the last one would misread the next.
pub const VERSION: u32 = 1;
/// Pieces that a run's time is cut into for plots.
const WINDOWS: usize = 120;

/// A whole file: one run, or the steps of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`].
    pub version: u32,
    /// The program's version.
    pub stageline: String,
    /// When it began, in seconds since 1970.
    pub unix_seconds: u64,
    /// The runs, in the order in which they were made.
    pub runs: Vec<Report>,
    /// Where a sweep found the knee.
    pub knee: Option<Knee>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// All that it can be repeated from.
    pub scenario: Scenario,
    /// From the first schedule to the last end, or to the end of the time asked for if that is later.
    pub seconds: f64,
    /// Whether it was ended before its end, by hand.
    pub interrupted: bool,
    /// Requests a second that the schedule asked for; absent in a closed loop, which asks for what it gets.
    pub offered_per_second: Option<f64>,
    /// Requests that count.
    pub requests: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Of these, within the objective.
    pub good: u64,
    /// Answered requests a second.
    pub requests_per_second: f64,
    /// Tokens of answers a second.
    pub tokens_per_second: f64,
    /// Tokens of prompts a second.
    pub prompt_tokens_per_second: f64,
    /// Good requests a second.
    pub goodput_per_second: f64,
    /// Good requests as a share of all, 0 to 1.
    pub goodput_share: f64,
    /// From schedule to the whole answer.
    pub end_to_end: Option<Summary>,
    /// From schedule to the first token; absent where tokens are not seen one by one.
    pub time_to_first_token: Option<Summary>,
    /// Between tokens.
    pub between_tokens: Option<Summary>,
    /// From schedule to the send: the harness's own part of every latency.
    pub lag: Option<Summary>,
    /// From schedule to the word that there is no room: of requests that were refused (class `overloaded`).
    #[serde(default)]
    pub refusals: Option<Summary>,
    /// What was not answered, by class: refusals too.
    pub errors: BTreeMap<String, ErrorReport>,
    /// What the harness did besides.
    pub harness: Harness,
    /// Where the time went in each stage; empty if there are no metrics.
    pub stages: Vec<StageReport>,
    /// And on each device.
    pub devices: Vec<DeviceReport>,
    /// Why there are no metrics.
    pub no_metrics: Option<String>,
    /// The run cut into equal pieces of time, by schedule.
    pub windows: Vec<Window>,
    /// `windows` are of one request in so many: single requests are kept in bounded memory. Percentiles are of all.
    pub one_in: u64,
}

/// Errors of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub example: String,
}

/// What was scheduled within a piece of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its start, in seconds since the first schedule.
    pub from: f64,
    /// Requests scheduled in it.
    pub requests: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Half of the answered ones took no longer from schedule to end, in ms.
    pub p50_ms: f64,
    /// 99 % did not.
    pub p99_ms: f64,
}

/// What is known of the server's inside.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// Each stage.
    pub stages: Vec<StageReport>,
    /// Each device.
    pub devices: Vec<DeviceReport>,
    /// Why there are none.
    pub missing: Option<String>,
}

impl Report {
    /// Of a run of `scenario`.
    pub fn new(scenario: Scenario, driven: &Driven, harness: Harness, inside: Inside) -> Self {
        let r = &driven.recorder;
        let (first, last, end) = r.bounds.unwrap_or_default();
        let span = last.saturating_sub(first).as_secs_f64();
        // A time that was asked for counts whole, even if its last request ended before it.
        let asked = match scenario.amount {
            Some(super::Amount::Time(time)) if !driven.interrupted => time.as_secs_f64(),
            _ => 0.0,
        };
        let seconds = end.saturating_sub(first).as_secs_f64().max(asked).max(1e-9);
        let open = !matches!(scenario.shape, Shape::Closed { .. });
        let offered = match (asked > 0.0, r.requests) {
            (true, count) => Some(count as f64 / asked),
            (false, count) if count > 1 && span > 0.0 => Some((count - 1) as f64 / span),
            _ => None,
        };
        let rate = |count: u64| count as f64 / seconds;
        let errors = r.errors.iter();
        Self {
            seconds,
            interrupted: driven.interrupted,
            offered_per_second: offered.filter(|_| open),
            requests: r.requests,
            answered: r.answered,
            good: r.good,
            requests_per_second: rate(r.answered),
            tokens_per_second: rate(r.tokens),
            prompt_tokens_per_second: rate(r.prompt_tokens),
            goodput_per_second: rate(r.good),
            goodput_share: r.good as f64 / r.requests.max(1) as f64,
            end_to_end: r.e2e.summary(),
            time_to_first_token: r.ttft.summary(),
            between_tokens: r.itl.summary(),
            lag: r.lag.summary(),
            refusals: r.refused.summary(),
            errors: errors
                .map(|(class, e)| (class.clone(), ErrorReport { count: e.count, example: e.example.clone() }))
                .collect(),
            harness,
            stages: inside.stages,
            devices: inside.devices,
            no_metrics: inside.missing,
            windows: windows(r, first, last),
            one_in: r.stride,
            scenario,
        }
    }

    /// Requests that were refused for want of room, and those that failed otherwise.
    pub fn refused_and_failed(&self) -> (u64, u64) {
        let refused = self.refusals.as_ref().map_or(0, |refusals| refusals.count);
        (refused, (self.requests - self.answered).saturating_sub(refused))
    }

    /// Rate or concurrency that was asked for.
    pub fn level(&self) -> f64 {
        match &self.scenario.shape {
            Shape::Open { rate, .. } => *rate,
            Shape::Closed { concurrency } => f64::from(*concurrency),
            Shape::Replay { .. } => self.offered_per_second.unwrap_or(0.0),
        }
    }
}

fn windows(recorder: &Recorder, first: Duration, last: Duration) -> Vec<Window> {
    let width = (last.saturating_sub(first).as_secs_f64() / WINDOWS as f64).max(1e-3);
    let mut pieces: BTreeMap<usize, (u64, u64, Times)> = BTreeMap::new();
    for record in &recorder.records {
        let at = record.scheduled.saturating_sub(first).as_secs_f64();
        let place = ((at / width) as usize).min(WINDOWS - 1);
        let piece = pieces.entry(place).or_insert_with(|| (0, 0, Times::new()));
        piece.0 += 1;
        if record.answered {
            piece.2.add(record.e2e());
        } else {
            piece.1 += 1;
        }
    }
    let ms = |times: &Times, share| times.quantile(share).as_secs_f64() * 1e3;
    let window = |(place, (requests, failed, times)): (usize, (u64, u64, Times))| Window {
        from: place as f64 * width,
        requests,
        failed,
        p50_ms: ms(&times, 0.5),
        p99_ms: ms(&times, 0.99),
    };
    pieces.into_iter().map(window).collect()
}

/// A number with as many digits as matter.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}
