//! A store in a file of this process: SQLite, one connection, on a thread of its own.
//!
//! What is asked meanwhile is done in one transaction and answered when that is committed, so a hundred appends cost a write of
//! the disk, not a hundred.

mod open;
mod tables;
mod worker;

use super::contract::{fits, following};
use super::{Entry, Following, Job, JobId, Name, Record, Store, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::Connection;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tables::Place;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use worker::Worker;

/// When what is committed is on the disk itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// Before it is answered: nothing is lost with the power.
    EachCommit,
    /// Every second: with the power the last second may be lost, with the process nothing.
    #[default]
    EverySecond,
}

/// What a file may hold, and how it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// When it is on the disk.
    pub flush: Flush,
    /// How long a job is its taker's.
    pub lease: Duration,
    /// Most jobs of a queue.
    pub max_jobs: u64,
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// Blobs that are older are let go of.
    pub blob_age: Duration,
}

impl Default for FileSettings {
    fn default() -> Self {
        Self {
            flush: Flush::default(),
            lease: Duration::from_secs(3),
            max_jobs: 100_000,
            max_bytes: 64 << 30,
            blob_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Largest record or job: SQLite takes far more, but it is read as a whole.
const MAX_RECORD_BYTES: usize = 8 << 20;
/// Between two looks at what is over, and at most between two writes of the disk.
const SWEEP: Duration = Duration::from_secs(1);

/// See the module. Clones share the file; with the last one it is closed.
#[derive(Clone, Debug)]
pub struct FileStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    settings: FileSettings,
    worker: Worker,
    /// Those who wait for records of a log, told the last position.
    followed: Arc<Followed>,
    /// Those who wait for jobs of a queue.
    queues: Mutex<HashMap<Name, Arc<Notify>>>,
}

#[derive(Debug, Default)]
struct Followed {
    logs: Mutex<HashMap<Name, watch::Sender<u64>>>,
}

impl Followed {
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, watch::Sender<u64>>> {
        // Nothing under this lock can leave the table half changed, so a panic elsewhere does not spoil it.
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self, log: &Name) -> watch::Receiver<u64> {
        self.lock().entry(log.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Forgets those whom nobody follows any more.
    fn prune(&self) {
        self.lock().retain(|_, sender| !sender.is_closed());
    }

    fn tell(&self, log: &Name, position: u64) {
        if let Some(sender) = self.lock().get(log) {
            sender.send_replace(position);
        }
    }
}

/// Milliseconds since 1970: what is to outlive a process cannot count from its start.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Milliseconds of it, and no more than can be added to any time.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 60)
}

impl FileStore {
    /// Opens the store at `path`, and makes it if there is none. Must be called where a tokio runtime runs.
    ///
    /// # Errors
    /// The file is another process' store, damaged, of a later version, or no store at all; or it cannot be written.
    pub fn open(path: &Path, settings: FileSettings) -> Result<Self, StoreError> {
        let (connection, lock) = open::open(path, &settings)?;
        let worker = Worker::start(path, connection, lock);
        let shared = Shared {
            path: path.to_owned(),
            settings: settings.clone(),
            worker,
            followed: Arc::default(),
            queues: Mutex::default(),
        };
        let store = Self { shared: Arc::new(shared) };
        let (swept, age) = (Arc::downgrade(&store.shared), settings.blob_age);
        tokio::spawn(async move {
            loop {
                sleep(SWEEP).await;
                let Some(shared) = swept.upgrade() else { return };
                let now = now();
                shared.followed.prune();
                let swept = shared.worker.run(move |file| tables::sweep(file, now, now.saturating_sub(millis(age))));
                let flushed = shared.worker.flush();
                if let Err(error) = swept.await.and(flushed.await) {
                    tracing::warn!(store = %shared.path.display(), %error, "what is over cannot be let go of");
                }
            }
        });
        Ok(store)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.worker.run(work).await
    }

    fn notify(&self, queue: &Name) -> Arc<Notify> {
        let mut queues = self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.entry(queue.clone()).or_default().clone()
    }

    async fn write(&self, log: &Name, after: u64, record: Bytes, place: Place) -> Result<u64, StoreError> {
        fits(&record, MAX_RECORD_BYTES)?;
        let (log, followed) = (log.clone(), self.shared.followed.clone());
        let told = log.clone();
        let work = move |file: &Connection| tables::append(file, now(), &log, after, &record, place);
        let tell = move |position: &u64| followed.tell(&told, *position);
        self.shared.worker.run_then(work, tell).await
    }
}

#[async_trait]
impl Store for FileStore {
    async fn append(&self, log: &Name, after: u64, record: Bytes) -> Result<u64, StoreError> {
        self.write(log, after, record, Place::Behind).await
    }

    async fn finish(&self, log: &Name, after: u64, record: Bytes, keep: Duration) -> Result<u64, StoreError> {
        self.write(log, after, record, Place::Instead(Some(millis(keep)))).await
    }

    async fn renew(&self, log: &Name, after: u64, record: Bytes) -> Result<u64, StoreError> {
        self.write(log, after, record, Place::Instead(None)).await
    }

    async fn read(&self, log: &Name, after: u64) -> Result<Vec<Record>, StoreError> {
        let log = log.clone();
        self.run(move |file| tables::read(file, now(), &log, after)).await
    }

    fn follow(&self, log: &Name, after: u64) -> Following {
        following(self.clone(), self.shared.followed.subscribe(log), log.clone(), after)
    }

    async fn logs(&self, kind: &str, after: Option<&Name>, most: usize) -> Result<Vec<(Name, Record)>, StoreError> {
        // A dot is the least that stands behind a kind.
        let after = after.map_or(format!("{kind}."), Name::to_string);
        let kind = kind.to_owned();
        self.run(move |file| tables::logs(file, now(), (&kind, &after, most))).await
    }

    async fn remove(&self, log: &Name) -> Result<(), StoreError> {
        let log = log.clone();
        self.run(move |file| tables::remove(file, &log)).await
    }

    async fn push(&self, queue: &Name, job: Bytes) -> Result<(), StoreError> {
        fits(&job, MAX_RECORD_BYTES)?;
        let (name, most, waiting) = (queue.clone(), self.shared.settings.max_jobs, self.notify(queue));
        let work = move |file: &Connection| tables::push(file, now(), &name, &job, most);
        self.shared.worker.run_then(work, move |()| waiting.notify_one()).await
    }

    async fn take(&self, queue: &Name) -> Result<Job, StoreError> {
        let waiting = self.notify(queue);
        loop {
            let (name, lease) = (queue.clone(), millis(self.shared.settings.lease));
            let taken = self.run(move |file| tables::take(file, now(), &name, lease)).await?;
            let due = match taken {
                tables::Taken::Job(job) => {
                    // Jobs that came at once are told to one who waits: that one tells the next.
                    waiting.notify_one();
                    return Ok(job);
                }
                tables::Taken::DueAt(due) => Duration::from_millis(due.saturating_sub(now()) + 1),
                tables::Taken::Nothing => Duration::MAX,
            };
            // At the latest after a lease: a job that was taken meanwhile may be free again then.
            tokio::select! {
                () = waiting.notified() => {}
                () = sleep(due.min(self.shared.settings.lease)) => {}
            }
        }
    }

    fn lease(&self) -> Duration {
        self.shared.settings.lease
    }

    async fn hold(&self, job: &JobId) -> Result<(), StoreError> {
        let (job, lease) = (job.clone(), millis(self.shared.settings.lease));
        self.run(move |file| tables::due(file, &job, now() + lease)).await
    }

    async fn done(&self, job: &JobId) -> Result<(), StoreError> {
        let job = job.clone();
        self.run(move |file| tables::done(file, &job)).await
    }

    async fn again(&self, job: &JobId, delay: Duration) -> Result<(), StoreError> {
        let (job_id, delay) = (job.clone(), millis(delay));
        self.run(move |file| tables::due(file, &job_id, now() + delay)).await?;
        if let Some((queue, ..)) = job.parts() {
            self.notify(&queue).notify_one();
        }
        Ok(())
    }

    async fn jobs(&self, queue: &Name) -> Result<u64, StoreError> {
        let queue = queue.clone();
        self.run(move |file| tables::jobs(file, &queue)).await
    }

    async fn get(&self, key: &Name) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.run(move |file| tables::get(file, now(), &key)).await
    }

    async fn set(
        &self,
        key: &Name,
        revision: u64,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> Result<u64, StoreError> {
        fits(&value, MAX_RECORD_BYTES)?;
        let key = key.clone();
        self.run(move |file| tables::set(file, now(), &key, revision, &value, lifetime.map(millis))).await
    }

    async fn unset(&self, key: &Name, revision: u64) -> Result<(), StoreError> {
        let key = key.clone();
        self.run(move |file| tables::unset(file, now(), &key, revision)).await
    }

    async fn put_blob(&self, name: &Name, bytes: Bytes) -> Result<(), StoreError> {
        let name = name.clone();
        self.run(move |file| tables::put_blob(file, now(), &name, &bytes)).await
    }

    async fn blob(&self, name: &Name) -> Result<Option<Bytes>, StoreError> {
        let name = name.clone();
        self.run(move |file| tables::blob(file, &name)).await
    }

    async fn remove_blob(&self, name: &Name) -> Result<(), StoreError> {
        let name = name.clone();
        self.run(move |file| tables::remove_blob(file, &name)).await
    }

    fn max_record_bytes(&self) -> usize {
        MAX_RECORD_BYTES
    }
}
