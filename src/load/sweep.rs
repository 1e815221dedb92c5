//! One load after another, and the knee: the highest one that is still served as it should be.

use crate::knee::Knee;
use crate::report::Report;
use crate::scenario::Shape;
use serde::{Deserialize, Serialize};

/// Of the requests offered, what a server that keeps up answers at least.
const KEEPS_UP: f64 = 0.95;
/// In a closed loop, what brings less than this much more throughput brings no more.
const GAIN: f64 = 1.05;
/// Most steps of a sweep that finds its own.
const MAX_STEPS: usize = 20;
/// Steps that narrow the knee down between the last good and the first bad load.
const BISECTIONS: usize = 4;

/// Which loads to try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sweep {
    /// These rates or concurrencies.
    Levels(Vec<f64>),
    /// Twice as much from here on until it is too much, then between the last two.
    Auto(f64),
}

/// Whether `report` shows a load that is served as it should be: `share` (0 to 1) of its requests good, and if it is an open
/// loop, answered as fast as they are asked.
pub fn is_served(report: &Report, share: f64) -> bool {
    let kept_up = report.offered_per_second.is_none_or(|offered| report.requests_per_second >= KEEPS_UP * offered);
    report.requests > 0 && report.goodput_share >= share && kept_up
}

/// The load to try after those that were `tried`, if any.
pub fn next(sweep: &Sweep, tried: &[Report], share: f64) -> Option<f64> {
    let start = match sweep {
        Sweep::Levels(levels) => return levels.get(tried.len()).copied(),
        Sweep::Auto(start) => *start,
    };
    if tried.len() >= MAX_STEPS {
        return None;
    }
    let whole = tried.first().is_some_and(|report| matches!(report.scenario.shape, Shape::Closed { .. }));
    let Bracket { low, high, .. } = bracket(tried, share);
    let level = match (low, high) {
        (None, None) => start,
        (Some(good), None) => good * 2.0,
        // Even the first was too much: downwards.
        (None, Some(bad)) => bad / 2.0,
        (Some(good), Some(bad)) => {
            // Down to the first good one at half of it, or up to the first bad one at twice: what comes after narrows.
            let coarse = tried.iter().filter(|report| is_power(report.level() / start)).count();
            if tried.len() - coarse >= BISECTIONS {
                return None;
            }
            (good + bad) / 2.0
        }
    };
    let level = if whole { level.floor().max(1.0) } else { level };
    let known = tried.iter().any(|report| (report.level() - level).abs() < 1e-9 * level);
    (!known && level > start / 1024.0).then_some(level)
}

/// Whether `ratio` is a power of two.
fn is_power(ratio: f64) -> bool {
    let log = ratio.log2();
    (log - log.round()).abs() < 1e-9
}

/// What is known of the knee.
#[derive(Default)]
struct Bracket {
    /// The highest load known to be below it.
    low: Option<f64>,
    /// The lowest load known to be at it or above.
    high: Option<f64>,
    knee: Option<f64>,
}

fn bracket(tried: &[Report], share: f64) -> Bracket {
    let mut sorted: Vec<&Report> = tried.iter().collect();
    sorted.sort_by(|a, b| a.level().total_cmp(&b.level()));
    let served: Vec<&Report> = sorted.iter().copied().take_while(|report| is_served(report, share)).collect();
    let bad = sorted.get(served.len()).map(|report| report.level());
    let Some((last, before)) = served.split_last() else { return Bracket { high: bad, ..Bracket::default() } };
    if !matches!(last.scenario.shape, Shape::Closed { .. }) {
        return Bracket { low: Some(last.level()), high: bad, knee: Some(last.level()) };
    }
    // A closed loop always keeps up: its knee is where more at once stops bringing more.
    let most = |reports: &[&Report]| reports.iter().map(|report| report.requests_per_second).fold(0.0, f64::max);
    let enough = most(&served) / GAIN;
    let first = served.iter().position(|report| report.requests_per_second >= enough).unwrap_or(0);
    let knee = Some(served[first].level());
    if last.requests_per_second < GAIN * most(before) {
        let low = first.checked_sub(1).map(|below| served[below].level());
        return Bracket { low, high: knee, knee };
    }
    Bracket { low: Some(last.level()), high: bad, knee }
}

