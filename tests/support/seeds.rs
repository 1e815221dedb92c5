//! What seeded simulations have in common: which seeds are run, what must have happened in them, and what happens when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;

/// How often what happened, by its name.
pub type Marks = BTreeMap<&'static str, u64>;

/// The seeds to run: `usual` ones, or those of `STAGELINE_SIM_SEEDS=from..to`.
pub fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("STAGELINE_SIM_SEEDS") else { return usual };
    let (from, to) = text.split_once("..").expect("STAGELINE_SIM_SEEDS is from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Runs each seed, and fails if something was wrong in one, or if no seed made one of `wanted` happen.
pub fn hold(seeds: Range<u64>, wanted: &[&'static str], run: impl Fn(u64) -> (Vec<String>, Marks)) {
    let (mut marks, mut wrong) = (Marks::new(), Vec::new());
    for seed in seeds {
        let (violations, marked) = run(seed);
        if !violations.is_empty() {
            wrong.push(format!("seed {seed}: {}", violations.join("; ")));
        }
        for (mark, count) in marked {
            *marks.entry(mark).or_default() += count;
        }
    }
    assert!(wrong.is_empty(), "{} seeds are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
    // A simulation whose faults never fire proves nothing.
    for mark in wanted {
        assert!(marks.get(mark).is_some_and(|count| *count > 0), "no seed made this happen: {mark}; marks: {marks:?}");
    }
}

/// What is due, in the order of its times; of one time in the order in which it was said.
#[allow(dead_code, reason = "not every simulation keeps its time so")]
pub struct Timeline<D> {
    due: BinaryHeap<(Reverse<(u64, u64)>, usize)>,
    events: Vec<Option<D>>,
    /// Of all that happened, in order.
    pub trace: u64,
}

#[allow(dead_code, reason = "not every simulation keeps its time so")]
impl<D> Timeline<D> {
    pub fn new() -> Self {
        Self { due: BinaryHeap::new(), events: Vec::new(), trace: 0 }
    }

    /// Something is due then.
    pub fn at(&mut self, when: u64, due: D) {
        self.events.push(Some(due));
        let number = self.events.len() - 1;
        self.due.push((Reverse((when, number as u64)), number));
    }

    /// What is due next and when, if that is not after `end`.
    pub fn next(&mut self, end: u64) -> Option<(u64, D)> {
        let (Reverse((when, _)), number) = self.due.pop()?;
        let due = self.events[number].take().filter(|_| when <= end)?;
        self.trace = self.trace.wrapping_mul(31).wrapping_add(when ^ number as u64);
        Some((when, due))
    }
}
