//! Decode rows leave the door in groups, one microbatch each, and a group leaves again when all of it is back.
//!
//! Left alone, sequences that once ran in different batches would stay apart for ever, since a stage runs what it has; and
//! with every sequence in one batch only one stage would be busy at a time. So the door keeps the microbatches.

use crate::base::{SequenceId, Tick};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a group waits for its missing members before its first round has been timed.
const FIRST_PATIENCE: Duration = Duration::from_millis(50);
/// Bounds of what a group waits later.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

#[derive(Debug, Default)]
struct Group {
    /// In the pipeline.
    away: BTreeSet<SequenceId>,
    /// Ready for the next round, in order of return.
    back: Vec<SequenceId>,
    left_at: Tick,
    first_back: Option<Tick>,
    patience: Option<Duration>,
}

impl Group {
    fn len(&self) -> usize {
        self.away.len() + self.back.len()
    }

    /// When it leaves without those who are still away: a lost row must not hold the others up for ever.
    fn leaves_at(&self) -> Option<Tick> {
        self.first_back.map(|at| at + self.patience.unwrap_or(FIRST_PATIENCE))
    }
}

/// The groups of a door.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Group>,
    most_away: usize,
}

impl Groups {
    /// `count` groups, of which at most `most_away` are in the pipeline at once.
    pub fn new(count: usize, most_away: usize) -> Self {
        let groups = (0..count.max(1)).map(|_| Group::default()).collect();
        Self { groups, most_away: most_away.max(1) }
    }

    /// A sequence has a row for the next round: it is back, or joins the smallest group.
    pub fn ready(&mut self, now: Tick, sequence: SequenceId) {
        let home = self.groups.iter().position(|g| g.away.contains(&sequence));
        let home = home.unwrap_or_else(|| self.smallest());
        let group = &mut self.groups[home];
        group.away.remove(&sequence);
        if !group.back.contains(&sequence) {
            group.back.push(sequence);
        }
        group.first_back.get_or_insert(now);
    }

    /// A sequence has ended or must be replayed.
    pub fn leave(&mut self, sequence: SequenceId) {
        for group in &mut self.groups {
            group.away.remove(&sequence);
            group.back.retain(|s| *s != sequence);
            if group.back.is_empty() {
                group.first_back = None;
            }
        }
    }

    /// The groups that leave now, each one microbatch.
    pub fn release(&mut self, now: Tick) -> Vec<Vec<SequenceId>> {
        self.even_out(now);
        let mut leaving = Vec::new();
        for index in 0..self.groups.len() {
            let away = self.groups.iter().filter(|g| !g.away.is_empty()).count();
            let group = &mut self.groups[index];
            let whole = group.away.is_empty() && away < self.most_away;
            let late = !group.away.is_empty() && group.leaves_at().is_some_and(|at| at <= now);
            if group.back.is_empty() || !(whole || late) {
                continue;
            }
            if whole && group.left_at != Tick(0) {
                group.patience = Some(now.since(group.left_at).clamp(PATIENCE.0, PATIENCE.1));
            }
            let back = std::mem::take(&mut group.back);
            group.first_back = None;
            group.left_at = now;
            group.away.extend(&back);
            leaving.push(back);
        }
        leaving
    }

    /// Sequences end at different times: what a whole group has above an equal share moves to the smallest one.
    fn even_out(&mut self, now: Tick) {
        let share = self.groups.iter().map(Group::len).sum::<usize>().div_ceil(self.groups.len());
        for index in 0..self.groups.len() {
            let group = &mut self.groups[index];
            if !group.away.is_empty() || group.len() <= share {
                continue;
            }
            for sequence in group.back.split_off(share) {
                let smallest = self.smallest();
                let group = &mut self.groups[smallest];
                group.back.push(sequence);
                group.first_back.get_or_insert(now);
            }
        }
    }

    /// When [`Groups::release`] has something to do although nothing comes back.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.groups.iter().filter(|g| !g.away.is_empty()).filter_map(Group::leaves_at).min()
    }

    fn smallest(&self) -> usize {
        (0..self.groups.len()).min_by_key(|i| self.groups[*i].len()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(counter: u64) -> SequenceId {
        SequenceId { boot: 1, counter }
    }

    #[test]
    fn a_group_leaves_when_all_of_it_is_back() {
        let mut groups = Groups::new(1, 1);
        groups.ready(Tick(10), id(1));
        assert_eq!(groups.release(Tick(10)), [vec![id(1)]]);
        groups.ready(Tick(20), id(2));
        assert!(groups.release(Tick(20)).is_empty(), "the other one is still away");
        groups.ready(Tick(30), id(1));
        assert_eq!(groups.release(Tick(30)), [vec![id(2), id(1)]]);
    }

    #[test]
    fn a_missing_member_does_not_hold_the_others_for_ever() {
        let mut groups = Groups::new(1, 1);
        groups.ready(Tick(1), id(1));
        groups.ready(Tick(1), id(2));
        assert_eq!(groups.release(Tick(1)).len(), 1);
        groups.ready(Tick(5), id(1));
        assert!(groups.release(Tick(5)).is_empty());
        let deadline = groups.next_deadline().expect("a deadline");
        assert_eq!(groups.release(deadline), [vec![id(1)]]);
        groups.leave(id(2));
        groups.ready(deadline + Duration::from_millis(1), id(1));
        assert_eq!(groups.release(deadline + Duration::from_millis(1)), [vec![id(1)]]);
    }

    #[test]
    fn sequences_are_shared_evenly_and_again_after_some_end() {
        let mut groups = Groups::new(2, 2);
        for counter in 1..=8 {
            groups.ready(Tick(1), id(counter));
        }
        let sizes: Vec<usize> = groups.release(Tick(1)).iter().map(Vec::len).collect();
        assert_eq!(sizes, [4, 4]);
        for counter in [1, 3, 5] {
            groups.leave(id(counter));
        }
        for counter in [2, 4, 6, 7, 8] {
            groups.ready(Tick(2), id(counter));
        }
        let sizes: Vec<usize> = groups.release(Tick(2)).iter().map(Vec::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 5);
        assert!(sizes.iter().all(|n| *n <= 3), "{sizes:?}");
    }

    #[test]
    fn at_most_so_many_groups_are_away() {
        let mut groups = Groups::new(2, 1);
        for counter in 1..=4 {
            groups.ready(Tick(1), id(counter));
        }
        assert_eq!(groups.release(Tick(1)), [vec![id(1), id(3)]]);
        groups.ready(Tick(2), id(1));
        groups.ready(Tick(2), id(3));
        assert_eq!(groups.release(Tick(2)).len(), 1);
    }
}
