//! What a [`super::MemoryStore`] keeps, with the time as an argument.

use crate::{Entry, Job, JobId, Name, Record, StoreError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that is kept. Times count from when whoever holds it likes.
#[derive(Debug, Default)]
pub struct State {
    /// The last position, revision or job that was given: one count for all, so that none comes twice.
    last: u64,
    max_jobs: usize,
    /// Whether what is said of a job counts whoever says it, as at a broker.
    lenient: bool,
    logs: BTreeMap<Name, Log>,
    queues: BTreeMap<Name, BTreeMap<u64, Held>>,
    keys: BTreeMap<Name, (Entry, Option<Duration>)>,
    blobs: BTreeMap<Name, Bytes>,
}

#[derive(Debug, Default)]
struct Log {
    records: Vec<Record>,
    gone_at: Option<Duration>,
}

#[derive(Debug)]
struct Held {
    bytes: Bytes,
    deliveries: u32,
    due: Duration,
}

fn is_over(gone_at: Option<Duration>, now: Duration) -> bool {
    gone_at.is_some_and(|at| at <= now)
}

impl State {
    /// With room for so many jobs a queue.
    pub fn new(max_jobs: usize) -> Self {
        Self { max_jobs, ..Self::default() }
    }

    /// As careless as the contract allows: whatever is said of a job counts, though another has taken it since.
    pub fn lenient(max_jobs: usize) -> Self {
        Self { lenient: true, ..Self::new(max_jobs) }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// See [`crate::Store::append`].
    pub fn append(&mut self, now: Duration, log: &Name, after: u64, bytes: Bytes) -> Result<u64, StoreError> {
        self.ends_at(now, log, after)?;
        let position = self.next();
        self.logs.entry(log.clone()).or_default().records.push(Record { position, bytes });
        Ok(position)
    }

    /// See [`crate::Store::finish`].
    pub fn finish(
        &mut self,
        now: Duration,
        log: &Name,
        after: u64,
        bytes: Bytes,
        keep: Duration,
    ) -> Result<u64, StoreError> {
        self.ends_at(now, log, after)?;
        let position = self.next();
        let records = vec![Record { position, bytes }];
        self.logs.insert(log.clone(), Log { records, gone_at: Some(now.saturating_add(keep)) });
        Ok(position)
    }

    /// Checks that the log ends there; one that is over is none.
    fn ends_at(&mut self, now: Duration, log: &Name, after: u64) -> Result<(), StoreError> {
        if self.logs.get(log).is_some_and(|log| is_over(log.gone_at, now)) {
            self.logs.remove(log);
        }
        let last = self.logs.get(log).and_then(|log| log.records.last()).map_or(0, |record| record.position);
        if last == after { Ok(()) } else { Err(StoreError::Conflict { last }) }
    }

    /// See [`crate::Store::read`].
    pub fn read(&self, now: Duration, log: &Name, after: u64) -> Vec<Record> {
        let records = self.logs.get(log).filter(|log| !is_over(log.gone_at, now)).map(|log| &log.records[..]);
        records.unwrap_or_default().iter().filter(|record| record.position > after).cloned().collect()
    }

    /// See [`crate::Store::logs`].
    pub fn logs(&self, now: Duration, kind: &str, after: Option<&Name>, most: usize) -> Vec<(Name, Record)> {
        let of_kind = self.logs.iter().filter(|(name, log)| name.kind() == kind && !is_over(log.gone_at, now));
        let of_kind = of_kind.filter(|(name, _)| after.is_none_or(|after| *name > after)).take(most);
        of_kind.filter_map(|(name, log)| Some((name.clone(), log.records.last()?.clone()))).collect()
    }

    /// See [`crate::Store::renew`].
    ///
    /// # Errors
    /// As there.
    pub fn renew(&mut self, now: Duration, log: &Name, after: u64, bytes: Bytes) -> Result<u64, StoreError> {
        self.ends_at(now, log, after)?;
        let position = self.next();
        self.logs.insert(log.clone(), Log { records: vec![Record { position, bytes }], gone_at: None });
        Ok(position)
    }

    /// See [`crate::Store::remove`].
    pub fn remove(&mut self, log: &Name) {
        self.logs.remove(log);
    }

    /// See [`crate::Store::push`].
    pub fn push(&mut self, now: Duration, queue: &Name, bytes: Bytes) -> Result<(), StoreError> {
        let id = self.next();
        let jobs = self.queues.entry(queue.clone()).or_default();
        if jobs.len() >= self.max_jobs {
            return Err(StoreError::Crowded { most: self.max_jobs as u64 });
        }
        jobs.insert(id, Held { bytes, deliveries: 0, due: now });
        Ok(())
    }

    /// The job that has waited longest, or when there will be one.
    pub fn take(&mut self, now: Duration, queue: &Name, lease: Duration) -> Result<Job, Option<Duration>> {
        let jobs = self.queues.entry(queue.clone()).or_default();
        let Some((id, job)) = jobs.iter_mut().min_by_key(|(id, job)| (job.due, **id)) else { return Err(None) };
        if job.due > now {
            return Err(Some(job.due));
        }
        job.due = now + lease;
        job.deliveries += 1;
        let number = *id;
        let id = JobId::new(queue, number, job.deliveries);
        Ok(Job { id, number, bytes: job.bytes.clone(), deliveries: job.deliveries })
    }

    fn held(&mut self, job: &JobId) -> Option<(Name, u64)> {
        let (queue, id, deliveries) = job.parts()?;
        let is_ours = self.queues.get(&queue)?.get(&id)?.deliveries == deliveries || self.lenient;
        is_ours.then_some((queue, id))
    }

    /// When a job may be taken next; nothing if another has it.
    pub fn due(&mut self, due: Duration, job: &JobId) {
        let Some((queue, id)) = self.held(job) else { return };
        if let Some(job) = self.queues.get_mut(&queue).and_then(|jobs| jobs.get_mut(&id)) {
            job.due = due;
        }
    }

    /// See [`crate::Store::done`].
    pub fn done(&mut self, job: &JobId) {
        let Some((queue, id)) = self.held(job) else { return };
        self.queues.get_mut(&queue).and_then(|jobs| jobs.remove(&id));
    }

    /// See [`crate::Store::jobs`].
    pub fn jobs(&self, queue: &Name) -> u64 {
        self.queues.get(queue).map_or(0, |jobs| jobs.len() as u64)
    }

    /// See [`crate::Store::get`].
    pub fn get(&self, now: Duration, key: &Name) -> Option<Entry> {
        let (entry, gone_at) = self.keys.get(key)?;
        (!is_over(*gone_at, now)).then(|| entry.clone())
    }

    fn is_at(&self, now: Duration, key: &Name, revision: u64) -> Result<(), StoreError> {
        let last = self.get(now, key).map_or(0, |entry| entry.revision);
        if last == revision { Ok(()) } else { Err(StoreError::Conflict { last }) }
    }

    /// See [`crate::Store::set`].
    pub fn set(
        &mut self,
        now: Duration,
        key: &Name,
        revision: u64,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> Result<u64, StoreError> {
        self.is_at(now, key, revision)?;
        let revision = self.next();
        self.keys
            .insert(key.clone(), (Entry { revision, value }, lifetime.map(|lifetime| now.saturating_add(lifetime))));
        Ok(revision)
    }

    /// See [`crate::Store::unset`].
    pub fn unset(&mut self, now: Duration, key: &Name, revision: u64) -> Result<(), StoreError> {
        self.is_at(now, key, revision)?;
        self.keys.remove(key);
        Ok(())
    }

    /// See [`crate::Store::put_blob`].
    pub fn put_blob(&mut self, name: &Name, bytes: Bytes) {
        self.blobs.insert(name.clone(), bytes);
    }

    /// See [`crate::Store::blob`].
    pub fn blob(&self, name: &Name) -> Option<Bytes> {
        self.blobs.get(name).cloned()
    }

    /// See [`crate::Store::remove_blob`].
    pub fn remove_blob(&mut self, name: &Name) {
        self.blobs.remove(name);
    }
}
