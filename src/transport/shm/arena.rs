//! Where in a ring's memory parcels lie, as its sender keeps the books.
//!
//! Parcels are let go of in any order, so this is no queue: each takes the first gap that is large enough, from the
//! beginning. That also keeps to memory that is warm, and the file no larger than its fullest moment.

/// See the module. Lengths and places count units.
#[derive(Debug)]
pub(super) struct Arena {
    units: u32,
    /// What is taken, by place.
    taken: Vec<Taken>,
    /// Slots that nothing lies in.
    free: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    at: u32,
    units: u32,
    slot: u32,
}

impl Arena {
    /// An empty one of `units`, for as many parcels as there are `slots`.
    pub(super) fn new(units: u32, slots: u32) -> Self {
        Self { units, taken: Vec::new(), free: (0..slots).rev().collect() }
    }

    /// Takes back what `is_free` says of the slots in use.
    pub(super) fn take_back(&mut self, is_free: impl Fn(u32) -> bool) {
        let free = &mut self.free;
        self.taken.retain(|taken| {
            let back = is_free(taken.slot);
            if back {
                free.push(taken.slot);
            }
            !back
        });
    }

    /// A place for `units`, and the slot that stands for it; `None` if there is no gap so large, or no slot.
    pub(super) fn take(&mut self, units: u32) -> Option<(u32, u32)> {
        let mut at = 0;
        let mut index = 0;
        while let Some(taken) = self.taken.get(index)
            && taken.at - at < units
        {
            at = taken.at + taken.units;
            index += 1;
        }
        if self.units - at < units {
            return None;
        }
        let slot = self.free.pop()?;
        self.taken.insert(index, Taken { at, units, slot });
        Some((at, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn the_first_gap_that_is_large_enough_is_taken() {
        let mut arena = Arena::new(10, 8);
        let places: Vec<(u32, u32)> = [3, 2, 4].into_iter().map(|units| arena.take(units).unwrap()).collect();
        assert_eq!(places.iter().map(|place| place.0).collect::<Vec<_>>(), [0, 3, 5]);
        assert_eq!(arena.take(2), None);
        arena.take_back(|slot| slot == places[1].1);
        assert_eq!(arena.take(3), None, "two gaps are not one");
        assert_eq!(arena.take(2).unwrap().0, 3);
        assert_eq!(arena.take(1).unwrap().0, 9);
    }

    proptest! {
        #[test]
        fn what_is_taken_never_overlaps(steps in proptest::collection::vec((1u32..40, any::<u16>()), 1..200)) {
            let mut arena = Arena::new(100, 16);
            let mut held: HashMap<u32, (u32, u32)> = HashMap::new();
            for (units, back) in steps {
                let gone: Vec<u32> = held.keys().filter(|slot| back >> **slot & 1 == 1).copied().collect();
                held.retain(|slot, _| !gone.contains(slot));
                arena.take_back(|slot| gone.contains(&slot));
                match arena.take(units) {
                    Some((at, slot)) => {
                        prop_assert!(at + units <= 100);
                        prop_assert!(held.values().all(|(other, length)| at + units <= *other || other + length <= at));
                        prop_assert!(held.insert(slot, (at, units)).is_none());
                    }
                    None => prop_assert!(!held.is_empty()),
                }
            }
        }
    }
}