/// The knee of what was `tried`.
pub fn knee(tried: &[Report], share: f64) -> Knee {
    let found = bracket(tried, share);
    let closed = tried.iter().any(|report| matches!(report.scenario.shape, Shape::Closed { .. }));
    // Typed with a few digits, and read as a shorter float.
    let percent = (1e4 * share).round() / 100.0;
    let objective = tried.first().map(|report| report.scenario.objective.to_string()).unwrap_or_default();
    let good = format!("{percent} % of the requests good ({objective})");
    let rule = if closed {
        format!("the lowest concurrency within 5 % of the most throughput that any brought with {good}")
    } else {
        format!("the highest rate with {good}, and 95 % of it answered")
    };
    Knee { level: found.knee, rule, bounded: found.high.is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Driven;
    use crate::record::Recorder;
    use crate::report::Inside;
    use crate::usage::{Harness, Mark};
    use crate::{Arrivals, Objective, Scenario};
    use std::time::Instant;

    /// Of a server that answers up to `most` requests a second, and one at once adds one a second.
    fn report(open: bool, level: f64, most: f64) -> Report {
        let shape = if open {
            Shape::Open { rate: level, arrivals: Arrivals::Poisson }
        } else {
            Shape::Closed { concurrency: level as u32 }
        };
        let recorder = Recorder::new(Objective::default());
        let harness = Harness::judge(Mark::now(), &shape, &recorder, 0, false);
        let driven = Driven { begun: Instant::now(), recorder, interrupted: false, held_back: 0 };
        let mut report = Report::new(Scenario { shape, ..Scenario::default() }, &driven, harness, Inside::default());
        report.requests = 1000;
        report.offered_per_second = open.then_some(level);
        report.requests_per_second = level.min(most);
        report.goodput_share = if level > most { 0.5 } else { 1.0 };
        if !open {
            report.goodput_share = 1.0;
        }
        report
    }

    fn run(open: bool, start: f64, most: f64) -> (Vec<f64>, Knee) {
        let mut tried = Vec::new();
        while let Some(level) = next(&Sweep::Auto(start), &tried, 0.99) {
            tried.push(report(open, level, most));
        }
        let knee = knee(&tried, 0.99);
        (tried.iter().map(Report::level).collect(), knee)
    }

    #[test]
    fn a_rate_is_doubled_until_it_is_too_much_and_then_narrowed_down() {
        let (levels, knee) = run(true, 1.0, 11.2);
        assert_eq!(levels, [1.0, 2.0, 4.0, 8.0, 16.0, 12.0, 10.0, 11.0, 11.5]);
        assert_eq!((knee.level, knee.bounded), (Some(11.0), true));
    }

    #[test]
    fn a_start_that_is_too_much_goes_down() {
        let (levels, knee) = run(true, 64.0, 11.2);
        assert_eq!(levels[..4], [64.0, 32.0, 16.0, 8.0]);
        assert!((10.0..=11.2).contains(&knee.level.unwrap()));
    }

    #[test]
    fn the_knee_of_a_closed_loop_is_where_more_brings_no_more() {
        let (levels, knee) = run(false, 1.0, 6.0);
        assert_eq!(levels, [1.0, 2.0, 4.0, 8.0, 16.0, 6.0, 5.0]);
        assert_eq!((knee.level, knee.bounded), (Some(6.0), true));
    }

    #[test]
    fn listed_levels_are_all_tried_and_a_knee_beyond_them_is_told() {
        let levels = Sweep::Levels(vec![1.0, 2.0]);
        let tried = vec![report(true, 1.0, 9.0), report(true, 2.0, 9.0)];
        assert_eq!((next(&levels, &tried[..1], 0.99), next(&levels, &tried, 0.99)), (Some(2.0), None));
        assert_eq!((knee(&tried, 0.99).level, knee(&tried, 0.99).bounded), (Some(2.0), false));
        let none = knee(&[report(true, 20.0, 9.0)], 0.99);
        assert_eq!((none.level, none.bounded), (None, true));
    }
}
