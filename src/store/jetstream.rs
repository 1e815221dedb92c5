//! A store at a NATS broker, by JetStream: a stream for logs, one for jobs, one for keys, and an object store for blobs.
//!
//! What the broker does, and what follows (nats-server 2.15, async-nats 0.51):
//! - Positions and revisions are a stream's sequence numbers: never given twice, and what an append expects is the last of its
//!   subject. A subject whose messages are gone expects 0 again. A stream that is made in a lost one's place begins above its numbers.
//! - An acknowledgement may be lost, and what waits for a connection may be sent long after its sender gave up: both are
//!   [`StoreError::Unknown`].
//! - A full stream must refuse what is new; by default it would let go of what is old.
//! - A late acknowledgement of a job removes it although another has taken it since.
//! - A log becomes one last message that is gone by itself in one publish (rollup, lifetime and expectation together).

mod direct;
mod keys;
mod logs;
mod looking;
mod streams;

use super::contract::fits;
use super::{Entry, Following, Job, JobId, Name, Record, Store, StoreError};
use async_nats::header::NATS_ROLLUP;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{Context, ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, AckKind, object_store::ObjectStore, stream::Stream};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// What a broker's store is called, and what it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What the names of its streams begin with: `[A-Za-z0-9_-]`.
    pub name: String,
    /// What its subjects begin with, without the dot at the end.
    pub subject: String,
    /// How long a job is its taker's: whole seconds.
    pub lease: Duration,
    /// Most jobs.
    pub max_jobs: u64,
    /// Most bytes of logs; of jobs and of blobs as many each, of keys an eighth.
    pub max_bytes: u64,
    /// Blobs that are older are let go of.
    pub blob_age: Duration,
    /// Copies of each message among the brokers of a cluster.
    pub replicas: usize,
}

/// Longest wait for an answer of the broker.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the streams.
const LOOK: Duration = Duration::from_secs(1);
/// Pause before what was followed is looked for again.
const RETRY: Duration = Duration::from_millis(200);
/// Longest time that one request for a job stays at the broker: one that a restart of the broker forgot is asked again soon.
const ASK_FOR: Duration = Duration::from_secs(2);
/// Bytes of a message that headers and subject may take.
const HEADERS: usize = 1024;

/// See the module. Clones share the connection.
#[derive(Clone)]
pub struct JetStream {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    settings: Settings,
    logs: Stream,
    jobs: Stream,
    keys: Stream,
    blobs: ObjectStore,
    /// The consumers of the queues that were taken from.
    queues: Mutex<HashMap<Name, PullConsumer>>,
    /// Whether the stream of logs has room only for what is begun.
    nearly_full: AtomicBool,
    /// Whether it was said that streams are gone and cannot be made again.
    is_lacking: AtomicBool,
}

impl fmt::Debug for JetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JetStream({})", self.shared.settings.name)
    }
}

fn unavailable(what: &str, error: impl fmt::Display) -> StoreError {
    StoreError::Unavailable { cause: format!("{what}: {error}") }
}

