//! The optimal cut of a row of weights into consecutive stages.

use std::ops::Range;

/// Cuts `weights` into `stages` consecutive, non-empty ranges such that the heaviest range is as light as can be.
///
/// Among those cuts it takes the one with the least sum of squares (the most even), and among those the one whose first
/// stages are longest: the last stage also samples, which no weight counts. `fits(stage, range)` says whether the range
/// may be that stage at all. `None` if no cut is allowed, or there are more stages than weights, or none.
///
/// Dynamic programming over suffixes, once for the bottleneck and once for the squares below it:
/// O(stages × weights²) time, O(stages × weights) memory.
pub fn partition(
    weights: &[u64],
    stages: usize,
    fits: impl Fn(usize, Range<usize>) -> bool,
) -> Option<Vec<Range<usize>>> {
    if stages == 0 || stages > weights.len() {
        return None;
    }
    let row = Row::new(weights);
    let bottleneck = least_bottleneck(&row, stages, &fits)?;
    most_even(&row, stages, |stage, range| row.weight(&range) <= bottleneck && fits(stage, range))
}

/// The fewest stages whose heaviest weighs at most `bottleneck`, each range one that `fits`; `None` if no number does.
///
/// Greedy: a stage that takes all it may is never worse than one that leaves some to the next.
pub fn fewest_stages(weights: &[u64], bottleneck: u64, fits: impl Fn(usize, Range<usize>) -> bool) -> Option<usize> {
    let row = Row::new(weights);
    let (mut stages, mut start) = (0, 0);
    while start < weights.len() {
        let may = |end: &usize| row.weight(&(start..*end)) <= bottleneck && fits(stages, start..*end);
        start = (start + 1..=weights.len()).take_while(may).last()?;
        stages += 1;
    }
    Some(stages)
}

/// Weights with their running sums.
struct Row {
    sums: Vec<u64>,
}

impl Row {
    fn new(weights: &[u64]) -> Self {
        let sums = std::iter::once(0).chain(weights.iter().scan(0_u64, |sum, &weight| {
            *sum = sum.saturating_add(weight);
            Some(*sum)
        }));
        Self { sums: sums.collect() }
    }

    fn len(&self) -> usize {
        self.sums.len() - 1
    }

    fn weight(&self, range: &Range<usize>) -> u64 {
        self.sums[range.end] - self.sums[range.start]
    }
}

/// The least weight that the heaviest stage can have.
fn least_bottleneck(row: &Row, stages: usize, fits: &impl Fn(usize, Range<usize>) -> bool) -> Option<u64> {
    let n = row.len();
    // rest[i]: the least bottleneck of weights i.. cut into the stages after this one.
    let mut rest: Vec<Option<u64>> = vec![None; n + 1];
    rest[n] = Some(0);
    for stage in (0..stages).rev() {
        let least_from = |start: usize| {
            let mut best: Option<u64> = None;
            for (end, &after) in rest.iter().enumerate().skip(start + 1) {
                let weight = row.weight(&(start..end));
                // Longer ranges only weigh more: none of them can win.
                if best.is_some_and(|best| weight >= best) {
                    break;
                }
                if let Some(after) = after
                    && fits(stage, start..end)
                {
                    let bottleneck = weight.max(after);
                    best = Some(best.map_or(bottleneck, |best| best.min(bottleneck)));
                }
            }
            best
        };
        rest = (0..=n).map(least_from).collect();
    }
    rest[0]
}

