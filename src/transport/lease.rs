//! Who lives: every replica holds a lease and renews it; everyone else watches.

use super::Peer;
use stageline_wire::Status;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

/// How long a replica is taken to live after it has renewed its lease. Whole seconds: the broker counts no finer.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often a replica renews its lease.
pub const RENEWAL: Duration = Duration::from_secs(1);

/// A replica came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// It holds a lease now; its record as it was first seen.
    Appeared(Status),
    /// It withdrew, or did not renew in time.
    Gone(Peer),
}

/// The replicas of a pipeline, of this process's manifest and wire version, as far as is known.
#[derive(Debug)]
pub struct LeaseView {
    replicas: watch::Receiver<Vec<Status>>,
    known: BTreeSet<Peer>,
    pending: VecDeque<LeaseEvent>,
    _stop: DropGuard,
}

impl LeaseView {
    pub(super) fn new(replicas: watch::Receiver<Vec<Status>>, stop: DropGuard) -> Self {
        let mut replicas = replicas;
        replicas.mark_changed();
        Self { replicas, known: BTreeSet::new(), pending: VecDeque::new(), _stop: stop }
    }

    /// The live replicas with their newest records, by stage and id.
    pub fn replicas(&self) -> watch::Receiver<Vec<Status>> {
        self.replicas.clone()
    }

    /// The next replica that came or went; those that were there before are told first. `None` when the transport has been
    /// shut down. One that went and came back between two calls is not told of. Cancel-safe.
    pub async fn event(&mut self) -> Option<LeaseEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            self.replicas.changed().await.ok()?;
            let now = self.replicas.borrow_and_update();
            let live: BTreeSet<Peer> = now.iter().map(peer).collect();
            let gone = self.known.difference(&live).cloned();
            self.pending.extend(gone.map(LeaseEvent::Gone));
            let new = now.iter().filter(|status| !self.known.contains(&peer(status))).cloned();
            self.pending.extend(new.map(LeaseEvent::Appeared));
            self.known = live;
        }
    }
}

/// Who a record is of.
pub(super) fn peer(status: &Status) -> Peer {
    Peer { stage: status.stage, replica: status.replica.clone() }
}

/// Holds this replica's lease. Dropped, it leaves the lease to run out, as a killed process does.
#[derive(Debug)]
pub struct LeaseKeeper {
    status: watch::Sender<Status>,
    held: watch::Receiver<bool>,
    withdraw: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// The task's ends of a [`LeaseKeeper`].
pub(super) struct KeeperEnds {
    /// The record to publish.
    pub(super) status: watch::Receiver<Status>,
    /// Whether the lease is held.
    pub(super) held: watch::Sender<bool>,
    /// Resolves to `Ok` when the lease is to be withdrawn, to `Err` when its keeper is gone.
    pub(super) withdraw: oneshot::Receiver<()>,
}

impl LeaseKeeper {
    /// A keeper whose lease is held by the task that `run` makes.
    pub(super) fn spawn<F>(status: Status, run: impl FnOnce(KeeperEnds) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (status, status_end) = watch::channel(status);
        let (held_end, held) = watch::channel(true);
        let (withdraw, withdraw_end) = oneshot::channel();
        let task = tokio::spawn(run(KeeperEnds { status: status_end, held: held_end, withdraw: withdraw_end }));
        Self { status, held, withdraw, task }
    }

    /// Changes the record. Another phase is published at once, anything else with the next renewal.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// Whether the lease is held: false when it could not be renewed in time.
    pub fn held(&self) -> watch::Receiver<bool> {
        self.held.clone()
    }

    /// Gives the lease up: everyone sees the replica go at once.
    pub async fn withdraw(self) {
        let Self { withdraw, task, .. } = self;
        // Where the task has ended already, there is nothing to give up.
        let _ = withdraw.send(());
        let _ = task.await;
    }
}
