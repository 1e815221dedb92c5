//! The time of day, as far as it never goes back.

use stageline_core::durable::Wall;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970: what the system said when this was made, and what has passed since. Whoever sets the system's clock
/// meanwhile makes no lease, pause or deadline longer or shorter.
#[derive(Debug)]
pub(super) struct Clock {
    began: Wall,
    since: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { began: Wall(now.as_millis() as u64), since: Instant::now() }
    }

    pub(super) fn now(&self) -> Wall {
        Wall(self.began.0 + self.since.elapsed().as_millis() as u64)
    }

    /// How long it is until `then`.
    pub(super) fn until(&self, then: Wall) -> Duration {
        Duration::from_millis(then.0.saturating_sub(self.now().0))
    }
}
