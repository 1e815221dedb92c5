//! The receiving end of a ring, and all those of a replica.

use super::bell::Stranger;
use super::layout::{self, SLOTS};
use super::{Bell, Geometry, Place, Segment};
use bytes::Bytes;
use stageline_base::ReplicaId;
use stageline_core::{Body, Mail};
use stageline_metrics::HopMetrics;
use stageline_wire::{MAX_HEADER_BYTES, TRAILER_BYTES, decode_parts};
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Rings that wait to be read for the first time.
const WAITING: usize = 16;

/// A ring of which nothing more is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// See the module.
#[derive(Debug)]
pub(crate) struct Inlet {
    ring: Arc<Segment>,
    geometry: Geometry,
    /// Largest payload.
    most_bytes: usize,
    from: ReplicaId,
    read: u32,
    /// Set when its stream has ended.
    gone: Arc<AtomicBool>,
    /// Cancelled here when the peer breaks the ring's rules, which ends its stream.
    broken: CancellationToken,
    metrics: HopMetrics,
    _sender: Stranger,
}

impl Inlet {
    /// A new ring for mail of `from`, whose reader waits on `bell`.
    pub(crate) fn create(
        bell: &Bell,
        geometry: Geometry,
        most_bytes: usize,
        (from, metrics): (ReplicaId, HopMetrics),
    ) -> Result<Self> {
        let ring = Arc::new(Segment::create(geometry.length())?);
        ring.nonce().store(bell.nonce(), Release);
        let (gone, broken) = (Arc::default(), CancellationToken::new());
        Ok(Self { ring, geometry, most_bytes, from, read: 0, gone, broken, metrics, _sender: bell.stranger() })
    }

    /// The number of its file.
    pub(crate) fn number(&self) -> u32 {
        self.ring.number()
    }

    /// What its stream sets when it ends, and what tells the stream that the ring is of no use any more.
    pub(crate) fn ends(&self) -> (Arc<AtomicBool>, CancellationToken) {
        (self.gone.clone(), self.broken.clone())
    }

    /// The next mail; what is no legal mail is counted and left out.
    pub(super) fn next(&mut self) -> std::result::Result<Option<Mail>, Broken> {
        loop {
            let Some((payload, rest)) = self.parcel()? else { return Ok(None) };
            match decode_parts(payload, &rest) {
                Ok(mail) if mail.from == self.from && matches!(mail.body, Body::Link(_)) => {
                    self.metrics.hop_received.inc();
                    return Ok(Some(mail));
                }
                Ok(_) => tracing::debug!(from = %self.from, "a parcel is not its sender's, or not of the stream plane"),
                Err(error) => tracing::debug!(from = %self.from, %error, "a parcel is refused"),
            }
            self.metrics.hop_refused.inc();
        }
    }

    /// The next parcel: its payload where it lies, and a copy of its header and trailer.
    fn parcel(&mut self) -> std::result::Result<Option<(Bytes, Vec<u8>)>, Broken> {
        match layout::sent(&self.ring).load(Acquire).wrapping_sub(self.read) {
            0 => return Ok(None),
            1..=SLOTS => {}
            _ => return Err(Broken),
        }
        // Read once and then judged: what the peer writes there afterwards is not looked at.
        let [at, payload, rest, slot] = layout::descriptor(&self.ring, self.read).map(|word| word.load(Relaxed));
        let place = Place { at, payload, rest, slot };
        let within = payload as usize <= self.most_bytes && rest as usize <= MAX_HEADER_BYTES + TRAILER_BYTES;
        if !within || !self.geometry.holds(place) {
            return Err(Broken);
        }
        let start = layout::place_of(place.at);
        let parcel = Parcel { ring: self.ring.clone(), start, length: payload as usize, slot };
        let rest = self.ring.copy_out(start + parcel.length, rest as usize);
        // Dropped at once, where there is none.
        let payload = if parcel.length == 0 { Bytes::new() } else { Bytes::from_owner(parcel) };
        self.read = self.read.wrapping_add(1);
        layout::read(&self.ring).store(self.read, Release);
        Ok(Some((payload, rest)))
    }
}

/// A payload where it lies; dropped, its place is the sender's again.
struct Parcel {
    ring: Arc<Segment>,
    start: usize,
    length: usize,
    slot: u32,
}

impl AsRef<[u8]> for Parcel {
    fn as_ref(&self) -> &[u8] {
        self.ring.bytes(self.start, self.length)
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        layout::flag(&self.ring, self.slot).store(0, Release);
    }
}

/// The rings into a replica, as its pump reads them. Nothing wakes who waits for them but the bell of their thread, after
/// which they are all looked at.
#[derive(Debug)]
pub(crate) struct Rings {
    new: mpsc::Receiver<Inlet>,
    open: Vec<Inlet>,
    /// Whose turn it is: nobody's flood keeps the others out.
    turn: usize,
}

/// Where new rings are handed in.
pub(crate) type RingsEnd = mpsc::Sender<Inlet>;

impl Rings {
    /// None so far.
    pub(crate) fn new() -> (RingsEnd, Self) {
        let (end, new) = mpsc::channel(WAITING);
        (end, Self { new, open: Vec::new(), turn: 0 })
    }

    /// The next mail of any of them.
    pub(crate) fn next(&mut self) -> Option<Mail> {
        while let Ok(ring) = self.new.try_recv() {
            self.open.push(ring);
        }
        self.open.retain(|ring| !ring.gone.load(Acquire));
        for _ in 0..self.open.len() {
            self.turn = (self.turn + 1) % self.open.len();
            match self.open[self.turn].next() {
                Ok(Some(mail)) => return Some(mail),
                Ok(None) => {}
                Err(Broken) => {
                    let ring = &self.open[self.turn];
                    tracing::error!(from = %ring.from, "a ring holds what its sender cannot have written: it is given up");
                    ring.metrics.hop_refused.inc();
                    ring.broken.cancel();
                    ring.gone.store(true, Release);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
