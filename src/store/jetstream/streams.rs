//! The streams: made explicitly, so that none lets go of what it has not been told to.

use super::{Settings, unavailable};
use crate::StoreError;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{Context, CreateStreamErrorKind};
use async_nats::jetstream::object_store::{self, ObjectStore};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self};
use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a store is made of.
pub(super) struct Streams {
    pub(super) logs: Stream,
    pub(super) jobs: Stream,
    pub(super) keys: Stream,
    pub(super) blobs: ObjectStore,
}

/// Whether the broker refused for want of room.
pub(super) fn is_full(error: &jetstream::Error) -> bool {
    let full =
        [ErrorCode::STREAM_STORE_FAILED, ErrorCode::INSUFFICIENT_RESOURCES, ErrorCode::STORAGE_RESOURCES_EXCEEDED];
    full.contains(&error.error_code())
}

/// The same of an error behind others.
pub(super) fn source_is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<jetstream::Error>().is_some_and(is_full) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The stream of logs.
pub(super) fn logs(settings: &Settings) -> String {
    format!("{}-logs", settings.name)
}

/// The streams that a store is made of.
pub(super) fn names(settings: &Settings) -> [String; 4] {
    let name = &settings.name;
    // As object stores are called at a broker.
    [logs(settings), format!("{name}-jobs"), format!("{name}-keys"), format!("OBJ_{name}-blobs")]
}

/// What the numbers of a new stream begin with: the time of day in microseconds. A stream may be made in the place of one that was
/// lost, and no broker stores a million messages a second: so no position, job or revision of the lost one is taken for one of its own.
fn first_sequence() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_micros()).ok()
}

/// Opens the streams, and makes those that are not there.
pub(super) async fn make(context: &Context, settings: &Settings) -> Result<Streams, StoreError> {
    let first_sequence = first_sequence();
    let stream = |kind: &str, max_bytes: u64| Config {
        name: format!("{}-{kind}s", settings.name),
        subjects: vec![format!("{}.{kind}.*.*", settings.subject)],
        max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: settings.replicas,
        allow_direct: true,
        first_sequence,
        ..Config::default()
    };
    let logs = Config { allow_rollup: true, allow_message_ttl: true, ..stream("log", settings.max_bytes) };
    let jobs = Config {
        retention: RetentionPolicy::WorkQueue,
        // Of each queue: one that is full does not keep jobs from going on to another.
        max_messages_per_subject: i64::try_from(settings.max_jobs).unwrap_or(i64::MAX),
        discard_new_per_subject: true,
        ..stream("job", settings.max_bytes)
    };
    let keys = Config { max_messages_per_subject: 1, allow_message_ttl: true, ..stream("key", settings.max_bytes / 8) };
    let blobs = object_store::Config {
        bucket: format!("{}-blobs", settings.name),
        max_age: settings.blob_age,
        max_bytes: i64::try_from(settings.max_bytes).unwrap_or(i64::MAX),
        storage: StorageType::File,
        num_replicas: settings.replicas,
        ..object_store::Config::default()
    };
    Ok(Streams {
        logs: open(context, logs).await?,
        jobs: open(context, jobs).await?,
        keys: open(context, keys).await?,
        blobs: bucket(context, blobs).await?,
    })
}

/// The bucket of blobs. One that is there already stays as it is kept: how long its blobs live is then as it was.
async fn bucket(context: &Context, config: object_store::Config) -> Result<ObjectStore, StoreError> {
    let name = config.bucket.clone();
    let error = match context.create_object_store(config).await {
        Ok(bucket) => return Ok(bucket),
        Err(error) if source_is_full(&error) => return Err(StoreError::Full { what: error.to_string() }),
        Err(error) => error,
    };
    let unusable = |_| unavailable("the bucket of blobs cannot be opened", error);
    context.get_object_store(&name).await.map_err(unusable)
}

async fn open(context: &Context, config: Config) -> Result<Stream, StoreError> {
    let (name, wanted) = (config.name.clone(), config.clone());
    let error = match context.create_stream(config).await {
        Ok(stream) => return foreign(&name, &wanted, &stream.cached_info().config).map_or(Ok(stream), Err),
        Err(error) => error,
    };
    match error.kind() {
        CreateStreamErrorKind::JetStream(refused) if refused.error_code() == ErrorCode::STREAM_NAME_EXIST => {
            let there =
                context.get_stream(&name).await.map_err(|error| unavailable("a stream cannot be read", error))?;
            // It began with another number, and differs in nothing else, or it is foreign.
            foreign(&name, &wanted, &there.cached_info().config).map_or(Ok(there), Err)
        }
        CreateStreamErrorKind::JetStream(refused) if is_full(&refused) => {
            Err(StoreError::Full { what: format!("the broker has no room for the stream {name}: {refused}") })
        }
        CreateStreamErrorKind::JetStreamUnavailable => {
            Err(unavailable("the broker keeps no streams", "start it with JetStream (nats-server -js)"))
        }
        _ => Err(unavailable(&format!("the stream {name} cannot be made"), error)),
    }
}

/// What says that a stream of that name is kept in another way, if it is.
fn foreign(name: &str, wanted: &Config, there: &Config) -> Option<StoreError> {
    let differs = [
        ("subjects", wanted.subjects != there.subjects),
        ("retention", wanted.retention != there.retention),
        ("discard", wanted.discard != there.discard),
        ("storage", wanted.storage != there.storage),
        ("max_bytes", wanted.max_bytes != there.max_bytes),
        (
            "max_msgs_per_subject",
            wanted.max_messages_per_subject > 0 && wanted.max_messages_per_subject != there.max_messages_per_subject,
        ),
        ("discard_new_per_subject", wanted.discard_new_per_subject != there.discard_new_per_subject),
        ("allow_rollup_hdrs", wanted.allow_rollup != there.allow_rollup),
        ("allow_msg_ttl", wanted.allow_message_ttl != there.allow_message_ttl),
        ("allow_direct", wanted.allow_direct != there.allow_direct),
        ("max_age", wanted.max_age != there.max_age),
        ("num_replicas", wanted.num_replicas.max(1) != there.num_replicas.max(1)),
    ];
    let names: Vec<&str> = differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| StoreError::Unavailable {
        cause: format!(
            "the stream {name} is kept with another {}: give it the settings of before, or edit or remove the stream",
            names.join(", ")
        ),
    })
}
