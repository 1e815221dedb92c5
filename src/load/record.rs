//! What became of each request.

use crate::histogram::Times;
use crate::objective::Objective;
use crate::target::{Failure, Progress};
use std::collections::BTreeMap;
use std::time::Duration;

/// Single requests that are kept, at most. When there are more, every second one of those kept goes, evenly over time;
/// percentiles count all.
const MAX_RECORDS: usize = 400_000;
/// Classes of errors that are told apart.
const MAX_CLASSES: usize = 64;

/// One request. Times are since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Its number.
    pub index: u64,
    /// When it was due: what latency counts from.
    pub scheduled: Duration,
    /// When it went out.
    pub sent: Duration,
    /// When its first token came, if that was seen.
    pub first_token: Option<Duration>,
    /// When it ended.
    pub end: Duration,
    /// Tokens of its answer.
    pub tokens: u32,
    /// Whether it was answered.
    pub answered: bool,
}

impl Record {
    /// From its schedule to its end.
    pub fn e2e(&self) -> Duration {
        self.end.saturating_sub(self.scheduled)
    }

    /// From its schedule to its first token.
    pub fn ttft(&self) -> Option<Duration> {
        self.first_token.map(|first| first.saturating_sub(self.scheduled))
    }
}

/// Errors of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub example: String,
}

/// Adds up what came of a run's measured requests.
#[derive(Clone, Debug)]
pub struct Recorder {
    objective: Objective,
    /// From schedule to end, of answered requests.
    pub e2e: Times,
    /// From schedule to first token.
    pub ttft: Times,
    /// Between tokens.
    pub itl: Times,
    /// From schedule to the moment it went out, of all.
    pub lag: Times,
    /// From schedule to the word that there is no room, of requests that were refused.
    pub refused: Times,
    /// Requests that ended.
    pub requests: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Of these, within the objective.
    pub good: u64,
    /// Tokens of answers.
    pub tokens: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// The others, by class.
    pub errors: BTreeMap<String, Errors>,
    /// The first and the last schedule, and the last end.
    pub bounds: Option<(Duration, Duration, Duration)>,
    /// Some of them, one in `stride`, in the order of their ends.
    pub records: Vec<Record>,
    /// See there.
    pub stride: u64,
}

impl Recorder {
    /// With nothing yet.
    pub fn new(objective: Objective) -> Self {
        Self {
            objective,
            e2e: Times::new(),
            ttft: Times::new(),
            itl: Times::new(),
            lag: Times::new(),
            refused: Times::new(),
            requests: 0,
            answered: 0,
            good: 0,
            tokens: 0,
            prompt_tokens: 0,
            errors: BTreeMap::new(),
            bounds: None,
            records: Vec::new(),
            stride: 1,
        }
    }

    /// One request has ended, with `progress` seen and as `outcome` says.
    pub fn add(&mut self, record: Record, progress: &Progress, outcome: &Result<(), Failure>) {
        self.requests += 1;
        let (first, last, end) = self.bounds.unwrap_or((record.scheduled, record.scheduled, record.end));
        self.bounds = Some((first.min(record.scheduled), last.max(record.scheduled), end.max(record.end)));
        self.lag.add(record.sent.saturating_sub(record.scheduled));
        let (tokens, prompt_tokens) = progress.counts();
        // Tokens of an answer that failed later were made and seen: they are throughput, not goodput.
        self.tokens += u64::from(tokens);
        self.prompt_tokens += u64::from(prompt_tokens);
        match outcome {
            Ok(()) => {
                self.answered += 1;
                self.e2e.add(record.e2e());
                record.ttft().into_iter().for_each(|time| self.ttft.add(time));
                progress.gaps().iter().for_each(|gap| self.itl.add(*gap));
                let kept = self.objective.kept(record.ttft(), progress.mean_gap(), record.e2e(), tokens);
                self.good += u64::from(kept);
            }
            Err(failure) => {
                if failure.is_refusal() {
                    self.refused.add(record.e2e());
                }
                self.failed(failure);
            }
        }
        self.keep(record);
    }

    fn failed(&mut self, failure: &Failure) {
        let known = self.errors.contains_key(&failure.class) || self.errors.len() < MAX_CLASSES;
        let class = if known { failure.class.as_str() } else { "other" };
        let errors = self.errors.entry(class.to_owned()).or_default();
        if errors.count == 0 {
            errors.example = failure.message.chars().take(300).collect();
        }
        errors.count += 1;
    }

    fn keep(&mut self, record: Record) {
        if !record.index.is_multiple_of(self.stride) {
            return;
        }
        if self.records.len() == MAX_RECORDS {
            self.stride *= 2;
            let stride = self.stride;
            self.records.retain(|record| record.index.is_multiple_of(stride));
            if !record.index.is_multiple_of(stride) {
                return;
            }
        }
        self.records.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64, sent_ms: u64, end_ms: u64) -> Record {
        let ms = Duration::from_millis;
        let (scheduled, sent, end) = (ms(index), ms(index + sent_ms), ms(index + end_ms));
        Record { index, scheduled, sent, first_token: None, end, tokens: 0, answered: true }
    }

    #[test]
    fn latency_counts_from_the_schedule_and_lag_is_told_apart() {
        let mut recorder = Recorder::new(Objective { e2e: Some(Duration::from_millis(90)), ..Objective::default() });
        recorder.add(record(0, 50, 80), &Progress::default(), &Ok(()));
        recorder.add(record(1, 60, 100), &Progress::default(), &Ok(()));
        let near = |time: Duration, ms: f64| (time.as_secs_f64() * 1e3 / ms - 1.0).abs() < 0.002;
        assert!(near(recorder.e2e.quantile(0.5), 80.0) && near(recorder.lag.quantile(1.0), 60.0));
        assert_eq!((recorder.requests, recorder.answered, recorder.good), (2, 2, 1));
    }

    #[test]
    fn refusals_are_told_apart_from_failures_and_have_times() {
        let mut recorder = Recorder::new(Objective::default());
        for (index, class) in [(0, "overloaded"), (1, "internal"), (2, "overloaded")] {
            recorder.add(record(index, 0, 5), &Progress::default(), &Err(Failure::new(class, "why")));
        }
        assert_eq!((recorder.requests, recorder.answered, recorder.refused.count()), (3, 0, 2));
        assert_eq!(recorder.errors["overloaded"].count, 2);
        assert!((recorder.refused.quantile(0.99).as_secs_f64() - 0.005).abs() < 1e-5);
    }

    #[test]
    fn what_is_kept_is_bounded_and_even() {
        let mut recorder = Recorder::new(Objective::default());
        let count = 2 * MAX_RECORDS as u64 + 10;
        (0..count).for_each(|index| recorder.keep(record(index, 0, 1)));
        assert!(recorder.records.len() <= MAX_RECORDS);
        assert_eq!(recorder.stride, 4);
        assert!(recorder.records.windows(2).all(|pair| pair[1].index - pair[0].index == 4));
    }

    #[test]
    fn errors_are_counted_by_class_and_classes_are_bounded() {
        let mut recorder = Recorder::new(Objective::default());
        for index in 0..200 {
            let failure = Failure::new(format!("class {}", index % 100), "why");
            recorder.add(record(index, 0, 1), &Progress::default(), &Err(failure));
        }
        assert_eq!(recorder.errors.len(), MAX_CLASSES + 1);
        assert_eq!(recorder.errors.values().map(|errors| errors.count).sum::<u64>(), 200);
        assert_eq!((recorder.errors["class 1"].count, recorder.e2e.count()), (2, 0));
    }
}
