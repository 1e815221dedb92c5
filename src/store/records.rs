//! Logs whose records are lists of entries: a record that is too large for the store is in a blob, and its place says so.

use crate::{Name, Record, Store, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::fmt::{Debug, Display};
use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// What the bytes of a record say.
#[derive(Debug)]
pub enum Recorded<E> {
    /// The entries.
    Here(Vec<E>),
    /// The name of the blob that holds the record.
    InBlob(String),
}

/// How the entries of a kind of log are written.
pub trait Codec: Debug + Send + Sync + 'static {
    /// One of them.
    type Entry: Send + Sync + 'static;
    /// Why bytes are none.
    type Error: Debug + Display + Send + Sync + 'static;
    /// The kind of the blobs that records are in.
    const BLOBS: &'static str;

    /// The bytes of these entries.
    ///
    /// # Errors
    /// If they cannot be written.
    fn encode(record: &[Self::Entry]) -> Result<Bytes, Self::Error>;

    /// The bytes that say that a record is in the blob of that name.
    fn encode_in_blob(blob: &str) -> Bytes;

    /// What bytes say.
    ///
    /// # Errors
    /// If they are malformed, or a later version's.
    fn decode(record: Bytes) -> Result<Recorded<Self::Entry>, Self::Error>;
}

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread<E: Display> {
    /// The store cannot say now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is malformed, or a later version's.
    #[error("{0}")]
    Record(E),
    /// The blob that holds it is gone.
    #[error("a record was in a blob that is gone")]
    Gone,
}

/// See the module.
#[derive(Debug)]
pub struct Records<C> {
    store: Arc<dyn Store>,
    codec: PhantomData<C>,
}

impl<C> Clone for Records<C> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), codec: PhantomData }
    }
}

/// What reading gives: where each record stands, and its entries.
type Read<C> = Result<(u64, Vec<<C as Codec>::Entry>), Unread<<C as Codec>::Error>>;

impl<C: Codec> Records<C> {
    /// Of the logs in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, codec: PhantomData }
    }

    /// As [`Store::append`].
    ///
    /// # Errors
    /// As there.
    pub async fn append(&self, log: &Name, after: u64, record: &[C::Entry]) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let appended = self.store.append(log, after, record).await;
        self.unless(appended, blob).await
    }

    /// As [`Store::finish`].
    ///
    /// # Errors
    /// As there.
    pub async fn finish(&self, log: &Name, after: u64, record: &[C::Entry], keep: Duration) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let finished = self.store.finish(log, after, record, keep).await;
        self.unless(finished, blob).await
    }

    /// As [`Store::renew`].
    ///
    /// # Errors
    /// As there.
    pub async fn renew(&self, log: &Name, after: u64, record: &[C::Entry]) -> Result<u64, StoreError> {
        let (record, blob) = self.packed(log, record).await?;
        let renewed = self.store.renew(log, after, record).await;
        self.unless(renewed, blob).await
    }

    /// As [`Store::read`].
    ///
    /// # Errors
    /// [`Unread`].
    pub async fn read(&self, log: &Name, after: u64) -> Result<Vec<(u64, Vec<C::Entry>)>, Unread<C::Error>> {
        let mut entries = Vec::new();
        for record in self.store.read(log, after).await? {
            entries.push(self.unpacked(record).await?);
        }
        Ok(entries)
    }

    /// As [`Store::follow`].
    pub fn follow(&self, log: &Name, after: u64) -> BoxStream<'static, Read<C>> {
        let records = self.clone();
        let unpacked = self.store.follow(log, after).then(move |record| {
            let records = records.clone();
            async move { records.unpacked(record?).await }
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

    /// A record as it is written, and the blob that it is in, if it is in one.
    async fn packed(&self, log: &Name, record: &[C::Entry]) -> Result<(Bytes, Option<Name>), StoreError> {
        let unwritten = |error| StoreError::Unavailable { cause: format!("a record cannot be written: {error}") };
        let bytes = C::encode(record).map_err(unwritten)?;
        if bytes.len() <= self.store.max_record_bytes() {
            return Ok((bytes, None));
        }
        // Another one each time: who is refused must not have replaced what the log speaks of.
        let token = format!("{}-{:016x}", log.token(), RandomState::new().hash_one(bytes.len()));
        let blob = Name::new(C::BLOBS, &token).ok_or(StoreError::Unavailable { cause: "a name is too long".into() })?;
        let reference = C::encode_in_blob(blob.as_str());
        self.store.put_blob(&blob, bytes).await?;
        Ok((reference, Some(blob)))
    }

    /// What a record of a log says.
    ///
    /// # Errors
    /// [`Unread`].
    pub async fn unpacked(&self, Record { position, bytes }: Record) -> Read<C> {
        let blob = match C::decode(bytes).map_err(Unread::Record)? {
            Recorded::Here(record) => return Ok((position, record)),
            Recorded::InBlob(blob) => Name::parse(&blob).ok_or(Unread::Gone)?,
        };
        match C::decode(self.store.blob(&blob).await?.ok_or(Unread::Gone)?).map_err(Unread::Record)? {
            Recorded::Here(record) => Ok((position, record)),
            Recorded::InBlob(_) => Err(Unread::Gone),
        }
    }
}
