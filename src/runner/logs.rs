//! Logs of runs in a store, as JSON: records that are too large for it are in blobs.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use stageline_flow::run::Moment;
use stageline_store::{Name, Record, Store, StoreError};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

/// A record, and where it stands.
pub(crate) type Entry = (u64, Vec<Moment>);

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// The store cannot say now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is malformed, or a later version's.
    #[error("a record cannot be read: {0}")]
    Record(#[from] serde_json::Error),
    /// The blob that holds it is gone.
    #[error("a record was in a blob that is gone")]
    Gone,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    store: Arc<dyn Store>,
}

/// What stands for a record that is in a blob: no list, as records are.
const IN_BLOB: &str = "in_blob";

impl Logs {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// As [`Store::append`].
    pub(crate) async fn append(&self, log: &Name, after: u64, record: &[Moment]) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let appended = self.store.append(log, after, record).await;
        self.unless(appended, blob).await
    }

    /// As [`Store::finish`].
    pub(crate) async fn finish(
        &self,
        log: &Name,
        after: u64,
        record: &[Moment],
        keep: Duration,
    ) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let finished = self.store.finish(log, after, record, keep).await;
        self.unless(finished, blob).await
    }

    /// As [`Store::renew`].
    pub(crate) async fn renew(&self, log: &Name, after: u64, record: &[Moment]) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let renewed = self.store.renew(log, after, record).await;
        self.unless(renewed, blob).await
    }

    /// As [`Store::read`].
    pub(crate) async fn read(&self, log: &Name, after: u64) -> Result<Vec<Entry>, Unread> {
        let mut entries = Vec::new();
        for record in self.store.read(log, after).await? {
            entries.push(self.unpacked(record).await?);
        }
        Ok(entries)
    }

    /// As [`Store::follow`].
    pub(crate) fn follow(&self, log: &Name, after: u64) -> BoxStream<'static, Result<Entry, Unread>> {
        let logs = self.clone();
        let records = self.store.follow(log, after);
        let unpacked = records.then(move |record| {
            let logs = logs.clone();
            async move { logs.unpacked(record?).await }
        });
        unpacked.boxed()
    }

    /// Lets go of the blob of a record that surely was not written.
    async fn unless(&self, written: Result<u64, StoreError>, blob: Option<Name>) -> Result<u64, StoreError> {
        if let (Some(blob), Err(error)) = (blob, &written)
            && *error != StoreError::Unknown
        {
            // It is let go of by its age.
            let _ = self.store.remove_blob(&blob).await;
        }
        written
    }

    async fn packed(&self, log: &Name, record: &[Moment]) -> Result<(Bytes, Option<Name>), StoreError> {
        let unwritten = |error| StoreError::Unavailable { cause: format!("a record cannot be written: {error}") };
        let bytes = Bytes::from(serde_json::to_vec(record).map_err(unwritten)?);
        if bytes.len() <= self.store.max_record_bytes() {
            return Ok((bytes, None));
        }
        // Another one each time: who is refused must not have replaced what the log speaks of.
        let token = format!("{}-{:016x}", log.token(), RandomState::new().hash_one(bytes.len()));
        let blob =
            Name::new("run-record", &token).ok_or(StoreError::Unavailable { cause: "a name is too long".into() })?;
        let reference = Bytes::from(json!({ IN_BLOB: blob.as_str() }).to_string());
        self.store.put_blob(&blob, bytes).await?;
        Ok((reference, Some(blob)))
    }

    pub(crate) async fn unpacked(&self, Record { position, bytes }: Record) -> Result<Entry, Unread> {
        if bytes.first() == Some(&b'[') {
            return Ok((position, serde_json::from_slice(&bytes)?));
        }
        let reference: Value = serde_json::from_slice(&bytes)?;
        let blob = reference[IN_BLOB].as_str().and_then(Name::parse).ok_or(Unread::Gone)?;
        let bytes = self.store.blob(&blob).await?.ok_or(Unread::Gone)?;
        Ok((position, serde_json::from_slice(&bytes)?))
    }
}
