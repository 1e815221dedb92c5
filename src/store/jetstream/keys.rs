//! Keys at a broker: the last message of a subject each.
//!
//! A message's lifetime is the value's, which the broker's own buckets do not offer for a value that is replaced. A key whose value was
//! taken away keeps a mark of that for a second, since only a message can expect what stands there.

use super::{JetStream, direct, seconds};
use crate::{Entry, Name, StoreError};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use std::time::Duration;

/// Marks a key without a value, until it is gone by itself.
const GONE: &str = "Stageline-Gone";

impl JetStream {
    /// What a key's subject ends in: its value, or the mark that it has none.
    async fn last_of(&self, key: &Name) -> Result<(u64, Option<Bytes>), StoreError> {
        let subject = self.subject("key", key);
        let found = direct::ask(&self.shared.context, &self.shared.keys, &direct::Get::last(&[subject])).await?;
        let Some(message) = found.into_iter().next() else { return Ok((0, None)) };
        let is_gone = message.headers.as_ref().is_some_and(|headers| headers.get(GONE).is_some());
        Ok((message.sequence, (!is_gone).then_some(message.bytes)))
    }

    async fn write_key(
        &self,
        key: &Name,
        revision: u64,
        message: impl Fn() -> PublishMessage,
    ) -> Result<u64, StoreError> {
        let subject = self.subject("key", key);
        let expect = |last| self.publish(subject.clone(), message().expected_last_subject_sequence(last));
        match expect(revision).await {
            // It has no value, but the mark of that is still there.
            Err(StoreError::Conflict { .. }) if revision == 0 => match self.last_of(key).await? {
                // The mark may be gone by now: then nothing is expected again.
                (last, None) => match expect(last).await {
                    Err(StoreError::Conflict { .. }) => expect(0).await,
                    written => written,
                },
                (last, Some(_)) => Err(StoreError::Conflict { last }),
            },
            Err(StoreError::Conflict { .. }) => {
                let (last, value) = self.last_of(key).await?;
                Err(StoreError::Conflict { last: value.map_or(0, |_| last) })
            }
            written => written,
        }
    }

    /// See [`crate::Store::get`].
    pub(super) async fn key(&self, key: &Name) -> Result<Option<Entry>, StoreError> {
        let (revision, value) = self.last_of(key).await?;
        Ok(value.map(|value| Entry { revision, value }))
    }

    /// See [`crate::Store::set`].
    pub(super) async fn set_key(
        &self,
        key: &Name,
        revision: u64,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> Result<u64, StoreError> {
        let message = || {
            let message = PublishMessage::build().payload(value.clone());
            match lifetime {
                Some(lifetime) => message.ttl(seconds(lifetime)),
                None => message,
            }
        };
        self.write_key(key, revision, message).await
    }

    /// See [`crate::Store::unset`].
    pub(super) async fn unset_key(&self, key: &Name, revision: u64) -> Result<(), StoreError> {
        if revision == 0 {
            let (last, value) = self.last_of(key).await?;
            return if value.is_none() { Ok(()) } else { Err(StoreError::Conflict { last }) };
        }
        let mark = || PublishMessage::build().header(GONE, "1").ttl(Duration::from_secs(1));
        self.write_key(key, revision, mark).await.map(drop)
    }
}
