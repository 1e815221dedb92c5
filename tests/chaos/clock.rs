//! The driver's own time. A schedule is kept by beats, as a music box does: nobody waits for something to have happened.

use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at};

/// Beats so often.
const BEAT: Duration = Duration::from_millis(20);

/// Time since the faults began.
pub struct Clock {
    begun: Instant,
    beat: Interval,
}

impl Clock {
    pub fn start() -> Self {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { begun: Instant::now(), beat }
    }

    /// The time at the next beat.
    pub async fn tick(&mut self) -> Duration {
        self.beat.tick().await;
        self.begun.elapsed()
    }
}

/// Resolves `after` from now: for what a schedule or a slow link makes late.
pub async fn due(after: Duration) {
    interval_at(Instant::now() + after, BEAT).tick().await;
}
