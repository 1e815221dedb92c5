//! The sending end of a ring.

use super::arena::Arena;
use super::layout::{self, SLOTS, TAKEN, UNIT};
use super::{Geometry, RemoteBell, Segment};
use bytes::Bytes;
use std::io::{Error, Result};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// See the module.
#[derive(Debug)]
pub(crate) struct Outlet {
    ring: Segment,
    bell: RemoteBell,
    arena: Arena,
    sent: u32,
}

/// Why a parcel was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushError {
    /// No descriptor, slot or gap is free.
    Full,
    /// It would not even fit an empty ring.
    TooLarge,
    /// The receiver's count is none that it can have: the ring is of no use any more.
    Broken,
}

impl Outlet {
    /// The ring that process `pid` has open as `ring`, with its reader's bell.
    ///
    /// # Errors
    /// There is nothing, something else, or it may not be opened: another host, process namespace or user.
    pub(crate) fn open(pid: u32, (ring, bell): (u32, u32), nonce: u64, geometry: Geometry) -> Result<Self> {
        let ring = Segment::open(pid, ring, geometry.length())?;
        if ring.nonce().load(Acquire) != nonce {
            return Err(Error::other("the ring holds another number than was said"));
        }
        let bell = RemoteBell::open(pid, bell, nonce)?;
        Ok(Self { ring, bell, arena: Arena::new(geometry.units(), SLOTS), sent: 0 })
    }

    /// Sends a parcel: its payload's parts, and its header and trailer. The one copy of a payload is made here.
    pub(crate) fn push(&mut self, payload: &[Bytes], rest: &[u8]) -> std::result::Result<(), PushError> {
        let payload_len: usize = payload.iter().map(Bytes::len).sum();
        let units = (payload_len + rest.len()).div_ceil(UNIT);
        let units = u32::try_from(units).map_err(|_| PushError::TooLarge)?;
        let (Ok(payload_bytes), Ok(rest_bytes)) = (u32::try_from(payload_len), u32::try_from(rest.len())) else {
            return Err(PushError::TooLarge);
        };
        match self.sent.wrapping_sub(layout::read(&self.ring).load(Acquire)) {
            0..SLOTS => {}
            SLOTS => return Err(PushError::Full),
            _ => return Err(PushError::Broken),
        }
        let ring = &self.ring;
        // What the receiver has let go of is free only when all its reads are done: hence the order.
        self.arena.take_back(|slot| layout::flag(ring, slot).load(Acquire) != TAKEN);
        let (at, slot) = self.arena.take(units).ok_or(PushError::Full)?;
        let mut place = layout::place_of(at);
        for part in payload.iter().map(Bytes::as_ref).chain([rest]) {
            ring.copy_in(place, part);
            place += part.len();
        }
        layout::flag(ring, slot).store(TAKEN, Relaxed);
        for (word, value) in layout::descriptor(ring, self.sent).into_iter().zip([at, payload_bytes, rest_bytes, slot])
        {
            word.store(value, Relaxed);
        }
        self.sent = self.sent.wrapping_add(1);
        // All of the above is there for whoever sees this.
        layout::sent(ring).store(self.sent, Release);
        self.bell.ring();
        Ok(())
    }
}
