//! What the metrics and the lease are told.

use super::Pump;
use stageline_base::Tick;
use stageline_core::Refusals;
use stageline_core::machine::StageCounts;
use stageline_metrics::{Counters, StageMetrics};
use std::time::Duration;

/// What the metrics and the lease were told last.
#[derive(Default)]
pub(super) struct Told {
    at: Tick,
    busy: Duration,
    bubble: Duration,
    /// Time in which a sequence was held.
    held: Duration,
    live: u64,
    free: u32,
    counts: StageCounts,
    replays: u64,
    epochs: u32,
    door_refused: Refusals,
}

impl Pump {
    /// Lets the stage's metrics see something.
    pub(super) fn observe(&self, see: impl FnOnce(&StageMetrics)) {
        if let Some(stage) = self.metrics.stage(self.me.stage) {
            see(stage);
        }
    }

    /// Brings metrics and lease up to date.
    pub(super) fn publish(&mut self) {
        let now = self.now();
        let (free, total) = self.machine.kv_blocks();
        let live = self.machine.live() as u64;
        if let Some(stage) = self.metrics.stage(self.me.stage) {
            stage.queued_rows.set(self.machine.queued_rows());
            stage.live_sequences.set(live);
            stage.kv_blocks.set(total.into());
            stage.kv_blocks_used.set((total - free).into());
            let counts = self.machine.counts();
            stage.link_lost.inc_by(counts.lost - self.told.counts.lost);
            count_more(&stage.faults, &counts.faults, &self.told.counts.faults);
            count_more(&stage.refused, &counts.refused, &self.told.counts.refused);
            self.told.counts = counts;
            // While a sequence is held, time in which the device did nothing for this stage is its bubble. A batch's
            // time is known when it is back, so the two are only compared while none is on the device.
            if self.told.live > 0 {
                self.told.held += now.since(self.told.at);
            }
            self.told.at = now;
            let busy = self.device.busy();
            stage.device_busy_seconds.inc_by(busy.saturating_sub(self.told.busy).as_secs_f64());
            self.told.busy = busy;
            if self.on_device.is_empty() {
                let bubble = self.told.held.saturating_sub(busy);
                stage.device_bubble_seconds.inc_by(bubble.saturating_sub(self.told.bubble).as_secs_f64());
                self.told.bubble = self.told.bubble.max(bubble);
            }
        }
        if let Some(desk) = &self.desk {
            let counts = desk.machine().counts();
            if let Some(stage) = self.metrics.stage(self.me.stage) {
                count_more(&stage.refused, &counts.refused, &self.told.door_refused);
                self.told.door_refused = counts.refused;
            }
            let replays = counts.replays;
            self.metrics.door.requests_waiting.set(desk.machine().waiting() as u64);
            self.metrics.door.replays.inc_by(replays - self.told.replays);
            self.told.replays = replays;
        }
        let epochs = self.machine.epoch_ceiling();
        if epochs != self.told.epochs {
            self.lease.update(|status| status.link_epochs = epochs);
            self.told.epochs = epochs;
        }
        if (free, live) != (self.told.free, self.told.live) {
            self.lease.update(|status| {
                status.kv_blocks_free = free;
                status.live_sequences = live as u32;
            });
            (self.told.free, self.told.live) = (free, live);
        }
    }
}

/// Counts what has come since `told`.
fn count_more(metrics: &Counters, counts: &[u64], told: &[u64]) {
    for ((metric, count), told) in metrics.iter().zip(counts).zip(told) {
        metric.inc_by(count - told);
    }
}
