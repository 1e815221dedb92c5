//! A store at a broker: a broker that dies, and streams that are somebody else's.

use super::{broker, broker_settings, name, soon, until};
use crate::nats::NatsServer;
use async_nats::jetstream::{self, stream::Config};
use bytes::Bytes;
use futures::StreamExt;
use stageline_store::{JetStream, Settings, Store, StoreError};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn all_is_there_after_the_broker_was_killed() {
    let mut server = NatsServer::start().await;
    let store = broker(&server).await;
    let (log, queue, key, blob) = (name("request", "a"), name("jobs", "a"), name("claim", "a"), name("body", "a"));
    let first = store.append(&log, 0, Bytes::from_static(b"first")).await.unwrap();
    store.push(&queue, Bytes::from_static(b"job")).await.unwrap();
    store.push(&queue, Bytes::from_static(b"job")).await.unwrap();
    store.take(&queue).await.unwrap();
    store.set(&key, 0, Bytes::from_static(b"value"), None).await.unwrap();
    store.put_blob(&blob, Bytes::from_static(b"blob")).await.unwrap();
    let mut followed = store.follow(&log, first);
    let (waiting, other) = (store.clone(), name("jobs", "b"));
    let taker = tokio::spawn({
        let other = other.clone();
        // Whoever takes asks again while the broker is away.
        async move {
            loop {
                if let Ok(job) = waiting.take(&other).await {
                    return job;
                }
            }
        }
    });
    until("somebody waits for a job", async || consumers(&server).await == 2).await;
    server.kill();
    let lost = store.append(&log, first, Bytes::from_static(b"lost?")).await;
    assert!(matches!(lost, Err(StoreError::Unknown | StoreError::Unavailable { .. })), "{lost:?}");
    server.start_again().await;
    // What nobody heard of may have been done or not: the log says it.
    let mut last = first;
    until("the log can be written", async || {
        if let Ok(records) = store.read(&log, first).await {
            last = records.last().map_or(first, |record| record.position);
        }
        store.append(&log, last, Bytes::from_static(b"next")).await.is_ok()
    })
    .await;
    let records = store.read(&log, 0).await.unwrap();
    assert_eq!((&records[0].bytes[..], &records.last().unwrap().bytes[..]), (&b"first"[..], &b"next"[..]));
    for record in &records[1..] {
        assert_eq!(followed.next().await.unwrap().unwrap(), *record);
    }
    // Who waited for a job all the while gets it.
    store.push(&other, Bytes::from_static(b"waited for")).await.unwrap();
    assert_eq!(soon("the job", taker).await.unwrap().bytes, "waited for");
    assert_eq!(store.jobs(&queue).await.unwrap(), 2);
    for _ in 0..2 {
        assert_eq!(store.take(&queue).await.unwrap().bytes, "job");
    }
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, "value");
    assert_eq!(store.blob(&blob).await.unwrap().unwrap(), "blob");
}

/// Queues that were taken from.
async fn consumers(server: &NatsServer) -> usize {
    let client = async_nats::connect(server.url()).await.unwrap();
    jetstream::new(client).get_stream("store-test-jobs").await.unwrap().cached_info().state.consumer_count
}