impl JetStream {
    /// Opens the store, and makes its streams where they are not there.
    ///
    /// # Errors
    /// The broker has no JetStream or no room, or streams of these names are kept with other settings.
    pub async fn open(client: async_nats::Client, settings: Settings) -> Result<Self, StoreError> {
        let context = ContextBuilder::new()
            .timeout(PATIENCE)
            .ack_timeout(PATIENCE)
            .max_ack_inflight(4096)
            .backpressure_on_inflight(true)
            .build(client);
        let streams::Streams { logs, jobs, keys, blobs } = streams::make(&context, &settings).await?;
        let queues = Mutex::default();
        let (nearly_full, is_lacking) = Default::default();
        let shared = Arc::new(Shared { context, settings, logs, jobs, keys, blobs, queues, nearly_full, is_lacking });
        let looked_at = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while let Some(shared) = looked_at.upgrade() {
                shared.look().await;
                drop(shared);
                sleep(LOOK).await;
            }
        });
        Ok(Self { shared })
    }

    fn subject(&self, kind: &str, name: &Name) -> String {
        format!("{}.{kind}.{name}", self.shared.settings.subject)
    }

    async fn publish(&self, subject: String, message: PublishMessage) -> Result<u64, StoreError> {
        let sent = self.shared.context.send_publish(subject, message).await;
        let acknowledged = match sent {
            Ok(acknowledged) => acknowledged.await,
            Err(error) => Err(error),
        };
        acknowledged.map(|acknowledged| acknowledged.sequence).map_err(|error| self.not_published(&error))
    }

    fn not_published(&self, error: &jetstream::context::PublishError) -> StoreError {
        let refused = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
        match (error.kind(), refused) {
            (PublishErrorKind::WrongLastSequence, refused) => {
                // "wrong last sequence: 7, …"
                let said = refused.map(ToString::to_string).unwrap_or_default();
                let last = said.split_once("sequence: ").map_or("", |(_, last)| last);
                let digits = last.split(|c: char| !c.is_ascii_digit()).next();
                StoreError::Conflict { last: digits.and_then(|digits| digits.parse().ok()).unwrap_or_default() }
            }
            (PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe, _) => StoreError::Unknown,
            (PublishErrorKind::MaxPayloadExceeded, _) => {
                let most = self.max_record_bytes();
                StoreError::TooLarge { bytes: most + 1, most }
            }
            (_, Some(refused)) if streams::is_full(refused) => StoreError::Full { what: refused.to_string() },
            _ => unavailable("the broker does not store it", error),
        }
    }

    /// The consumer that all takers of a queue share.
    async fn queue(&self, queue: &Name) -> Result<PullConsumer, StoreError> {
        let mut queues = self.shared.queues.lock().await;
        if let Some(consumer) = queues.get(queue) {
            return Ok(consumer.clone());
        }
        // A character that no name has: no two queues share a consumer.
        let name = format!("{}={}", queue.kind(), queue.token());
        let config = pull::Config {
            durable_name: Some(name),
            filter_subject: self.subject("job", queue),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.shared.settings.lease,
            max_deliver: -1,
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        let made = self.shared.jobs.create_consumer(config).await;
        let consumer = made.map_err(|error| unavailable("the queue's consumer cannot be made", error))?;
        queues.insert(queue.clone(), consumer.clone());
        Ok(consumer)
    }

    /// Tells the broker what becomes of a job.
    async fn say(&self, job: &JobId, what: AckKind) -> Result<(), StoreError> {
        let client = self.shared.context.client();
        match timeout(PATIENCE, client.request(job.0.clone(), what.into())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StoreError::Unknown),
        }
    }
}

/// Whole seconds, at least one: what a message's lifetime is counted in.
fn seconds(lifetime: Duration) -> Duration {
    Duration::from_secs(lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0)).max(Duration::from_secs(1))
}

#[async_trait]
impl Store for JetStream {
    async fn append(&self, log: &Name, after: u64, record: Bytes) -> Result<u64, StoreError> {
        fits(&record, self.max_record_bytes())?;
        if after == 0 && self.shared.nearly_full.load(Relaxed) {
            return Err(StoreError::Full { what: "the stream of logs has room only for what is begun".to_owned() });
        }
        let message = PublishMessage::build().payload(record).expected_last_subject_sequence(after);
        self.publish(self.subject("log", log), message).await
    }

    async fn finish(&self, log: &Name, after: u64, record: Bytes, keep: Duration) -> Result<u64, StoreError> {
        fits(&record, self.max_record_bytes())?;
        let message = PublishMessage::build()
            .payload(record)
            .expected_last_subject_sequence(after)
            .header(NATS_ROLLUP, "sub")
            .ttl(seconds(keep));
        self.publish(self.subject("log", log), message).await
    }

    async fn renew(&self, log: &Name, after: u64, record: Bytes) -> Result<u64, StoreError> {
        fits(&record, self.max_record_bytes())?;
        let message =
            PublishMessage::build().payload(record).expected_last_subject_sequence(after).header(NATS_ROLLUP, "sub");
        self.publish(self.subject("log", log), message).await
    }

    async fn read(&self, log: &Name, after: u64) -> Result<Vec<Record>, StoreError> {
        self.read_log(log, after).await
    }

    fn follow(&self, log: &Name, after: u64) -> Following {
        self.follow_log(log, after)
    }

    async fn logs(&self, kind: &str, after: Option<&Name>, most: usize) -> Result<Vec<(Name, Record)>, StoreError> {
        self.list_logs(kind, after, most).await
    }

    async fn remove(&self, log: &Name) -> Result<(), StoreError> {
        let purged = self.shared.logs.purge().filter(self.subject("log", log)).await;
        purged.map(drop).map_err(|_| StoreError::Unknown)
    }

