//! Leases within one process: no broker, no time. A replica lives until its keeper is gone.

use super::Peer;
use super::lease::{LeaseKeeper, LeaseView, peer};
use stageline_wire::Status;
use std::collections::BTreeMap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The leases of one process's replicas. Clones share them.
#[derive(Clone, Debug)]
pub struct LeaseBoard {
    board: watch::Sender<BTreeMap<Peer, Status>>,
}

impl Default for LeaseBoard {
    fn default() -> Self {
        Self { board: watch::Sender::new(BTreeMap::new()) }
    }
}

impl LeaseBoard {
    /// A board without leases.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a lease for the replica of `status`. On return it is seen. Needs a tokio runtime.
    pub fn keep(&self, status: Status) -> LeaseKeeper {
        let board = self.board.clone();
        let peer = peer(&status);
        board.send_modify(|board| drop(board.insert(peer.clone(), status.clone())));
        LeaseKeeper::spawn(status, |mut ends| async move {
            loop {
                tokio::select! {
                    // An end is final, so it goes before a change.
                    biased;
                    _ = &mut ends.withdraw => break,
                    changed = ends.status.changed() => if changed.is_err() { break },
                }
                let status = ends.status.borrow_and_update().clone();
                board.send_modify(|board| drop(board.insert(peer.clone(), status)));
            }
            board.send_modify(|board| drop(board.remove(&peer)));
        })
    }

    /// Watches the leases. Needs a tokio runtime.
    pub fn watch(&self) -> LeaseView {
        let mut board = self.board.subscribe();
        let list = |board: &BTreeMap<Peer, Status>| board.values().cloned().collect::<Vec<_>>();
        let (replicas, view) = watch::channel(list(&board.borrow_and_update()));
        let stop = CancellationToken::new();
        let copy = async move {
            while board.changed().await.is_ok() {
                replicas.send_replace(list(&board.borrow_and_update()));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(copy));
        LeaseView::new(view, stop.drop_guard())
    }
}