/// Has the broker lose all that it keeps by `lose`: nobody takes what is kept next for what was lost.
async fn what_was_lost_is_over(mut server: NatsServer, lose: impl AsyncFnOnce(&mut NatsServer)) {
    let store = broker(&server).await;
    let (log, queue, key, blob) = (name("request", "a"), name("jobs", "a"), name("claim", "a"), name("body", "a"));
    let mut last = 0;
    for _ in 0..50 {
        last = store.append(&log, last, Bytes::from_static(b"old")).await.unwrap();
    }
    store.push(&queue, Bytes::from_static(b"old")).await.unwrap();
    let held = store.take(&queue).await.unwrap();
    let revision = store.set(&key, 0, Bytes::from_static(b"old"), None).await.unwrap();
    store.put_blob(&blob, Bytes::from_static(b"old")).await.unwrap();
    let mut followed = store.follow(&log, last);
    lose(&mut server).await;
    let mut first = 0;
    until("a log can be begun", async || match store.append(&log, 0, Bytes::from_static(b"new")).await {
        Ok(position) => {
            first = position;
            true
        }
        // Its answer was lost, perhaps.
        Err(StoreError::Conflict { last }) => {
            first = last;
            true
        }
        Err(_) => false,
    })
    .await;
    assert!(first > last, "{first} was a position before: {last}");
    let records = store.read(&log, 0).await.unwrap();
    assert_eq!(records.iter().map(|record| &record.bytes[..]).collect::<Vec<_>>(), [b"new"]);
    // Whoever follows hears of what is new, and who owned what is gone is refused.
    assert_eq!(soon("what is new", followed.next()).await.unwrap().unwrap(), records[0]);
    let refused = store.append(&log, last, Bytes::from_static(b"ghost")).await;
    assert_eq!(refused, Err(StoreError::Conflict { last: first }));
    let refused = store.append(&name("request", "gone"), last, Bytes::from_static(b"ghost")).await;
    assert_eq!(refused, Err(StoreError::Conflict { last: 0 }));
    store.push(&queue, Bytes::from_static(b"new")).await.unwrap();
    let taken = soon("the job", store.take(&queue)).await.unwrap();
    assert_eq!((&taken.bytes[..], taken.deliveries), (&b"new"[..], 1));
    assert!(taken.number > held.number);
    // Nobody knows the job of before any more, whatever is said of it.
    let _ = store.done(&held.id).await;
    assert_eq!(store.jobs(&queue).await.unwrap(), 1);
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert!(store.set(&key, 0, Bytes::from_static(b"new"), None).await.unwrap() > revision);
    assert_eq!(store.blob(&blob).await.unwrap(), None);
    store.put_blob(&blob, Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(store.blob(&blob).await.unwrap().unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_somebody_removed_are_made_again() {
    what_was_lost_is_over(NatsServer::start().await, async |server| {
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        for kind in ["store-test-logs", "store-test-jobs", "store-test-keys", "OBJ_store-test-blobs"] {
            context.delete_stream(kind).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_lost_its_volume_keeps_what_comes_then() {
    what_was_lost_is_over(NatsServer::start().await, async |server| {
        server.kill();
        server.forget();
        server.start_again().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_other_settings_is_named() {
    let server = NatsServer::start().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = jetstream::new(client.clone());
    let foreign = Config {
        name: "store-test-logs".to_owned(),
        subjects: vec!["stageline.v1.test.store.log.*.*".to_owned()],
        ..Config::default()
    };
    context.create_stream(foreign).await.unwrap();
    let said = JetStream::open(client.clone(), broker_settings()).await.unwrap_err().to_string();
    for part in ["store-test-logs", "discard", "max_bytes", "allow_rollup_hdrs"] {
        assert!(said.contains(part), "{said}");
    }
    context.delete_stream("store-test-logs").await.unwrap();
    JetStream::open(client.clone(), broker_settings()).await.unwrap();
    // Its own, with other limits.
    let other = Settings { max_jobs: 7, ..broker_settings() };
    let said = JetStream::open(client, other).await.unwrap_err().to_string();
    assert!(said.contains("store-test-jobs") && said.contains("max_msgs"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_streams_or_room_says_so() {
    let server = NatsServer::with(&[]).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let said = JetStream::open(client, broker_settings()).await.unwrap_err().to_string();
    assert!(said.contains("JetStream"), "{said}");

    let server = NatsServer::start().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let settings = Settings { max_bytes: 1 << 20, ..broker_settings() };
    let store = JetStream::open(client, settings).await.unwrap();
    let record = Bytes::from(vec![7; 200_000]);
    let (mut last, mut refused) = (0, None);
    for _ in 0..10 {
        match store.append(&name("request", "a"), last, record.clone()).await {
            Ok(position) => last = position,
            Err(error) => refused = Some(error),
        }
    }
    assert!(matches!(refused, Some(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(store.read(&name("request", "a"), 0).await.unwrap().last().unwrap().position, last);
    let blob = store.put_blob(&name("body", "a"), Bytes::from(vec![7; 2 << 20])).await;
    assert!(matches!(blob, Err(StoreError::Full { .. })), "{blob:?}");
    // Whatever else is begun must wait: what is left is for what is there.
    until("nothing new is begun", async || {
        let begun = store.append(&name("request", "b"), 0, Bytes::from_static(b"b")).await;
        matches!(begun, Err(StoreError::Full { .. }))
    })
    .await;
    store.finish(&name("request", "a"), last, Bytes::from_static(b"all of it"), Duration::from_secs(60)).await.unwrap();
    until("there is room", async || store.append(&name("request", "c"), 0, Bytes::from_static(b"c")).await.is_ok())
        .await;
}
