//! Messages that are sent again until their receiver acknowledges them by number.

use stageline_base::Tick;
use std::collections::BTreeMap;
use std::time::Duration;

/// First wait for an acknowledgement; it doubles up to [`MOST`].
const FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two sendings, unless the first is longer.
const MOST: Duration = Duration::from_secs(2);
/// A slow way, in bytes a microsecond: less than a tenth of a gigabit link, which others use too.
const SLOW_BYTES_PER_US: u64 = 8;

#[derive(Debug)]
struct Entry<T> {
    message: T,
    next: Tick,
    wait: Duration,
}

/// Unacknowledged messages to one receiver, in order of their numbers.
#[derive(Debug)]
pub struct Outbox<T> {
    last: u64,
    entries: BTreeMap<u64, Entry<T>>,
}

impl<T: Clone> Outbox<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self { last: 0, entries: BTreeMap::new() }
    }

    /// Numbers and keeps `message`, which the caller sends now.
    pub fn add(&mut self, now: Tick, message: T) -> u64 {
        self.add_large(now, message, 0)
    }

    /// The same of a message that takes a while to get there.
    pub fn add_large(&mut self, now: Tick, message: T, bytes: u64) -> u64 {
        self.last += 1;
        let wait = FIRST + Duration::from_micros(bytes / SLOW_BYTES_PER_US);
        self.entries.insert(self.last, Entry { message, next: now + wait, wait });
        self.last
    }

    /// The receiver has it.
    pub fn acknowledged(&mut self, number: u64) {
        self.entries.remove(&number);
    }

    /// Whether everything has been acknowledged.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Messages that have not been acknowledged.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// When something is due to be sent again.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.entries.values().map(|e| e.next).min()
    }

    /// What is due to be sent again at `now`.
    pub fn due(&mut self, now: Tick) -> Vec<(u64, T)> {
        let mut due = Vec::new();
        for (number, entry) in &mut self.entries {
            if entry.next <= now {
                entry.wait = (entry.wait * 2).min(MOST.max(entry.wait));
                entry.next = now + entry.wait;
                due.push((*number, entry.message.clone()));
            }
        }
        due
    }
}

impl<T: Clone> Default for Outbox<T> {
    fn default() -> Self {
        Self::new()
    }
}
