//! Hands requests over when they are due, from a thread of its own: tokio's timer knows milliseconds only, and a busy
//! runtime would be late.

use stageline_base::{Fault, FaultClass};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Requests that are handed over and not taken yet. When it is full the pacer waits; the schedule does not.
const HANDED_OVER: usize = 65_536;
/// The kernel may wake a thread this much late (its timer slack is 50 µs): so the last of each wait is spent yielding.
const SLACK: Duration = Duration::from_micros(70);

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its number.
    pub index: u64,
    /// When, since the start.
    pub at: Duration,
    /// Whether it counts; warm-up does not.
    pub measured: bool,
}

/// Waits until `due`, to a few microseconds.
pub fn wait_until(due: Instant) {
    loop {
        match due.checked_duration_since(Instant::now()) {
            None | Some(Duration::ZERO) => return,
            Some(left) if left > SLACK => std::thread::sleep(left - SLACK),
            // Not a spin: whoever serves the request may need this core.
            Some(_) => std::thread::yield_now(),
        }
    }
}

/// Starts a thread that hands over what is `due`, in order, each at its time after `begun`. The second value resolves when
/// the schedule is at its end. The thread also ends when the first is dropped.
///
/// # Errors
/// If no thread can be started.
pub fn pace(
    begun: Instant,
    due: impl Iterator<Item = Due> + Send + 'static,
) -> Result<(mpsc::Receiver<Due>, oneshot::Receiver<()>), Fault> {
    let (sender, receiver) = mpsc::channel(HANDED_OVER);
    let (ended, end) = oneshot::channel();
    let run = move || {
        for due in due {
            // An absolute time: a hand-over that was late makes no later one later.
            wait_until(begun + due.at);
            if sender.blocking_send(due).is_err() {
                return;
            }
        }
        // Whoever has gone does not wait for the end.
        let _ = ended.send(());
    };
    let started = std::thread::Builder::new().name("pacer".into()).spawn(run);
    started
        .map_err(|error| Fault::new(FaultClass::Unavailable, format!("the pacer's thread cannot start: {error}")))?;
    Ok((receiver, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_is_handed_over_in_order_and_never_early() {
        let begun = Instant::now();
        let schedule = (0..50).map(|index| Due { index, at: Duration::from_micros(index * 300), measured: true });
        let (mut receiver, end) = pace(begun, schedule).unwrap();
        for index in 0..50 {
            let due = receiver.recv().await.unwrap();
            assert!(due.index == index && begun.elapsed() >= due.at, "{due:?} at {:?}", begun.elapsed());
        }
        assert_eq!(receiver.recv().await, None);
        end.await.unwrap();
    }

    #[tokio::test]
    async fn a_consumer_that_leaves_ends_it() {
        let endless = (0..).map(|index| Due { index, at: Duration::ZERO, measured: true });
        let (receiver, end) = pace(Instant::now(), endless).unwrap();
        drop(receiver);
        assert!(end.await.is_err());
    }
}
