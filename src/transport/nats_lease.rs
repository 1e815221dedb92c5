//! Leases in a NATS KV bucket.
//!
//! What the broker does, and what follows (nats-server 2.15, async-nats 0.51):
//! - A key's TTL counts whole seconds, needs a bucket with markers, and a plain `update` drops it. So a renewal is published
//!   to the key's subject with a TTL and the revision it expects.
//! - With a history above 1 a TTL below the markers' is raised to theirs. So the history is 1.
//! - The bucket is in memory: leases are worth nothing after a restart of the broker, and renewals need no disk. A restart
//!   forgets it without a word; whoever misses it makes it anew.

use super::TransportError;
use super::lease::{KeeperEnds, LEASE, LeaseKeeper, LeaseView, RENEWAL};
use super::lease_register::{Register, judge};
use super::nats::NatsNet;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishErrorKind};
use async_nats::jetstream::kv::{Config, Entry, Operation, Store, Watch};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::StorageType;
use bytes::Bytes;
use futures::StreamExt;
use stageline_wire::{MAX_STATUS_BYTES, Phase, Status};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longest wait for JetStream's answer: less than a lease, so that a lost one can be sent again in time.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two tries to reach a bucket that cannot be reached.
const RETRY: Duration = Duration::from_millis(200);
/// Room for the bucket's records and markers: 4,096 of the longest.
const BUCKET_BYTES: i64 = (MAX_STATUS_BYTES * 4096) as i64;

/// The leases of a pipeline's replicas, kept by the broker. Clones share the connection.
#[derive(Clone)]
pub struct NatsLeases {
    net: NatsNet,
    context: Context,
    /// Behind a pointer, since it holds all that the broker said of the bucket.
    store: Arc<Store>,
}

impl NatsLeases {
    /// Opens the pipeline's bucket, and makes it if it is not there.
    ///
    /// # Errors
    /// The server has no JetStream, or does not make the bucket.
    pub async fn open(net: &NatsNet) -> Result<Self, TransportError> {
        let context = ContextBuilder::new().timeout(PATIENCE).ack_timeout(PATIENCE).build(net.client().clone());
        let store = Arc::new(make_bucket(&context, net).await?);
        Ok(Self { net: net.clone(), context, store })
    }

    /// Takes a lease for the replica of `status`. On return it is held.
    ///
    /// # Errors
    /// The server does not store it.
    pub async fn keep(&self, status: Status) -> Result<LeaseKeeper, TransportError> {
        let key = self.net.subjects().lease_key(status.stage, &status.replica);
        let mut lease = Lease { leases: self.clone(), key, revision: 0 };
        lease.renew(&status).await?;
        Ok(LeaseKeeper::spawn(status, |ends| lease.hold(ends)))
    }

    /// Watches the leases. Replicas that are there already are told within moments, not on return.
    pub fn watch(&self) -> LeaseView {
        let (replicas, view) = watch::channel(Vec::new());
        let (entries, news) = mpsc::channel(64);
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(self.clone().listen(entries)));
        let register = Register::new(self.net.subjects().clone(), self.net.wire_dtype(), self.net.metrics().clone());
        let judge = judge(register, self.net.broker(), news, replicas);
        tokio::spawn(stop.clone().run_until_cancelled_owned(judge));
        LeaseView::new(view, stop.drop_guard())
    }

    /// Reads the bucket for as long as anyone wants to know, from anew whenever the broker came back.
    async fn listen(self, entries: mpsc::Sender<Entry>) {
        let mut broker = self.net.broker();
        loop {
            if broker.wait_for(|broker| broker.up).await.is_err() {
                return;
            }
            let mut watch = match self.watch_bucket().await {
                Ok(watch) => watch,
                Err(error) => {
                    tracing::warn!(%error, "the leases cannot be watched");
                    sleep(RETRY).await;
                    continue;
                }
            };
            loop {
                let entry = tokio::select! {
                    changed = broker.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    entry = watch.next() => entry,
                };
                match entry {
                    Some(Ok(entry)) => {
                        if entries.send(entry).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(_)) | None => {
                        // The bucket is gone, or its consumer: start anew, but not in a circle.
                        sleep(RETRY).await;
                        break;
                    }
                }
            }
        }
    }

    async fn watch_bucket(&self) -> Result<Watch, TransportError> {
        let store = make_bucket(&self.context, &self.net).await?;
        store.watch_with_history(">").await.map_err(|error| self.net.broker_error("watch the leases", error))
    }
}

async fn make_bucket(context: &Context, net: &NatsNet) -> Result<Store, TransportError> {
    let config = Config {
        bucket: net.subjects().lease_bucket(),
        description: "who serves which stage".to_owned(),
        max_value_size: MAX_STATUS_BYTES as i32,
        max_bytes: BUCKET_BYTES,
        history: 1,
        storage: StorageType::Memory,
        num_replicas: 1,
        limit_markers: Some(LEASE),
        ..Config::default()
    };
    context.create_key_value(config).await.map_err(|error| match net.client().server_info().jetstream {
        true => net.broker_error("make the leases' bucket", error),
        false => TransportError::NoJetStream { url: net.place().to_owned() },
    })
}

