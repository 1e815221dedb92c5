//! Hops within one process: mail is passed on as it is.

use super::{Arrived, Mailbox, Peer, Plane, Post, PostError, Slots};
use stageline_base::ReplicaId;
use stageline_core::Mail;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::mpsc::error::TrySendError;

/// The replicas of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryNet {
    registry: Arc<RwLock<HashMap<ReplicaId, (Peer, Slots)>>>,
}

impl MemoryNet {
    /// A net without replicas.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `peer`, in the place of what was there under its id.
    pub fn register(&self, peer: Peer) -> Mailbox {
        let (slots, mailbox) = Slots::new();
        self.write().insert(peer.replica.clone(), (peer, slots));
        mailbox
    }

    /// Takes `replica` away, as if its process had died: its mailbox ends, and mail to it comes back as unreachable.
    pub fn remove(&self, replica: &ReplicaId) {
        self.write().remove(replica);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<ReplicaId, (Peer, Slots)>> {
        // Nothing under this lock can leave the map half changed, so a panic elsewhere does not spoil it.
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ReplicaId, (Peer, Slots)>> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Post for MemoryNet {
    fn post(&self, to: &Peer, mail: Mail) -> Result<(), PostError> {
        let from = mail.from.clone();
        // Only to read: whom this wakes may post before the lock is given back, and would wait for it at once.
        let sent = match self.read().get(&to.replica) {
            Some((peer, slots)) if peer == to => slots.of(Plane::of(&mail.body)).try_send(Arrived::Mail(mail)),
            _ => Err(TrySendError::Closed(Arrived::Mail(mail))),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(PostError::Full),
            Err(TrySendError::Closed(_)) => {
                let mut registry = self.write();
                // Unless somebody else has just come in its place.
                let closed = |(peer, slots): &(Peer, Slots)| peer == to && slots.control.is_closed();
                if registry.get(&to.replica).is_some_and(closed) {
                    registry.remove(&to.replica);
                }
                if let Some((_, sender)) = registry.get(&from) {
                    // A hint: where it does not fit, the link's timer finds out.
                    let _ = sender.control.try_send(Arrived::Unreachable { peer: to.clone() });
                }
                Ok(())
            }
        }
    }
}
