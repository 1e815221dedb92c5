//! Sends a scenario's requests at its target: open loop from a schedule, closed loop from its own answers.

use crate::pacer::{Due, pace};
use crate::record::{Record, Recorder};
use crate::scenario::{Amount, Scenario, Shape};
use crate::target::{Failure, Progress, Target};
use crate::workload::Workload;
use stageline_base::Fault;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a closed loop looks whether it is at its end.
const LOOK: Duration = Duration::from_millis(10);

/// How far a run is, for whoever watches it; all requests, warm-up too.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sent.
    pub sent: AtomicU64,
    /// Answered.
    pub answered: AtomicU64,
    /// Failed.
    pub failed: AtomicU64,
    /// Wakes whoever waits for the first request that counts.
    pub measuring: Notify,
    /// Cancel it to end the run now: nothing more is sent, and what is out counts as unfinished.
    pub stop: CancellationToken,
}

/// What a run came to.
#[derive(Debug)]
pub struct Driven {
    /// When it began: what all its times count from.
    pub begun: Instant,
    /// The requests that count.
    pub recorder: Recorder,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// Requests that waited in the harness since `max_outstanding` were out.
    pub held_back: u64,
}

/// Runs `scenario` to its end.
///
/// # Errors
/// If the pacer's thread cannot start.
pub async fn drive(
    scenario: &Scenario,
    target: Arc<dyn Target>,
    workload: Arc<Workload>,
    tally: Arc<Tally>,
) -> Result<Driven, Fault> {
    let run = Arc::new(Run {
        target,
        workload,
        stop: tally.stop.child_token(),
        tally,
        recorder: Mutex::new(Recorder::new(scenario.objective)),
        begun: Instant::now(),
    });
    let held_back = match &scenario.shape {
        Shape::Closed { concurrency } => {
            closed_loop(&run, scenario, *concurrency).await;
            0
        }
        Shape::Open { .. } | Shape::Replay { .. } => open_loop(&run, scenario).await?,
    };
    let recorder = run.recorder.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Driven { begun: run.begun, recorder, interrupted: run.tally.stop.is_cancelled(), held_back })
}

struct Run {
    target: Arc<dyn Target>,
    workload: Arc<Workload>,
    tally: Arc<Tally>,
    recorder: Mutex<Recorder>,
    begun: Instant,
    /// Ends what is still out when the drain is over.
    stop: CancellationToken,
}

impl Run {
    /// Sends the request that is `due` and records what becomes of it.
    async fn request(&self, due: Due) {
        if due.measured {
            self.tally.measuring.notify_one();
        }
        let ask = self.workload.ask(due.index);
        let mut progress = Progress::default();
        let sent = Instant::now();
        self.tally.sent.fetch_add(1, Relaxed);
        let outcome = tokio::select! {
            // Stop first: what was still waiting when the drain ended is not sent any more.
            biased;
            () = self.stop.cancelled() => Err(Failure::new("unfinished", "no answer by the end of the run and its drain (--drain)")),
            outcome = self.target.send(&ask, &mut progress) => outcome,
        };
        let end = progress.end().unwrap_or_else(Instant::now);
        let counter = if outcome.is_ok() { &self.tally.answered } else { &self.tally.failed };
        counter.fetch_add(1, Relaxed);
        if !due.measured {
            return;
        }
        let since = |at: Instant| at.saturating_duration_since(self.begun);
        let record = Record {
            index: due.index,
            scheduled: due.at,
            sent: since(sent),
            first_token: progress.first().map(since),
            end: since(end),
            tokens: progress.counts().0,
            answered: outcome.is_ok(),
        };
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.add(record, &progress, &outcome);
    }

    /// Ends what is out `drain` after `ended` resolves.
    async fn end_after(self: Arc<Self>, ended: impl Future<Output = ()>, drain: Duration) {
        ended.await;
        tokio::time::sleep(drain).await;
        self.stop.cancel();
    }
}

async fn open_loop(run: &Arc<Run>, scenario: &Scenario) -> Result<u64, Fault> {
    let (mut due, ended) = schedule(run, scenario)?;
    let ended = async {
        // An error says that the pacer has gone, which is an end too.
        let _ = ended.await;
    };
    let watchdog = tokio::spawn(run.clone().end_after(ended, scenario.drain));
    let room = Arc::new(Semaphore::new(scenario.max_outstanding as usize));
    let tasks = TaskTracker::new();
    let mut held_back = 0;
    loop {
        let due = tokio::select! {
            due = due.recv() => due,
            () = run.tally.stop.cancelled() => None,
        };
        let Some(due) = due else { break };
        held_back += u64::from(room.available_permits() == 0);
        let permit = tokio::select! {
            permit = room.clone().acquire_owned() => permit.ok(),
            () = run.stop.cancelled() => None,
        };
        let run = run.clone();
        tasks.spawn(async move {
            run.request(due).await;
            drop(permit);
        });
    }
    // With it the pacer ends, if it was not at its end.
    drop(due);
    tasks.close();
    tasks.wait().await;
    watchdog.abort();
    Ok(held_back)
}

