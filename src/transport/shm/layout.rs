//! What lies where in a ring's segment: its two counts, a descriptor for each parcel on its way, a flag for each slot, and
//! the arena of the parcels' bytes.

use super::Segment;
use std::sync::atomic::AtomicU32;

/// Parcels that may be on their way, and slots that they may be in until their payloads are let go of. A power of two.
pub(super) const SLOTS: u32 = 1024;
/// Bytes of a unit of the arena: places are whole units, so payloads begin at a cache line.
pub(super) const UNIT: usize = 64;
/// What a flag holds while its slot is taken; anything else is free.
pub(super) const TAKEN: u32 = 1;

/// Where the count of parcels sent is; the sender's to write.
const SENT: usize = 64;
/// Where the count of parcels read is; the receiver's to write.
const READ: usize = 128;
const DESCRIPTORS: usize = 4096;
const FLAGS: usize = DESCRIPTORS + SLOTS as usize * 16;
const ARENA: usize = FLAGS + SLOTS as usize * 4;

/// Where a parcel lies. As it comes from a peer it is checked by [`Geometry::holds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// In units from the arena's beginning.
    pub(super) at: u32,
    /// Bytes of the payload.
    pub(super) payload: u32,
    /// Bytes of header and trailer, which follow it.
    pub(super) rest: u32,
    /// The slot whose flag frees it.
    pub(super) slot: u32,
}

/// How large a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Units of the arena.
    units: u32,
}

impl Geometry {
    /// Largest arena in bytes. Memory is only taken as parcels come to lie in it.
    const MOST: u64 = 4 << 30;
    /// Room beside the payloads: for Opens with long prompts, and for gaps.
    const SPARE: u64 = 16 << 20;

    /// Room for a window of so many bytes, three times over: parcels are let go of in any order, and gaps must not stop
    /// what the window allows.
    pub(crate) fn for_window(bytes: u64) -> Self {
        Self::of(bytes.saturating_mul(3).saturating_add(Self::SPARE).min(Self::MOST)).unwrap_or(Self { units: 1 })
    }

    /// Of an arena of so many bytes, as a peer says it; `None` if there is no such ring.
    pub(crate) fn of(arena_bytes: u64) -> Option<Self> {
        let units = arena_bytes.div_ceil(UNIT as u64);
        let legal = (1..=Self::MOST / UNIT as u64).contains(&units);
        legal.then_some(Self { units: units as u32 })
    }

    /// Bytes of the arena.
    pub(crate) fn arena_bytes(self) -> u64 {
        u64::from(self.units) * UNIT as u64
    }

    /// Bytes of the whole segment.
    pub(crate) fn length(self) -> usize {
        ARENA + self.units as usize * UNIT
    }

    pub(super) fn units(self) -> u32 {
        self.units
    }

    /// Whether the parcel lies within the arena, and its slot is one.
    pub(super) fn holds(self, place: Place) -> bool {
        let end = u64::from(place.at) * UNIT as u64 + u64::from(place.payload) + u64::from(place.rest);
        end <= self.arena_bytes() && place.slot < SLOTS
    }
}

/// Where in the segment a unit of the arena is.
pub(super) fn place_of(unit: u32) -> usize {
    ARENA + unit as usize * UNIT
}

/// The count of parcels sent.
pub(super) fn sent(ring: &Segment) -> &AtomicU32 {
    ring.word(SENT)
}

/// The count of parcels read.
pub(super) fn read(ring: &Segment) -> &AtomicU32 {
    ring.word(READ)
}

/// The words of the `number`th descriptor.
pub(super) fn descriptor(ring: &Segment, number: u32) -> [&AtomicU32; 4] {
    let at = DESCRIPTORS + (number % SLOTS) as usize * 16;
    [0, 4, 8, 12].map(|word| ring.word(at + word))
}

/// The flag of a slot, which is one.
pub(super) fn flag(ring: &Segment, slot: u32) -> &AtomicU32 {
    ring.word(FLAGS + (slot % SLOTS) as usize * 4)
}