/// The allowed cut with the least sum of squared weights; the longest first stages decide a tie.
fn most_even(row: &Row, stages: usize, allowed: impl Fn(usize, Range<usize>) -> bool) -> Option<Vec<Range<usize>>> {
    let n = row.len();
    let mut rest: Vec<Option<u128>> = vec![None; n + 1];
    rest[n] = Some(0);
    // ends[stage][start]: where the best cut of start.. ends its first stage.
    let mut ends = vec![vec![0; n]; stages];
    for (stage, ends) in ends.iter_mut().enumerate().rev() {
        let mut least_from = |start: usize| {
            let mut best: Option<u128> = None;
            for (end, &after) in rest.iter().enumerate().skip(start + 1) {
                let Some(after) = after.filter(|_| allowed(stage, start..end)) else { continue };
                let squares = u128::from(row.weight(&(start..end))).pow(2).saturating_add(after);
                if best.is_none_or(|best| squares <= best) {
                    best = Some(squares);
                    ends[start] = end;
                }
            }
            best
        };
        rest = (0..=n).map(&mut least_from).collect();
    }
    rest[0]?;
    let mut start = 0;
    let cut = ends.iter().map(|end| {
        let range = start..end[start];
        start = range.end;
        range
    });
    Some(cut.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every cut of `n` weights into `stages` ranges, longest first stages first.
    fn all_cuts(start: usize, n: usize, stages: usize) -> Vec<Vec<Range<usize>>> {
        if stages == 0 {
            return if start == n { vec![vec![]] } else { vec![] };
        }
        let mut cuts = Vec::new();
        for end in (start + 1..=n).rev() {
            for rest in all_cuts(end, n, stages - 1) {
                cuts.push(std::iter::once(start..end).chain(rest).collect());
            }
        }
        cuts
    }

    /// (heaviest stage, sum of squares): what a cut is judged by.
    fn judged(weights: &[u64], cut: &[Range<usize>]) -> (u64, u128) {
        let sums: Vec<u64> = cut.iter().map(|range| weights[range.clone()].iter().sum()).collect();
        (*sums.iter().max().unwrap(), sums.iter().map(|&sum| u128::from(sum).pow(2)).sum())
    }

    fn by_brute_force(
        weights: &[u64],
        stages: usize,
        fits: impl Fn(usize, Range<usize>) -> bool,
    ) -> Option<Vec<Range<usize>>> {
        let allowed = |cut: &Vec<Range<usize>>| cut.iter().enumerate().all(|(k, range)| fits(k, range.clone()));
        // min_by_key keeps the first of equals: the one with the longest first stages.
        all_cuts(0, weights.len(), stages).into_iter().filter(allowed).min_by_key(|cut| judged(weights, cut))
    }

    #[test]
    fn the_head_takes_its_share() {
        // Ten layers and a head that weighs four of them: 5 + 5 + 4, not 4 + 3 + 7.
        let weights = [1, 1, 1, 1, 1, 1, 1, 1, 1, 5];
        assert_eq!(partition(&weights, 3, |_, _| true), Some(vec![0..5, 5..9, 9..10]));
    }

    #[test]
    fn what_cannot_be_cut_is_none() {
        assert_eq!(partition(&[1, 2], 3, |_, _| true), None);
        assert_eq!(partition(&[1, 2], 0, |_, _| true), None);
        assert_eq!(partition(&[], 1, |_, _| true), None);
        assert_eq!(partition(&[1, 2], 2, |_, range| range.start != 1), None);
        assert_eq!(fewest_stages(&[1, 5, 1], 4, |_, _| true), None);
        let whole = partition(&[u64::MAX, u64::MAX], 1, |_, _| true).expect("one stage");
        assert!(whole.len() == 1 && whole[0] == (0..2));
    }

    proptest! {
        #[test]
        fn it_is_the_optimum(weights in prop::collection::vec(0_u64..12, 1..10), stages in 1_usize..6) {
            let expected = by_brute_force(&weights, stages, |_, _| true);
            // On its own too: the most even cut below a bottleneck that is a little too high often is the same one.
            let bottleneck = expected.as_ref().map(|cut| judged(&weights, cut).0);
            prop_assert_eq!(least_bottleneck(&Row::new(&weights), stages, &|_, _| true), bottleneck);
            prop_assert_eq!(partition(&weights, stages, |_, _| true), expected);
        }

        #[test]
        fn it_is_the_optimum_under_memory_caps(
            layers in prop::collection::vec((0_u64..12, 1_u64..12), 1..9),
            caps in prop::collection::vec(1_u64..40, 1..5),
        ) {
            let weights: Vec<u64> = layers.iter().map(|layer| layer.0).collect();
            let fits = |stage: usize, range: Range<usize>| {
                layers[range].iter().map(|layer| layer.1).sum::<u64>() <= caps[stage]
            };
            let expected = by_brute_force(&weights, caps.len(), fits);
            prop_assert_eq!(partition(&weights, caps.len(), fits), expected);
        }

        #[test]
        fn the_fewest_stages_are_the_fewest(weights in prop::collection::vec(0_u64..12, 1..9), bottleneck in 0_u64..40) {
            let enough = |stages: &usize| {
                by_brute_force(&weights, *stages, |_, _| true).is_some_and(|cut| judged(&weights, &cut).0 <= bottleneck)
            };
            let expected = (1..=weights.len()).find(enough);
            prop_assert_eq!(fewest_stages(&weights, bottleneck, |_, _| true), expected);
        }
    }
}
