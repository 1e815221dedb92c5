//! Logs of requests in a store: records that are too large for it are in blobs.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use stageline_base::{Fault, FaultClass};
use stageline_core::durable::Logged;
use stageline_store::{Name, Record, Store, StoreError};
use stageline_wire::{Recorded, WireError, decode_record, encode_in_blob, encode_record};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

/// A record, and where it stands.
pub(super) type Entry = (u64, Vec<Logged>);

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// The store cannot say now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is malformed, or a later version's.
    #[error(transparent)]
    Record(#[from] WireError),
    /// The blob that holds it is gone.
    #[error("a record was in a blob that is gone")]
    Gone,
}

impl Unread {
    /// What a client is told.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Store(_) => Fault::new(FaultClass::Unavailable, format!("the request cannot be read now: {self}")),
            Self::Record(_) | Self::Gone => Fault::internal(format!("the request's log cannot be read: {self}")),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    store: Arc<dyn Store>,
}

impl Logs {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// As [`Store::append`].
    pub(super) async fn append(&self, log: &Name, after: u64, record: &[Logged]) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let appended = self.store.append(log, after, record).await;
        self.unless(appended, blob).await
    }

    /// As [`Store::finish`].
    pub(super) async fn finish(
        &self,
        log: &Name,
        after: u64,
        record: &[Logged],
        keep: Duration,
    ) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let finished = self.store.finish(log, after, record, keep).await;
        self.unless(finished, blob).await
    }

    /// As [`Store::renew`].
    pub(super) async fn renew(&self, log: &Name, after: u64, record: &[Logged]) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let renewed = self.store.renew(log, after, record).await;
        self.unless(renewed, blob).await
    }

    /// As [`Store::read`].
    pub(super) async fn read(&self, log: &Name, after: u64) -> Result<Vec<Entry>, Unread> {
        let mut entries = Vec::new();
        for record in self.store.read(log, after).await? {
            entries.push(self.unpacked(record).await?);
        }
        Ok(entries)
    }

    /// As [`Store::follow`].
    pub(super) fn follow(&self, log: &Name, after: u64) -> BoxStream<'static, Result<Entry, Unread>> {
        let logs = self.clone();
        unpacking(logs, self.store.follow(log, after)).boxed()
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

    /// A record as it is written, and the blob that it is in, if it is in one.
    async fn packed(&self, log: &Name, record: &[Logged]) -> Result<(Bytes, Option<Name>), StoreError> {
        let bytes = encode_record(record);
        if bytes.len() <= self.store.max_record_bytes() {
            return Ok((bytes, None));
        }
        // Another one each time: who is refused must not have replaced what the log speaks of.
        let token = format!("{}-{:016x}", log.token(), RandomState::new().hash_one(bytes.len()));
        let blob = Name::new("record", &token).ok_or(StoreError::Unavailable { cause: "a name is too long".into() })?;
        let reference = encode_in_blob(blob.as_str());
        self.store.put_blob(&blob, bytes).await?;
        Ok((reference, Some(blob)))
    }

    pub(super) async fn unpacked(&self, Record { position, bytes }: Record) -> Result<Entry, Unread> {
        let blob = match decode_record(bytes)? {
            Recorded::Here(record) => return Ok((position, record)),
            Recorded::InBlob(blob) => Name::parse(&blob).ok_or(Unread::Gone)?,
        };
        match decode_record(self.store.blob(&blob).await?.ok_or(Unread::Gone)?)? {
            Recorded::Here(record) => Ok((position, record)),
            Recorded::InBlob(_) => Err(Unread::Gone),
        }
    }
}

fn unpacking(
    logs: Logs,
    records: impl Stream<Item = Result<Record, StoreError>>,
) -> impl Stream<Item = Result<Entry, Unread>> {
    records.then(move |record| {
        let logs = logs.clone();
        async move { logs.unpacked(record?).await }
    })
}
