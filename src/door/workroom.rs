//! Where texts and bodies are worked on beside the tasks that carry messages: two threads and a bounded queue.
//!
//! The smallest piece of work is begun first, and one of the threads takes only short ones: a short text never waits for a
//! long one to be done. Work that nobody waits for any more (its client has left, its deadline has passed) is not begun.

use stageline_base::{Fault, FaultClass};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

mod trim;

/// Work on at most so many bytes is short: some milliseconds.
pub(crate) const SHORT_BYTES: usize = 16 << 10;
/// Most pieces of work that wait.
const MOST_WAITING: usize = 4096;
/// Work on more bytes than this leaves memory behind that is worth giving back to the system.
const TRIM_BYTES: usize = 256 << 10;
/// How long there must be no long work before memory is given back: what it left is freed by then.
const TRIM_AFTER: Duration = Duration::from_secs(2);

/// Says whether anybody still waits for the outcome, and does the work.
type Job = (Box<dyn Fn() -> bool + Send>, Box<dyn FnOnce() + Send>);

/// See the module. Dropped, it ends what runs and begins no more.
#[derive(Debug)]
pub struct Workroom {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    /// By bytes, then by order of arrival.
    waiting: BTreeMap<(usize, u64), Job>,
    arrived: u64,
    closed: bool,
    started: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.lock().waiting.len()).finish()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Workroom {
    fn default() -> Self {
        Self::new()
    }
}

impl Workroom {
    /// One without work. Its threads begin with the first piece.
    pub fn new() -> Self {
        Self { queue: Arc::default() }
    }

    /// What `work` makes of its `bytes` of input. Dropped before the work has begun, it is not done.
    ///
    /// # Errors
    /// `Overloaded` if too much waits already, `Internal` if the work panics or the room closes.
    pub async fn done<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (outcome, awaited) = oneshot::channel();
        let outcome = Arc::new(Mutex::new(Some(outcome)));
        let take =
            |slot: &Mutex<Option<oneshot::Sender<T>>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let slot = Arc::clone(&outcome);
        let wanted = move || {
            let slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref().is_some_and(|outcome| !outcome.is_closed())
        };
        let job: Job = (
            Box::new(wanted),
            Box::new(move || {
                let Some(outcome) = take(&outcome) else { return };
                // The outcome is dropped with what broke: whoever waits is told by that.
                if let Ok(made) = catch_unwind(AssertUnwindSafe(work)) {
                    let _ = outcome.send(made);
                }
            }),
        );
        self.add(bytes, job)?;
        awaited.await.map_err(|_| Fault::internal("the text could not be worked on: see the log"))
    }

    fn add(&self, bytes: usize, job: Job) -> Result<(), Fault> {
        let mut state = self.queue.lock();
        if state.waiting.len() >= MOST_WAITING {
            state.waiting.retain(|_, (wanted, _)| wanted());
        }
        if state.waiting.len() >= MOST_WAITING {
            return Err(Fault::new(FaultClass::Overloaded, format!("{MOST_WAITING} texts wait to be read already")));
        }
        if !state.started {
            for longest in [SHORT_BYTES, usize::MAX] {
                let queue = Arc::clone(&self.queue);
                let thread = std::thread::Builder::new().name("texts".into());
                let spawned = thread.spawn(move || serve(&queue, longest));
                spawned.map_err(|e| Fault::new(FaultClass::Overloaded, format!("no thread can be started: {e}")))?;
            }
            state.started = true;
        }
        state.arrived += 1;
        let number = state.arrived;
        state.waiting.insert((bytes, number), job);
        drop(state);
        // Both: one of them may not take it.
        self.queue.more.notify_all();
        Ok(())
    }
}

impl Drop for Workroom {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.queue.more.notify_all();
    }
}

/// Does work on at most `longest` bytes until the room closes.
fn serve(queue: &Queue, longest: usize) {
    let mut untidy = false;
    let mut state = queue.lock();
    loop {
        if state.closed {
            return;
        }
        match state.waiting.first_entry() {
            Some(first) if first.key().0 <= longest => {
                let ((bytes, _), (wanted, work)) = first.remove_entry();
                drop(state);
                if wanted() {
                    work();
                    untidy |= bytes > TRIM_BYTES;
                }
                state = queue.lock();
            }
            _ if untidy => {
                let (woken, timeout) =
                    queue.more.wait_timeout(state, TRIM_AFTER).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                if timeout.timed_out() {
                    drop(state);
                    trim::trim();
                    untidy = false;
                    state = queue.lock();
                }
            }
            _ => state = queue.more.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests;
