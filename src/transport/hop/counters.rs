//! What the hops beside NATS did, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Figures of one replica's hops, from its start.
#[derive(Debug, Default)]
pub struct HopCounters {
    received: AtomicU64,
    refused: AtomicU64,
    impossible: AtomicU64,
    opened: AtomicU64,
}

/// A reader and a crate-private writer for each figure.
macro_rules! figures {
    ($($(#[$doc:meta])* $figure:ident, $add:ident;)*) => {
        impl HopCounters {
            $($(#[$doc])* pub fn $figure(&self) -> u64 { self.$figure.load(Relaxed) }
            pub(in crate) fn $add(&self) { self.$figure.fetch_add(1, Relaxed); })*
        }
    };
}

figures! {
    /// Parcels received whole.
    received, add_received;
    /// Parcels and joins refused: malformed, of another version, over a limit, or meant for somebody else.
    refused, add_refused;
    /// Hops that could not be made as they were asked for.
    impossible, add_impossible;
    /// Hops made to the next stage.
    opened, add_opened;
}