type Schedule = (tokio::sync::mpsc::Receiver<Due>, oneshot::Receiver<()>);

/// The requests as they become due.
fn schedule(run: &Run, scenario: &Scenario) -> Result<Schedule, Fault> {
    let times: Box<dyn Iterator<Item = Duration> + Send> = match scenario.shape {
        Shape::Open { rate, arrivals } => Box::new(arrivals.times(rate, scenario.seed)),
        _ => {
            let at: Vec<Duration> = run.workload.replayed().iter().map(|line| line.at).collect();
            Box::new(at.into_iter())
        }
    };
    let mut part = Part::of(scenario);
    let due = (0..).zip(times).map_while(move |(index, at)| {
        let measured = part.place(index, at)?;
        Some(Due { index, at, measured })
    });
    pace(run.begun, due)
}

async fn closed_loop(run: &Arc<Run>, scenario: &Scenario, concurrency: u32) {
    let next = Arc::new(Mutex::new((0_u64, Part::of(scenario))));
    let ended = all_sent(run.clone(), next.clone());
    let watchdog = tokio::spawn(run.clone().end_after(ended, scenario.drain));
    let tasks = TaskTracker::new();
    for _ in 0..concurrency {
        let (run, next) = (run.clone(), next.clone());
        tasks.spawn(async move {
            while !run.stop.is_cancelled() {
                let due = {
                    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                    let (index, at) = (next.0, run.begun.elapsed());
                    next.0 += 1;
                    next.1.place(index, at).map(|measured| Due { index, at, measured })
                };
                match due {
                    Some(due) => run.request(due).await,
                    None => break,
                }
            }
        });
    }
    tasks.close();
    tasks.wait().await;
    watchdog.abort();
}

/// Resolves when no request is left to be sent in a closed loop. It looks now and then: if no answer comes, nobody asks for
/// the next request.
async fn all_sent(run: Arc<Run>, next: Arc<Mutex<(u64, Part)>>) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let (index, mut part) = *next.lock().unwrap_or_else(PoisonError::into_inner);
        if part.place(index, run.begun.elapsed()).is_none() {
            return;
        }
    }
}

/// Which part of a run a request belongs to.
#[derive(Clone, Copy, Debug)]
struct Part {
    warm_up: Amount,
    amount: Option<Amount>,
    /// Number and time of the first request that counts.
    from: Option<(u64, Duration)>,
}

impl Part {
    fn of(scenario: &Scenario) -> Self {
        Self { warm_up: scenario.warm_up, amount: scenario.amount, from: None }
    }

    /// Whether the next request, this one, counts; `None` if the run is over.
    fn place(&mut self, index: u64, at: Duration) -> Option<bool> {
        if self.from.is_none() && self.warm_up.covers(index, at) {
            return Some(false);
        }
        let begin = match self.warm_up {
            Amount::Requests(0) => Duration::ZERO,
            Amount::Requests(_) => at,
            // From the end of the warm-up, not from the first request after it: the time asked for is whole.
            Amount::Time(time) => time,
        };
        let (first, begin) = *self.from.get_or_insert((index, begin));
        let covered = self.amount.is_none_or(|amount| amount.covers(index - first, at.saturating_sub(begin)));
        covered.then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(warm_up: Amount, amount: Option<Amount>, count: u64) -> Vec<Option<bool>> {
        let mut part = Part { warm_up, amount, from: None };
        (0..count).map(|index| part.place(index, Duration::from_secs(index))).collect()
    }

    #[test]
    fn warm_up_comes_first_and_does_not_count() {
        let (no, yes, over) = (Some(false), Some(true), None);
        let seconds = |n| Amount::Time(Duration::from_secs(n));
        assert_eq!(places(Amount::Requests(1), Some(Amount::Requests(2)), 4), [no, yes, yes, over]);
        assert_eq!(places(seconds(2), Some(Amount::Requests(1)), 4), [no, no, yes, over]);
        assert_eq!(places(Amount::Requests(1), Some(seconds(2)), 4), [no, yes, yes, over]);
        assert_eq!(places(seconds(1), Some(seconds(2)), 4), [no, yes, yes, over]);
        assert_eq!(places(Amount::Requests(0), None, 2), [yes, yes]);
        let mut late = Part { warm_up: Amount::Requests(0), amount: Some(seconds(2)), from: None };
        let at = |seconds| Duration::from_secs_f64(seconds);
        assert_eq!((late.place(0, at(1.5)), late.place(1, at(2.5))), (yes, over), "the time begins with the run");
    }
}
