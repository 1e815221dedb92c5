//! Whether the harness itself was what limited a run: how late it was and how much it computed.

use crate::record::Recorder;
use crate::scenario::Shape;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Linux counts processor time in hundredths of a second for programs, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;
/// A lag that no report need speak of.
const LATE: Duration = Duration::from_millis(1);
/// A share of the processors above which the harness may have waited for itself.
const BUSY: f64 = 0.85;

/// A moment, with the processor time that this process had used by then.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    at: Instant,
    cpu_seconds: Option<f64>,
}

impl Mark {
    /// Now.
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").ok();
        Self { at: Instant::now(), cpu_seconds: stat.and_then(|stat| cpu_seconds(&stat)) }
    }

    /// Seconds since.
    pub fn elapsed(&self) -> f64 {
        self.at.elapsed().as_secs_f64()
    }
}

/// User and system time of a line of /proc/self/stat; the program's name in it may hold anything but a last `)`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// What the harness did besides asking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Harness {
    /// Processor time of its process, as a share of one core; absent where the system does not tell.
    pub cores_used: Option<f64>,
    /// Cores that it may use.
    pub cores: usize,
    /// Whether the pipeline runs in the same process, so that its work is in `cores_used`.
    pub with_pipeline: bool,
    /// Requests that it held back since `max_outstanding` were out.
    pub held_back: u64,
    /// Whether it may have limited what was measured.
    pub was_bottleneck: bool,
    /// Why it was, or how it is known that it was not.
    pub verdict: String,
}

impl Harness {
    /// Since `begun`, with what the recorder saw.
    pub fn judge(begun: Mark, shape: &Shape, recorder: &Recorder, held_back: u64, with_pipeline: bool) -> Self {
        let now = Mark::now();
        let wall = now.at.saturating_duration_since(begun.at).as_secs_f64().max(1e-9);
        let cores_used = now.cpu_seconds.zip(begun.cpu_seconds).map(|(now, then)| (now - then) / wall);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (p99, p999) = (recorder.lag.quantile(0.99), recorder.lag.quantile(0.999));
        // A lag that is a small part of every latency does not change what is said of them.
        let tolerated = LATE.max(recorder.e2e.quantile(0.5) / 50);
        let late = !matches!(shape, Shape::Closed { .. }) && p99 > tolerated;
        let busy = !with_pipeline && cores_used.is_some_and(|used| used > BUSY * cores as f64);
        let said_cpu = match (cores_used, with_pipeline) {
            (None, _) => String::new(),
            (Some(used), false) => format!(", and used {:.0} % of one core, of {cores}", 100.0 * used),
            (Some(used), true) => {
                format!("; with the pipeline in the same process it used {:.0} % of one core, of {cores}", 100.0 * used)
            }
        };
        let said_lag = match shape {
            Shape::Closed { .. } => {
                "A closed loop has no schedule to be late for: the harness sent each request as the \
                 one before it ended"
                    .into()
            }
            _ => format!("The harness sent 99.9 % of the requests within {} of their schedule", millis(p999)),
        };
        let verdict = match (held_back > 0, late, busy) {
            (true, _, _) => format!(
                "THE HARNESS HELD REQUESTS BACK: {held_back} waited since --max-outstanding requests were out. Their \
                 latency counts from their schedule all the same, but the server never saw the whole load"
            ),
            (_, true, _) => format!(
                "THE HARNESS WAS LATE: 1 % of the requests went out {} or more after their schedule{said_cpu}. \
                 Latencies include it: give it a core of its own or ask for less",
                millis(p99)
            ),
            (_, _, true) => format!(
                "THE HARNESS WAS BUSY. {said_lag}{said_cpu}. Give it more cores, or spread the load over several of it"
            ),
            _ => format!("{said_lag}{said_cpu}: it was not the bottleneck"),
        };
        let was_bottleneck = held_back > 0 || late || busy;
        Self { cores_used, cores, with_pipeline, held_back, was_bottleneck, verdict }
    }
}

/// A short time for people.
fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::{Arrivals, Objective, Progress};

    #[test]
    fn processor_time_is_read_whatever_the_programs_name() {
        let stat = "1 (a) b) S 1 1 1 0 -1 0 10 0 0 0 250 50 0 0 20 0 3 0 100";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert!(Mark::now().cpu_seconds.is_some());
    }

    #[test]
    fn a_harness_that_was_late_or_held_back_says_so_loudly() {
        let judge = |lag_ms: u64, held_back| {
            let mut recorder = Recorder::new(Objective::default());
            let ms = Duration::from_millis;
            let (sent, end) = (ms(lag_ms), ms(10 + lag_ms));
            let record = Record { index: 0, scheduled: ms(0), sent, first_token: None, end, tokens: 0, answered: true };
            recorder.add(record, &Progress::default(), &Ok(()));
            let shape = Shape::Open { rate: 1.0, arrivals: Arrivals::Constant };
            Harness::judge(Mark::now(), &shape, &recorder, held_back, true)
        };
        assert!(!judge(0, 0).was_bottleneck && judge(0, 0).verdict.ends_with("it was not the bottleneck"));
        assert!(judge(20, 0).was_bottleneck && judge(20, 0).verdict.starts_with("THE HARNESS WAS LATE"));
        assert!(judge(0, 3).was_bottleneck && judge(0, 3).verdict.contains("3 waited"));
    }
}
