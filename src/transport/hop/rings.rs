//! How both ends of a stream agree on a ring.

use crate::shm::{Bell, Geometry, Inlet, Outlet, RingsEnd};
use stageline_base::ReplicaId;
use stageline_metrics::HopMetrics;
use stageline_proto::join::Ring;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Release;
use tokio_util::sync::CancellationToken;

/// What rings into a replica are made with.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) bell: Arc<Bell>,
    pub(super) rings: RingsEnd,
    pub(super) geometry: Geometry,
}

impl Home {
    /// Makes a ring for `from` and hands it to the pump. Says where it is.
    ///
    /// # Errors
    /// The system's words, or that too many are being made.
    pub(super) fn ring(
        &self,
        from: &ReplicaId,
        most_bytes: usize,
        metrics: HopMetrics,
    ) -> Result<(Ring, Stay), String> {
        let inlet = Inlet::create(&self.bell, self.geometry, most_bytes, (from.clone(), metrics));
        let inlet = inlet.map_err(|error| error.to_string())?;
        let ring = Ring {
            pid: std::process::id(),
            ring_fd: inlet.number(),
            doorbell_fd: self.bell.number(),
            nonce: self.bell.nonce(),
            arena_bytes: self.geometry.arena_bytes(),
        };
        let (gone, broken) = inlet.ends();
        let stay = Stay { bell: self.bell.clone(), gone, broken };
        self.rings.try_send(inlet).map_err(|_| "too many rings are being made".to_owned())?;
        self.bell.ring();
        Ok((ring, stay))
    }
}

/// As long as a ring's stream. Dropped, the pump lets go of the ring.
pub(super) struct Stay {
    bell: Arc<Bell>,
    gone: Arc<AtomicBool>,
    /// Cancelled when the ring is of no use any more.
    pub(super) broken: CancellationToken,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.gone.store(true, Release);
        self.bell.ring();
    }
}

/// Opens the ring that a receiver has made.
///
/// # Errors
/// Why it cannot be used, and what to do.
pub(super) fn open(ring: Option<Ring>) -> Result<Outlet, String> {
    let ring = ring.ok_or("the receiver has made no ring: is it of the same build?")?;
    let geometry = Geometry::of(ring.arena_bytes).ok_or("the ring is of no size that a ring can have")?;
    Outlet::open(ring.pid, (ring.ring_fd, ring.doorbell_fd), ring.nonce, geometry).map_err(|error| {
        format!(
            "the receiver's ring cannot be opened ({error}): run both stages on one host, in one process namespace and as \
             one user, or choose --hop grpc"
        )
    })
}
