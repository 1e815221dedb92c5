//! Sequences that were closed lately: what still arrives of them is late.

use crate::planted::Planted;
use stageline_base::{Attempt, SequenceId, Tick};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Closed sequences remembered of one door. Beyond it the oldest is forgotten: a door closes what it has opened, and a late
/// Open is late by moments.
pub(super) const MOST: usize = 8192;

/// See the module. By the doors' boot nonces, so that one door's flood pushes nobody else's out.
#[derive(Debug)]
pub(super) struct Tombstones {
    lease: Duration,
    most: usize,
    doors: BTreeMap<u64, Door>,
}

#[derive(Debug, Default)]
struct Door {
    /// Up to which attempt, and until when it is remembered.
    closed: HashMap<u64, (Attempt, Tick)>,
    /// In the order in which they are forgotten; one that was closed again is in it again.
    order: VecDeque<(Tick, u64)>,
}

impl Tombstones {
    pub(super) fn new(lease: Duration, planted: Planted) -> Self {
        let most = if planted == Planted::KeepTombstones { usize::MAX } else { MOST };
        Self { lease, most, doors: BTreeMap::new() }
    }

    /// `attempt` and every lower one is closed.
    pub(super) fn add(&mut self, now: Tick, sequence: SequenceId, attempt: Attempt) {
        let until = now + self.lease;
        let door = self.doors.entry(sequence.boot).or_default();
        let entry = door.closed.entry(sequence.counter).or_insert((attempt, until));
        let repeated = entry.1 == until && door.order.back() == Some(&(until, sequence.counter));
        *entry = (entry.0.max(attempt), until);
        if !repeated {
            door.order.push_back((until, sequence.counter));
        }
        while door.order.len() > self.most {
            door.forget_oldest();
        }
    }

    /// Whether that attempt is known to be closed.
    pub(super) fn holds(&self, sequence: SequenceId, attempt: Attempt) -> bool {
        let closed = self.doors.get(&sequence.boot).and_then(|door| door.closed.get(&sequence.counter));
        closed.is_some_and(|(closed, _)| *closed >= attempt)
    }

    /// Forgets those whose time is over.
    pub(super) fn sweep(&mut self, now: Tick) {
        for door in self.doors.values_mut() {
            while door.order.front().is_some_and(|(until, _)| *until <= now) {
                door.forget_oldest();
            }
        }
        self.doors.retain(|_, door| !door.order.is_empty());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.doors.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.doors.values().map(|door| door.order.len()).sum()
    }
}

impl Door {
    fn forget_oldest(&mut self) {
        let Some((until, counter)) = self.order.pop_front() else { return };
        // Closed again since, it is further back.
        if self.closed.get(&counter).is_some_and(|(_, last)| *last == until) {
            self.closed.remove(&counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(boot: u64, counter: u64) -> SequenceId {
        SequenceId { boot, counter }
    }

    #[test]
    fn one_door_is_remembered_up_to_a_bound_and_for_a_lease() {
        let lease = Duration::from_secs(3);
        let mut tombstones = Tombstones::new(lease, Planted::None);
        tombstones.add(Tick(0), sequence(1, 1), 7);
        for counter in 1..=3 * MOST as u64 {
            tombstones.add(Tick(counter), sequence(2, counter), 1);
        }
        assert_eq!(tombstones.len(), MOST + 1);
        assert!(
            tombstones.holds(sequence(1, 1), 7) && !tombstones.holds(sequence(1, 1), 8),
            "the other door's is kept"
        );
        assert!(!tombstones.holds(sequence(2, 1), 1) && tombstones.holds(sequence(2, 3 * MOST as u64), 1));
        tombstones.sweep(Tick(0) + lease);
        assert!(!tombstones.holds(sequence(1, 1), 7));
        tombstones.sweep(Tick(3 * MOST as u64) + lease);
        assert!(tombstones.is_empty());
    }

    #[test]
    fn what_is_closed_again_is_remembered_anew_with_its_highest_attempt() {
        let mut tombstones = Tombstones::new(Duration::from_micros(10), Planted::None);
        tombstones.add(Tick(0), sequence(1, 1), 5);
        tombstones.add(Tick(5), sequence(1, 1), 3);
        tombstones.sweep(Tick(10));
        assert!(tombstones.holds(sequence(1, 1), 5));
        tombstones.sweep(Tick(15));
        assert!(tombstones.is_empty());
    }
}
