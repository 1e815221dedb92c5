//! What a pipeline's lease bucket says, and what is believed of it.

use super::Peer;
use super::lease::{LEASE, peer};
use super::nats::Broker;
use super::roster::Roster;
use async_nats::jetstream::kv::{Entry, Operation};
use stageline_base::{Element, Tick};
use stageline_metrics::BrokerMetrics;
use stageline_wire::{Status, Subjects, lease_key};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Other digests that are told apart; more are one too many to tell.
const MOST_DIGESTS: usize = 64;

/// The entries read so far.
pub(super) struct Register {
    subjects: Subjects,
    wire_dtype: Element,
    metrics: BrokerMetrics,
    roster: Roster,
    /// Whose key is whose, for markers carry no record.
    keys: BTreeMap<String, Peer>,
    /// Other digests under the pipeline's name, and when each was seen last.
    others: BTreeMap<String, Tick>,
    /// Those that the log has named.
    named: BTreeSet<String>,
    /// Replicas of another wire type that the log has named.
    mistyped: BTreeSet<String>,
}

impl Register {
    pub(super) fn new(subjects: Subjects, wire_dtype: Element, metrics: BrokerMetrics) -> Self {
        let (keys, others, named, mistyped) = Default::default();
        Self { subjects, wire_dtype, metrics, roster: Roster::default(), keys, others, named, mistyped }
    }

    /// Takes one entry of the bucket in. A record counts only under the key of who it says it is: that is where a user's
    /// permissions let nobody else write.
    fn note(&mut self, now: Tick, entry: Entry) {
        match entry.operation {
            Operation::Put => match Status::from_json(&entry.value) {
                Ok(status) if entry.key != lease_key(&status.manifest, status.stage, &status.replica) => {
                    self.metrics.lease_records_refused.inc();
                    tracing::debug!(key = entry.key, "a lease record is under a key that is not its own");
                }
                Ok(status) if status.manifest != self.subjects.digest() => self.note_other(now, status.manifest),
                Ok(status) if status.wire_dtype != self.wire_dtype => self.refuse_type(&status),
                Ok(status) => {
                    self.keys.insert(entry.key, peer(&status));
                    self.roster.renewed(now, status);
                }
                Err(error) => {
                    self.metrics.lease_records_refused.inc();
                    tracing::debug!(%error, "a lease record is refused");
                }
            },
            Operation::Delete => drop(self.keys.get(&entry.key).map(|peer| self.roster.withdrawn(peer))),
            Operation::Purge => drop(self.keys.get(&entry.key).map(|peer| self.roster.ran_out(now, peer))),
        }
    }

    /// A replica serves another manifest under this pipeline's name: other weights, another cut, or another model.
    fn note_other(&mut self, now: Tick, digest: String) {
        if self.named.len() < MOST_DIGESTS && self.named.insert(digest.clone()) {
            tracing::warn!(
                pipeline = self.subjects.pipeline(),
                ours = self.subjects.digest(),
                other = digest,
                "another digest is served under the same name: a request that names no digest is answered by either. Where \
                 this is not an update, give one of them another --name"
            );
        }
        if self.others.len() < MOST_DIGESTS || self.others.contains_key(&digest) {
            self.others.insert(digest, now);
        }
    }

    /// A replica sends and takes numbers of another type: it can be no part of a path with this one.
    fn refuse_type(&mut self, status: &Status) {
        self.metrics.lease_records_refused.inc();
        if self.mistyped.len() >= MOST_DIGESTS {
            // Replicas that are started again and again have new names; those that still are there are named once more.
            self.mistyped.clear();
        }
        if self.mistyped.insert(status.replica.as_str().to_owned()) {
            tracing::error!(
                stage = status.stage,
                replica = %status.replica,
                "this replica takes and sends {} between stages, and this process {}: it counts as missing; start all stages \
                 with the same --wire-dtype",
                status.wire_dtype,
                self.wire_dtype
            );
        }
    }

    /// The living. Called at least once a renewal of this process's own lease.
    fn living(&mut self, now: Tick) -> Vec<Status> {
        self.others.retain(|_, seen| *seen + LEASE > now);
        self.metrics.other_digests.set(self.others.len() as u64);
        let living = self.roster.replicas();
        self.keys.retain(|_, peer| living.iter().any(|status| status.replica == peer.replica));
        living
    }
}

/// Turns the bucket's entries into the list of living replicas.
pub(super) async fn judge(
    mut register: Register,
    mut broker: watch::Receiver<Broker>,
    mut news: mpsc::Receiver<Entry>,
    replicas: watch::Sender<Vec<Status>>,
) {
    let start = Instant::now();
    let now = || Tick(start.elapsed().as_micros() as u64);
    loop {
        let due = register.roster.next_deadline().map(|tick| start + Duration::from_micros(tick.0));
        tokio::select! {
            // What the broker is and says first: it may keep somebody alive whose time is up.
            biased;
            changed = broker.changed() => {
                if changed.is_err() {
                    return;
                }
                match broker.borrow_and_update().up {
                    true => register.roster.broker_back(now()),
                    false => register.roster.broker_lost(),
                }
            }
            entry = news.recv() => match entry {
                Some(entry) => register.note(now(), entry),
                None => return,
            },
            () = tokio::time::sleep_until(due.unwrap_or(start)), if due.is_some() => register.roster.judge(now()),
        }
        let living = register.living(now());
        replicas.send_if_modified(|before| {
            let differs = *before != living;
            *before = living;
            differs
        });
    }
}
