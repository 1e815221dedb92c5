//! How a stage does, for whoever looks: metrics, the demo's table, readiness.

use crate::base::StageIndex;
use crate::core::machine::StageCounts;
use crate::core::requests::DoorCounts;
use crate::door::desk::DeskCounts;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A stage at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// What it has run.
    pub counts: StageCounts,
    /// Sequences that it holds.
    pub live_sequences: usize,
    /// Rows that wait for its device.
    pub queued_rows: u64,
    /// KV blocks that nobody holds.
    pub kv_blocks_free: u32,
    /// All KV blocks.
    pub kv_blocks_total: u32,
    /// Time that its device has worked for it.
    pub busy: Duration,
    /// Time that it has held at least one sequence: of this, what was not busy is bubble.
    pub live_time: Duration,
    /// At stage 0: requests in the pipeline and in the queue, and the door's counts.
    pub door: Option<((usize, usize), DoorCounts, DeskCounts)>,
    /// At stage 0: the first stage without a live replica.
    pub missing_stage: Option<StageIndex>,
}

/// Where a pump shows its newest snapshot. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Snapshot>>);

impl Board {
    /// Shows `snapshot`.
    pub fn show(&self, snapshot: Snapshot) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// The newest.
    pub fn read(&self) -> Snapshot {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
