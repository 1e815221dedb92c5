//! What a connection did, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Figures of one connection, from its start.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    copied_bytes: AtomicU64,
    fragments: AtomicU64,
    received: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    unreachable: AtomicU64,
    misplaced: AtomicU64,
    other_digests: AtomicU64,
}

impl Counters {
    /// Other digests that are served under the pipeline's name.
    pub fn other_digests(&self) -> u64 {
        self.other_digests.load(Relaxed)
    }

    pub(crate) fn set_other_digests(&self, n: usize) {
        self.other_digests.store(n as u64, Relaxed);
    }
}

/// A reader and a crate-private writer for each figure.
macro_rules! figures {
    ($($(#[$doc:meta])* $figure:ident, $add:ident;)*) => {
        impl Counters {
            $($(#[$doc])* pub fn $figure(&self) -> u64 { self.$figure.load(Relaxed) }
            pub(in crate) fn $add(&self, n: usize) { self.$figure.fetch_add(n as u64, Relaxed); })*
        }
    };
}

figures! {
    /// Parcels sent.
    sent, add_sent;
    /// Bytes of the parcels sent.
    sent_bytes, add_sent_bytes;
    /// Bytes of payloads that were copied to be sent, since their buffer was shared or full.
    copied_bytes, add_copied_bytes;
    /// Fragments sent.
    fragments, add_fragments;
    /// Parcels received whole.
    received, add_received;
    /// Parcels and fragments refused: malformed, of another version, over a limit, or after a hole.
    refused, add_refused;
    /// Messages dropped since nobody took them in time.
    dropped, add_dropped;
    /// Messages sent that found nobody.
    unreachable, add_unreachable;
    /// Lease records refused: malformed, or under a key that is not their own.
    misplaced, add_misplaced;
}
