//! The threads that a batch is spread over.

use crate::base::Fault;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// A process's thread budget: made once, shared by all its stages.
///
/// Which thread does what never changes a result: every output row (or block of columns) is calculated whole by one.
#[derive(Clone, Debug)]
pub struct Threads(Option<Arc<rayon::ThreadPool>>);

impl Threads {
    /// `count` threads. With one, everything runs on the caller's.
    ///
    /// # Errors
    /// `InvalidRequest` for none; `Unavailable` if the system refuses to start them.
    pub fn new(count: usize) -> Result<Self, Fault> {
        match count {
            0 => Err(Fault::invalid("0 threads cannot run a model; give at least 1")),
            1 => Ok(Self(None)),
            _ => rayon::ThreadPoolBuilder::new()
                .num_threads(count)
                .thread_name(|i| format!("maths-{i}"))
                .build()
                .map(|pool| Self(Some(Arc::new(pool))))
                .map_err(|e| {
                    let message = format!("cannot start {count} compute threads: {e}");
                    Fault::new(crate::base::FaultClass::Unavailable, message)
                }),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |pool| pool.current_num_threads())
    }

    /// Runs `work` on one of them, with the others at hand for `share`.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

/// Calls `task(0)` … `task(count - 1)`, each once, on the threads of the [`Threads::run`] that this is called from, or on
/// the caller's alone. A thread takes the next task when it is done with one, so a slow thread holds nobody up.
pub fn share(count: usize, task: impl Fn(usize) + Sync) {
    let threads = if rayon::current_thread_index().is_some() { rayon::current_num_threads().min(count) } else { 1 };
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
    spread(threads, &work);
}

/// As `share`, and gives what the tasks gave, in order.
pub fn share_map<T: Send + Sync>(count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    share(count, |i| {
        let _ = results[i].set(task(i));
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

fn spread(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        work();
    } else {
        rayon::join(work, || spread(threads - 1, work));
    }
}

/// Calls `task(first row, rows)` for pieces of `rows` rows of `width` numbers; `least` rows are the fewest worth a thread.
pub fn share_rows(rows: &mut [f32], width: usize, least: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let count = rows.len() / width.max(1);
    if count <= least || rayon::current_thread_index().is_none() {
        task(0, rows);
        return;
    }
    halve(0, rows, width, least, &task);
}

fn halve(first: usize, rows: &mut [f32], width: usize, least: usize, task: &(impl Fn(usize, &mut [f32]) + Sync)) {
    let count = rows.len() / width;
    if count <= least {
        task(first, rows);
        return;
    }
    let (top, bottom) = rows.split_at_mut(count / 2 * width);
    rayon::join(|| halve(first, top, width, least, task), || halve(first + count / 2, bottom, width, least, task));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_and_every_row_is_done_once() {
        for threads in [1, 2, 3] {
            let done: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            let mut rows = vec![0f32; 37 * 5];
            Threads::new(threads).expect("starts").run(|| {
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
        assert!(Threads::new(0).is_err());
    }
}
