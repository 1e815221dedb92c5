//! The time of day, as far as it never goes back.

use stageline_core::durable::Wall;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, by the system's clock. Where that is set back, time goes on from where it was; where it is set forward, or
/// the machine slept, this follows: leases and deadlines of others have passed, too.
#[derive(Debug)]
pub struct Clock {
    /// Of this clock at the instant.
    began: AtomicU64,
    since: Instant,
}

fn system() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// One that begins now.
    pub fn new() -> Self {
        Self { began: AtomicU64::new(system()), since: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Wall {
        self.at(self.since.elapsed().as_millis() as u64, system())
    }

    fn at(&self, elapsed: u64, system: u64) -> Wall {
        let began = self.began.fetch_max(system.saturating_sub(elapsed), Relaxed);
        Wall(began.max(system.saturating_sub(elapsed)) + elapsed)
    }

    /// When `time` has passed.
    pub fn after(&self, time: Duration) -> Wall {
        Wall(self.now().0 + time.as_millis() as u64)
    }

    /// How long it is until `then`.
    pub fn until(&self, then: Wall) -> Duration {
        Duration::from_millis(then.0.saturating_sub(self.now().0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_a_clock_that_is_set_forward_and_not_one_that_is_set_back() {
        let clock = Clock { began: AtomicU64::new(1000), since: Instant::now() };
        assert_eq!(clock.at(10, 1010), Wall(1010));
        assert_eq!(clock.at(20, 5), Wall(1020));
        assert_eq!(clock.at(30, 9030), Wall(9030));
        assert_eq!(clock.at(40, 1040), Wall(9040));
    }
}
