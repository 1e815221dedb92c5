//! Decode rows leave the door in groups, one microbatch each, and a group leaves again when all of it is back.
//!
//! Left alone, sequences that once ran in different batches would stay apart for ever, since a stage runs what it has; and
//! with every sequence in one batch only one stage would be busy at a time. So the door keeps the microbatches. A group
//! that had to leave in parts is whole again one round later: it waits for every row that may still come back, and gives
//! up only those that are overdue.

use stageline_base::{SequenceId, Tick};
use std::collections::BTreeMap;
use std::time::Duration;

/// After how long a row is overdue before any has come back.
const FIRST_PATIENCE: Duration = Duration::from_millis(50);
/// Bounds of that time later.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// A row is overdue after this many times the longest way through the pipeline of late.
const OVERDUE: u32 = 2;

#[derive(Debug, Default)]
struct Group {
    /// In the pipeline, since when.
    away: BTreeMap<SequenceId, Tick>,
    /// Ready for the next round, in order of return.
    back: Vec<SequenceId>,
    /// Since when any of `back` has been.
    back_since: Option<Tick>,
    /// The longest way of those that came back since the group last left.
    slowest: Option<Duration>,
}

impl Group {
    fn len(&self) -> usize {
        self.away.len() + self.back.len()
    }

    /// Takes a sequence that has a row for the next round.
    fn add(&mut self, now: Tick, sequence: SequenceId) {
        if let Some(left) = self.away.remove(&sequence) {
            self.slowest = self.slowest.max(Some(now.since(left)));
        }
        if !self.back.contains(&sequence) {
            self.back.push(sequence);
        }
        self.back_since.get_or_insert(now);
    }

    /// When the last of those away is overdue: a lost row must not hold the others up for ever.
    fn given_up_at(&self, patience: Duration) -> Option<Tick> {
        self.away.values().max().map(|left| *left + patience)
    }

    fn is_away(&self, now: Tick, patience: Duration) -> bool {
        self.given_up_at(patience).is_some_and(|at| now < at)
    }
}

/// The groups of a door.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Group>,
    most_away: usize,
    /// The longest way through the pipeline in the last round of any group.
    way: Option<Duration>,
    released_at: Tick,
}

impl Groups {
    /// `count` groups, of which at most `most_away` are in the pipeline at once.
    pub fn new(count: usize, most_away: usize) -> Self {
        let groups = (0..count.max(1)).map(|_| Group::default()).collect();
        Self { groups, most_away: most_away.max(1), way: None, released_at: Tick(0) }
    }

    /// A sequence has a row for the next round: it is back, or joins the smallest group.
    pub fn ready(&mut self, now: Tick, sequence: SequenceId) {
        let home = self.groups.iter().position(|g| g.away.contains_key(&sequence));
        let home = home.unwrap_or_else(|| self.smallest());
        self.groups[home].add(now, sequence);
    }

    /// A sequence has ended or must be replayed.
    pub fn leave(&mut self, sequence: SequenceId) {
        for group in &mut self.groups {
            group.away.remove(&sequence);
            group.back.retain(|s| *s != sequence);
            if group.back.is_empty() {
                group.back_since = None;
            }
        }
    }

    /// The groups that leave now, each one microbatch; who has waited longest goes first.
    pub fn release(&mut self, now: Tick) -> Vec<Vec<SequenceId>> {
        self.even_out(now);
        self.released_at = now;
        let mut leaving = Vec::new();
        while let Some(index) = self.next_to_leave(now) {
            let group = &mut self.groups[index];
            let back = std::mem::take(&mut group.back);
            group.back_since = None;
            group.away.extend(back.iter().map(|sequence| (*sequence, now)));
            self.way = group.slowest.take().or(self.way);
            leaving.push(back);
        }
        leaving
    }

    fn next_to_leave(&self, now: Tick) -> Option<usize> {
        let patience = self.patience();
        let away = self.groups.iter().filter(|group| group.is_away(now, patience)).count();
        let waits = |index: &usize| !self.groups[*index].is_away(now, patience);
        let since = |index: usize| self.groups[index].back_since.map(|since| (since, index));
        let longest = (0..self.groups.len()).filter(waits).filter_map(since).min()?;
        (away < self.most_away).then_some(longest.1)
    }

    fn patience(&self) -> Duration {
        self.way.map_or(FIRST_PATIENCE, |way| (way * OVERDUE).clamp(PATIENCE.0, PATIENCE.1))
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
                self.groups[smallest].add(now, sequence);
            }
        }
    }

    /// When [`Groups::release`] has something to do although nothing comes back.
    pub fn next_deadline(&self) -> Option<Tick> {
        if self.groups.iter().all(|group| group.back.is_empty()) {
            return None;
        }
        let patience = self.patience();
        // What was overdue at the last release already has changed nothing since.
        self.groups.iter().filter_map(|group| group.given_up_at(patience)).filter(|at| *at > self.released_at).min()
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

    /// Groups in which the sequences 1 to `sequences` are ready at tick 1.
    fn filled(count: usize, most_away: usize, sequences: u64) -> Groups {
        let mut groups = Groups::new(count, most_away);
        (1..=sequences).for_each(|counter| groups.ready(Tick(1), id(counter)));
        groups
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
        let later = deadline + Duration::from_micros(500);
        groups.ready(later, id(2));
        assert!(groups.release(later).is_empty(), "the one that left alone is waited for");
        groups.ready(later, id(1));
        assert_eq!(groups.release(later), [vec![id(2), id(1)]], "whole again");
    }

    #[test]
    fn a_row_is_overdue_after_twice_the_longest_way() {
        let mut groups = Groups::new(1, 1);
        let ms = |n: u64| Tick(n * 1000);
        groups.ready(ms(0), id(1));
        groups.release(ms(0));
        groups.ready(ms(100), id(1));
        groups.ready(ms(100), id(2));
        groups.release(ms(300));
        groups.ready(ms(350), id(1));
        assert!(groups.release(ms(499)).is_empty());
        assert_eq!(groups.next_deadline(), Some(ms(500)), "the way took 100 ms; the wait after it is none of it");
        assert_eq!(groups.release(ms(500)), [vec![id(1)]]);
        assert_eq!(groups.next_deadline(), None, "nothing is back");
    }

    #[test]
    fn a_lost_row_wakes_nobody_twice() {
        let mut groups = filled(2, 1, 4);
        assert_eq!(groups.release(Tick(1)), [vec![id(1), id(3)]]);
        let deadline = groups.next_deadline().expect("the second group waits for the first");
        assert_eq!(groups.release(deadline), [vec![id(2), id(4)]]);
        groups.ready(deadline, id(2));
        groups.release(deadline);
        assert!(groups.next_deadline().is_none_or(|at| at > deadline), "a deadline of the past would wake for ever");
    }

    #[test]
    fn sequences_are_shared_evenly_and_again_after_some_end() {
        let mut groups = filled(2, 2, 8);
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
        let mut groups = filled(2, 1, 4);
        assert_eq!(groups.release(Tick(1)), [vec![id(1), id(3)]]);
        groups.ready(Tick(2), id(1));
        assert!(groups.release(Tick(2)).is_empty(), "half of a group is away");
        groups.ready(Tick(3), id(3));
        assert_eq!(groups.release(Tick(3)), [vec![id(2), id(4)]], "who has waited longest goes first, and whole");
        groups.ready(Tick(4), id(2));
        groups.ready(Tick(4), id(4));
        assert_eq!(groups.release(Tick(4)), [vec![id(1), id(3)]]);
    }
}