    async fn push(&self, queue: &Name, job: Bytes) -> Result<(), StoreError> {
        fits(&job, self.max_record_bytes())?;
        let pushed = self.publish(self.subject("job", queue), PublishMessage::build().payload(job)).await;
        pushed.map(drop).map_err(|error| match error {
            // The broker has one number for all that it has no room for, and words for which.
            StoreError::Full { what } if what.contains("per subject") => {
                StoreError::Crowded { most: self.shared.settings.max_jobs }
            }
            error => error,
        })
    }

    async fn take(&self, queue: &Name) -> Result<Job, StoreError> {
        loop {
            let consumer = self.queue(queue).await?;
            let ask = async {
                let mut messages = consumer.batch().max_messages(1).expires(ASK_FOR).messages().await.map_err(drop)?;
                messages.next().await.transpose().map_err(drop)
            };
            let message = match timeout(ASK_FOR + PATIENCE, ask).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) | Err(_) => continue,
                Ok(Err(())) => {
                    // Somebody may have removed it: it is made anew.
                    self.shared.queues.lock().await.remove(queue);
                    sleep(RETRY).await;
                    continue;
                }
            };
            let (Ok(info), Some(reply)) = (message.info(), message.reply.as_ref()) else { continue };
            let (number, deliveries) = (info.stream_sequence, u32::try_from(info.delivered).unwrap_or(u32::MAX));
            return Ok(Job { id: JobId(reply.to_string()), number, bytes: message.payload.clone(), deliveries });
        }
    }

    fn lease(&self) -> Duration {
        self.shared.settings.lease
    }

    async fn hold(&self, job: &JobId) -> Result<(), StoreError> {
        self.say(job, AckKind::Progress).await
    }

    async fn done(&self, job: &JobId) -> Result<(), StoreError> {
        self.say(job, AckKind::Ack).await
    }

    async fn again(&self, job: &JobId, delay: Duration) -> Result<(), StoreError> {
        self.say(job, AckKind::Nak((!delay.is_zero()).then_some(delay))).await
    }

    async fn jobs(&self, queue: &Name) -> Result<u64, StoreError> {
        let subject = self.subject("job", queue);
        let failed = |error: &dyn fmt::Display| unavailable("the jobs cannot be counted", error);
        let mut listed = self.shared.jobs.info_with_subjects(subject).await.map_err(|error| failed(&error))?;
        let first = listed.try_next().await.map_err(|error| failed(&error))?;
        Ok(first.map_or(0, |(_, count)| count as u64))
    }

    async fn get(&self, key: &Name) -> Result<Option<Entry>, StoreError> {
        self.key(key).await
    }

    async fn set(
        &self,
        key: &Name,
        revision: u64,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> Result<u64, StoreError> {
        fits(&value, self.max_record_bytes())?;
        self.set_key(key, revision, value, lifetime).await
    }

    async fn unset(&self, key: &Name, revision: u64) -> Result<(), StoreError> {
        self.unset_key(key, revision).await
    }

    async fn put_blob(&self, name: &Name, bytes: Bytes) -> Result<(), StoreError> {
        let put = self.shared.blobs.put(name.as_str(), &mut &bytes[..]).await;
        put.map(drop).map_err(|error| {
            // The library has the broker's refusal as text.
            let said =
                format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
            match said.contains("maximum bytes exceeded") || said.contains("insufficient") {
                true => StoreError::Full { what: said },
                false => StoreError::Unknown,
            }
        })
    }

    async fn blob(&self, name: &Name) -> Result<Option<Bytes>, StoreError> {
        use async_nats::jetstream::object_store::GetErrorKind;
        let failed = |error: &dyn fmt::Display| unavailable("the blob cannot be read", error);
        let mut object = match self.shared.blobs.get(name.as_str()).await {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let mut bytes = Vec::with_capacity(object.info().size);
        object.read_to_end(&mut bytes).await.map_err(|error| failed(&error))?;
        Ok(Some(bytes.into()))
    }

    async fn remove_blob(&self, name: &Name) -> Result<(), StoreError> {
        use async_nats::jetstream::object_store::DeleteErrorKind;
        match self.shared.blobs.delete(name.as_str()).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == DeleteErrorKind::NotFound => Ok(()),
            Err(_) => Err(StoreError::Unknown),
        }
    }

    fn max_record_bytes(&self) -> usize {
        self.shared.context.client().max_payload().saturating_sub(HEADERS)
    }
}