/// One replica's lease.
struct Lease {
    leases: NatsLeases,
    key: String,
    /// What the key's subject is known to end in: 0 if nothing.
    revision: u64,
}

impl Lease {
    /// Renews until the keeper ends it.
    async fn hold(mut self, ends: KeeperEnds) {
        let KeeperEnds { status, held, withdraw } = ends;
        let order = tokio::select! {
            order = withdraw => order,
            () = self.renew_forever(status, &held) => return,
        };
        if order.is_ok() {
            // A marker that goes away by itself, where the store's own delete would stay for ever.
            let marker = PublishMessage::build().header("KV-Operation", "DEL").ttl(LEASE);
            if !matches!(timeout(PATIENCE, self.publish(marker)).await, Ok(Ok(_))) {
                tracing::warn!(key = self.key, "the lease cannot be withdrawn; it runs out in {} s", LEASE.as_secs());
            }
        }
        held.send_replace(false);
    }

    async fn renew_forever(&mut self, mut status: watch::Receiver<Status>, held: &watch::Sender<bool>) {
        let mut broker = self.leases.net.broker();
        let mut tick = tokio::time::interval(RENEWAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        let mut phase = status.borrow().phase;
        let tell = |in_time: bool| held.send_if_modified(|held| std::mem::replace(held, in_time) != in_time);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = broker.changed() => match changed {
                    Ok(()) if broker.borrow_and_update().up => {}
                    Ok(()) => continue,
                    Err(_) => return,
                },
                changed = another_phase(&mut status, phase) => if !changed { return },
            }
            let record = status.borrow().clone();
            phase = record.phase;
            // Before the renewal, too: where this process slept it may succeed at once, and others have seen the lease run out.
            tell(renewed.elapsed() < LEASE);
            match self.renew(&record).await {
                Ok(()) => renewed = Instant::now(),
                Err(error) => tracing::warn!(%error, "the lease is not renewed"),
            }
            tell(renewed.elapsed() < LEASE);
        }
    }

    /// Publishes the record with a fresh TTL. When the key is not as expected, looks at it and goes on from there; when the
    /// bucket is gone, makes it anew.
    async fn renew(&mut self, record: &Status) -> Result<(), TransportError> {
        let value = Bytes::from(record.to_json());
        let net = &self.leases.net;
        let mut cause = String::new();
        // The bucket may be gone and the key, too; a third surprise is somebody else's doing.
        for _ in 0..3 {
            let renewal =
                PublishMessage::build().payload(value.clone()).ttl(LEASE).expected_last_subject_sequence(self.revision);
            let error = match self.publish(renewal).await {
                Ok(revision) => {
                    self.revision = revision;
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.kind() {
                PublishErrorKind::WrongLastSequence => self.revision = self.standing(record).await?,
                PublishErrorKind::StreamNotFound => drop(make_bucket(&self.leases.context, net).await?),
                _ => return Err(net.broker_error("renew the lease", error)),
            }
            cause = error.to_string();
        }
        Err(net.broker_error("renew the lease", cause))
    }

    /// The revision that the next renewal has to expect.
    async fn standing(&self, record: &Status) -> Result<u64, TransportError> {
        let net = &self.leases.net;
        let entry = self.leases.store.entry(self.key.as_str()).await;
        match entry.map_err(|error| net.broker_error("show the lease", error))? {
            // Ours, from a renewal whose answer was lost.
            Some(Entry { operation: Operation::Put, value, revision, .. })
                if Status::from_json(&value).is_ok_and(|found| found.replica == record.replica) =>
            {
                Ok(revision)
            }
            // The key is derived from our id, so whoever else writes there does harm: it is taken back.
            Some(Entry { operation: Operation::Put, revision, .. }) => {
                tracing::warn!(key = self.key, "somebody else has written to this replica's lease: it is written anew");
                Ok(revision)
            }
            // A marker: it ran out, or was deleted. What this replica is, it still is: take it anew.
            Some(Entry { revision, .. }) => Ok(revision),
            None => Ok(0),
        }
    }

    async fn publish(&self, message: PublishMessage) -> Result<u64, async_nats::jetstream::context::PublishError> {
        let subject = format!("$KV.{}.{}", self.leases.store.name, self.key);
        Ok(self.leases.context.send_publish(subject, message).await?.await?.sequence)
    }
}

/// Waits until the record's phase is not `phase`; `false` when its keeper is gone.
async fn another_phase(status: &mut watch::Receiver<Status>, phase: Phase) -> bool {
    status.wait_for(|status| status.phase != phase).await.is_ok()
}
