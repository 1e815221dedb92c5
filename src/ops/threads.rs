//! The threads that a batch is spread over.
//!
//! A batch of one row is a few hundred operations of some ten microseconds each, so what it costs to begin and to end one on
//! all threads decides the speed. While a batch runs the helpers stay awake and look for work; between batches they sleep.

mod team;

use stageline_base::Fault;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use team::Team;

/// Pieces a thread that a slice of rows is cut into, so that a slow thread holds nobody up for long.
const PIECES: usize = 4;

/// A process's thread budget: made once, shared by all its stages.
///
/// Which thread does what never changes a result: every output row (or block of columns) is calculated whole by one.
#[derive(Clone, Debug)]
pub struct Threads(Option<Arc<Team>>);

thread_local! {
    /// The team that works for this thread, inside [`Threads::run`].
    static TEAM: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

impl Threads {
    /// `count` threads, the caller's of [`Threads::run`] included. With one, everything runs on that.
    ///
    /// # Errors
    /// `InvalidRequest` for none; `Unavailable` if the system refuses to start them.
    pub fn new(count: usize) -> Result<Self, Fault> {
        match count {
            0 => Err(Fault::invalid("0 threads cannot run a model; give at least 1")),
            1 => Ok(Self(None)),
            _ => Team::start(count - 1).map(|team| Self(Some(Arc::new(team)))).map_err(|e| {
                let message = format!("cannot start {count} compute threads: {e}");
                Fault::new(stageline_base::FaultClass::Unavailable, message)
            }),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |team| team.helpers() + 1)
    }

    /// Runs `work` on the caller's thread, with the others at hand for `share`. Two callers at once take turns.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let at_work = TEAM.with_borrow(Option::is_some);
        let Some(team) = self.0.as_ref().filter(|_| !at_work) else { return work() };
        let _awake = team.wake();
        TEAM.set(Some(team.clone()));
        let _own = OnDrop(|| TEAM.set(None));
        work()
    }
}

/// Calls a function when it goes, however the scope ends.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// How many threads a `share` from here would use. A task's own `share` uses none but its own.
fn at_hand() -> usize {
    TEAM.with_borrow(|team| team.as_ref().map_or(1, |team| team.helpers() + 1))
}

/// Calls `task(0)` … `task(count - 1)`, each once, on the threads of the [`Threads::run`] that this is called from, or on
/// the caller's alone. A thread takes the next task when it is done with one, so a slow thread holds nobody up.
///
/// # Panics
/// If a task does; only when all that were begun have ended.
pub fn share(count: usize, task: impl Fn(usize) + Sync) {
    let team = if count > 1 { TEAM.take() } else { None };
    let Some(team) = team else { return (0..count).for_each(task) };
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            task(i);
        }
    };
    // Taken for as long as the tasks run, so that one of them on this thread finds no team, as one on a helper does not.
    let back = Some(team.clone());
    let _back = OnDrop(|| TEAM.set(back.clone()));
    team.all(&work);
}

/// As `share`, and gives what the tasks gave, in order.
pub fn share_map<T: Send + Sync>(count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    share(count, |i| {
        let _ = results[i].set(task(i));
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// Calls `task(first row, rows)` for pieces of `rows` rows of `width` numbers; `least` rows are the fewest worth a thread.
pub fn share_rows(rows: &mut [f32], width: usize, least: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let count = rows.len() / width.max(1);
    let pieces = (count / least.max(1)).min(at_hand() * PIECES);
    if pieces <= 1 || at_hand() == 1 {
        task(0, rows);
        return;
    }
    let piece = count.div_ceil(pieces);
    let pieces: Vec<_> = rows.chunks_mut(piece * width).map(Mutex::new).collect();
    share(pieces.len(), |i| {
        let mut rows = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
        task(i * piece, &mut rows);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_and_every_row_is_done_once() {
        for threads in [1, 2, 3] {
            let threads = Threads::new(threads).expect("starts");
            for _ in 0..100 {
                let done: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
                let mut rows = vec![0f32; 37 * 5];
                threads.run(|| {
                    share(100, |i| {
                        done[i].fetch_add(1, Ordering::Relaxed);
                    });
                    share_rows(&mut rows, 5, 4, |first, piece| {
                        for (i, row) in piece.chunks_exact_mut(5).enumerate() {
                            row.iter_mut().for_each(|v| *v += (first + i) as f32 + 1.0);
                        }
                    });
                });
                assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                assert_eq!(share_map(9, |i| i * i), [0, 1, 4, 9, 16, 25, 36, 49, 64]);
                assert!(rows.iter().enumerate().all(|(i, v)| *v == (i / 5) as f32 + 1.0));
            }
        }
        assert!(Threads::new(0).is_err());
    }

    #[test]
    fn every_thread_takes_part() {
        let threads = Threads::new(3).expect("starts");
        // Each task waits for the two others, so one thread alone would never end.
        let all_here = std::sync::Barrier::new(3);
        let names = threads.run(|| {
            share_map(3, |_| {
                all_here.wait();
                std::thread::current().name().map(str::to_owned)
            })
        });
        let mut names: Vec<_> = names.into_iter().flatten().filter(|name| name.starts_with("maths-")).collect();
        names.sort();
        assert_eq!(names, ["maths-1", "maths-2"]);
    }

    #[test]
    fn tasks_may_share_again_and_batches_of_two_threads_take_turns() {
        let threads = Threads::new(2).expect("starts");
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        threads.run(|| {
                            let count = |i| {
                                sum.fetch_add(i, Ordering::Relaxed);
                            };
                            threads.run(|| share(4, |_| share(4, count)));
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 2 * 200 * 4 * 6);
    }

    #[test]
    fn a_task_that_panics_ends_the_batch_and_no_more() {
        let threads = Threads::new(2).expect("starts");
        for failing in [0, 7, 99] {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                threads.run(|| share(100, |i| assert_ne!(i, failing)));
            }));
            assert!(outcome.is_err());
            let done = threads.run(|| share_map(100, |i| i));
            assert_eq!(done, (0..100).collect::<Vec<_>>());
        }
    }
}
