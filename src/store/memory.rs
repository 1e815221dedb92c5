//! A store that lives as long as its process: for tests, and, without its clock and its waiting, for simulations.

mod state;

use super::contract::{fits, following};
use super::{Entry, Following, Job, JobId, Name, Record, Store, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
pub use state::State;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// See the module. Clones share what is kept.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    started: Instant,
    /// Counts what has changed, for those who wait.
    changes: watch::Sender<u64>,
    lease: Duration,
}

/// Largest record or job: as large as a broker's by default.
const MAX_RECORD_BYTES: usize = 1 << 20;

impl MemoryStore {
    /// An empty one whose jobs are held for `lease`, and that holds so many jobs and logs.
    pub fn new(lease: Duration, max_jobs: usize) -> Self {
        let state = Arc::new(Mutex::new(State::new(max_jobs)));
        Self { state, started: Instant::now(), changes: watch::Sender::new(0), lease }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change under this lock is left half made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State, Duration) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = change(&mut self.lock(), self.now());
        self.changes.send_modify(|changes| *changes += 1);
        done
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn append(&self, log: &Name, after: u64, record: Bytes) -> Result<u64, StoreError> {
        fits(&record, MAX_RECORD_BYTES)?;
        self.change(|state, now| state.append(now, log, after, record))
    }

    async fn finish(&self, log: &Name, after: u64, record: Bytes, keep: Duration) -> Result<u64, StoreError> {
        fits(&record, MAX_RECORD_BYTES)?;
        self.change(|state, now| state.finish(now, log, after, record, keep))
    }

    async fn read(&self, log: &Name, after: u64) -> Result<Vec<Record>, StoreError> {
        Ok(self.lock().read(self.now(), log, after))
    }

    fn follow(&self, log: &Name, after: u64) -> Following {
        following(self.clone(), self.changes.subscribe(), log.clone(), after)
    }

    async fn renew(&self, log: &Name, after: u64, record: Bytes) -> Result<u64, StoreError> {
        fits(&record, MAX_RECORD_BYTES)?;
        self.change(|state, now| state.renew(now, log, after, record))
    }

    async fn logs(&self, kind: &str, after: Option<&Name>, most: usize) -> Result<Vec<(Name, Record)>, StoreError> {
        Ok(self.lock().logs(self.now(), kind, after, most))
    }

    async fn remove(&self, log: &Name) -> Result<(), StoreError> {
        self.change(|state, _| {
            state.remove(log);
            Ok(())
        })
    }

    async fn push(&self, queue: &Name, job: Bytes) -> Result<(), StoreError> {
        fits(&job, MAX_RECORD_BYTES)?;
        self.change(|state, now| state.push(now, queue, job))
    }

    async fn take(&self, queue: &Name) -> Result<Job, StoreError> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let due = match self.lock().take(self.now(), queue, self.lease) {
                Ok(job) => return Ok(job),
                Err(due) => due,
            };
            let due = async {
                match due {
                    // Not beyond what a clock can count.
                    Some(due) => sleep_until(self.started + due.min(Duration::from_secs(1 << 30))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = due => {}
            }
        }
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    async fn hold(&self, job: &JobId) -> Result<(), StoreError> {
        let lease = self.lease;
        self.change(|state, now| {
            state.due(now + lease, job);
            Ok(())
        })
    }

    async fn done(&self, job: &JobId) -> Result<(), StoreError> {
        self.change(|state, _| {
            state.done(job);
            Ok(())
        })
    }

    async fn again(&self, job: &JobId, delay: Duration) -> Result<(), StoreError> {
        self.change(|state, now| {
            state.due(now.saturating_add(delay), job);
            Ok(())
        })
    }

    async fn jobs(&self, queue: &Name) -> Result<u64, StoreError> {
        Ok(self.lock().jobs(queue))
    }

    async fn get(&self, key: &Name) -> Result<Option<Entry>, StoreError> {
        Ok(self.lock().get(self.now(), key))
    }

    async fn set(
        &self,
        key: &Name,
        revision: u64,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> Result<u64, StoreError> {
        fits(&value, MAX_RECORD_BYTES)?;
        self.change(|state, now| state.set(now, key, revision, value, lifetime))
    }

    async fn unset(&self, key: &Name, revision: u64) -> Result<(), StoreError> {
        self.change(|state, now| state.unset(now, key, revision))
    }

    async fn put_blob(&self, name: &Name, bytes: Bytes) -> Result<(), StoreError> {
        self.change(|state, _| {
            state.put_blob(name, bytes);
            Ok(())
        })
    }

    async fn blob(&self, name: &Name) -> Result<Option<Bytes>, StoreError> {
        Ok(self.lock().blob(name))
    }

    async fn remove_blob(&self, name: &Name) -> Result<(), StoreError> {
        self.change(|state, _| {
            state.remove_blob(name);
            Ok(())
        })
    }

    fn max_record_bytes(&self) -> usize {
        MAX_RECORD_BYTES
    }
}
