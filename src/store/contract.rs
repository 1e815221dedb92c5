//! What a store promises.

use super::{Name, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Duration;
use tokio::sync::watch;

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands. Positions grow along a log, and none is given twice, not even to a log that is made anew (but to what was lost
    /// with the power).
    pub position: u64,
    /// What was appended.
    pub bytes: Bytes,
}

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Grows with each change, and none is ever given twice.
    pub revision: u64,
    /// The value.
    pub value: Bytes,
}

/// Which job it is, and which taking of it: what a taker shows when it speaks of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobId(pub(crate) String);

impl JobId {
    /// Of a store that knows its jobs by number.
    pub(crate) fn new(queue: &Name, number: u64, deliveries: u32) -> Self {
        Self(format!("{queue}/{number}/{deliveries}"))
    }

    /// The queue, the number and the taking that such an id was made of.
    pub(crate) fn parts(&self) -> Option<(Name, u64, u32)> {
        let mut parts = self.0.split('/');
        Some((Name::parse(parts.next()?)?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// A job that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What to show of it.
    pub id: JobId,
    /// Which job of its queue it is: the same each time that it is taken, and never another's.
    pub number: u64,
    /// What was pushed.
    pub bytes: Bytes,
    /// How often it has been taken, this time included.
    pub deliveries: u32,
}

/// A log's records as they come. Ends with an error only.
pub type Following = BoxStream<'static, Result<Record, StoreError>>;

/// Refuses what is larger than `most`.
pub(crate) fn fits(bytes: &Bytes, most: usize) -> Result<(), StoreError> {
    if bytes.len() <= most { Ok(()) } else { Err(StoreError::TooLarge { bytes: bytes.len(), most }) }
}

/// Follows a log by reading it again whenever there may be more: `news` is heard from before the first look on, so nothing falls
/// between a look and the next.
pub(crate) fn following<S: Store + 'static>(store: S, news: watch::Receiver<u64>, log: Name, after: u64) -> Following {
    let begun = (store, news, log, after, VecDeque::new());
    Box::pin(stream::try_unfold(begun, |(store, mut news, log, mut after, mut read)| async move {
        loop {
            if let Some(Record { position, bytes }) = read.pop_front() {
                after = position;
                return Ok(Some((Record { position, bytes }, (store, news, log, after, read))));
            }
            news.borrow_and_update();
            read.extend(store.read(&log, after).await?);
            if read.is_empty() && news.changed().await.is_err() {
                return Err(StoreError::Unavailable { cause: "it was closed".to_owned() });
            }
        }
    }))
}

/// What must survive goes through here. Whatever is answered with `Ok` is kept; see the crate.
///
/// Any call may fail with [`StoreError::Unavailable`] (nothing was done), and any that changes something with
/// [`StoreError::Unknown`] (it may have been done: read, then decide) and [`StoreError::Full`].
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// Appends `record` to `log`, whose last record is at `after` (0: it has none), and says where it stands.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the log ends elsewhere. Whoever may have appended before without hearing of it reads what is
    /// there first: the conflict may be with oneself.
    async fn append(&self, log: &Name, after: u64, record: Bytes) -> Result<u64, StoreError>;

    /// Replaces all of `log`, whose last record is at `after`, by one last record, and lets go of it after `keep`. Nobody appends behind
    /// that one. A store that has no room for a new log has some left for this.
    ///
    /// # Errors
    /// As [`Store::append`].
    async fn finish(&self, log: &Name, after: u64, record: Bytes, keep: Duration) -> Result<u64, StoreError>;

    /// Replaces all of `log`, which [`Store::finish`] has ended at `after`, by a new first record, behind which it goes on.
    ///
    /// # Errors
    /// As [`Store::append`].
    async fn renew(&self, log: &Name, after: u64, record: Bytes) -> Result<u64, StoreError>;

    /// All records of `log` behind `after`, in order. None if there is no such log, or not any more.
    ///
    /// # Errors
    /// See the trait.
    async fn read(&self, log: &Name, after: u64) -> Result<Vec<Record>, StoreError>;

    /// The records of `log` behind `after`, in order, and each that comes, for as long as it is followed. Where records are replaced
    /// by a last one, that is the next.
    fn follow(&self, log: &Name, after: u64) -> Following;

    /// The logs of a kind, by name, each with its last record: at most `most` of those whose names come behind `after`.
    ///
    /// # Errors
    /// See the trait.
    async fn logs(&self, kind: &str, after: Option<&Name>, most: usize) -> Result<Vec<(Name, Record)>, StoreError>;

    /// Lets go of `log`.
    ///
    /// # Errors
    /// See the trait.
    async fn remove(&self, log: &Name) -> Result<(), StoreError>;

    /// Puts a job into `queue`, to be taken from then on.
    ///
    /// # Errors
    /// [`StoreError::Crowded`] where as many wait in it as may.
    async fn push(&self, queue: &Name, job: Bytes) -> Result<(), StoreError>;

    /// Takes the job of `queue` that has waited longest, as soon as there is one. It is the taker's for one lease
    /// ([`Store::lease`]); whoever has heard nothing of it until then gives it to the next.
    ///
    /// A call that is dropped takes nothing, or a job whose lease runs out.
    ///
    /// # Errors
    /// See the trait.
    async fn take(&self, queue: &Name) -> Result<Job, StoreError>;

    /// How long a job is its taker's.
    fn lease(&self) -> Duration;

    /// Holds a job for one more lease. As with [`Store::done`], said by one whose own has run out it may be taken for the next one's.
    ///
    /// # Errors
    /// See the trait.
    async fn hold(&self, job: &JobId) -> Result<(), StoreError>;

    /// The job is done and leaves its queue. Only who still owns what the job is about may say so: said by one whose lease has run
    /// out it may remove the job from under the next.
    ///
    /// # Errors
    /// See the trait.
    async fn done(&self, job: &JobId) -> Result<(), StoreError>;

    /// The job may be taken again after `delay`, with the same caution.
    ///
    /// # Errors
    /// See the trait.
    async fn again(&self, job: &JobId, delay: Duration) -> Result<(), StoreError>;

    /// How many jobs of `queue` wait or are held. (What a store has room for may be counted over all queues.)
    ///
    /// # Errors
    /// See the trait.
    async fn jobs(&self, queue: &Name) -> Result<u64, StoreError>;

    /// The value of `key`, if it has one.
    ///
    /// # Errors
    /// See the trait.
    async fn get(&self, key: &Name) -> Result<Option<Entry>, StoreError>;

    /// Gives `key`, whose revision is `revision` (0: it has no value), a new value, gone after `lifetime` where there is one (counted
    /// in whole seconds at a broker, at least 1), and says its revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it has another revision.
    async fn set(&self, key: &Name, revision: u64, value: Bytes, lifetime: Option<Duration>)
    -> Result<u64, StoreError>;

    /// Takes the value of `key`, whose revision is `revision`, away.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it has another revision.
    async fn unset(&self, key: &Name, revision: u64) -> Result<(), StoreError>;

    /// Keeps a blob of any size; one of that name is replaced.
    ///
    /// # Errors
    /// See the trait.
    async fn put_blob(&self, name: &Name, bytes: Bytes) -> Result<(), StoreError>;

    /// A blob, if there is one of that name.
    ///
    /// # Errors
    /// See the trait.
    async fn blob(&self, name: &Name) -> Result<Option<Bytes>, StoreError>;

    /// Lets go of a blob.
    ///
    /// # Errors
    /// See the trait.
    async fn remove_blob(&self, name: &Name) -> Result<(), StoreError>;

    /// Largest record or job, in bytes.
    fn max_record_bytes(&self) -> usize;
}
