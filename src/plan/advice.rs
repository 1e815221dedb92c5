//! Whether fewer stages would do as well.

use crate::cut::{Cut, CutOrder};
use crate::estimate::DECODE_BATCH;
use crate::goal::{Balance, Goal};
use crate::partition::fewest_stages;

/// A bottleneck within this factor of another is as good: it is below what runs differ by.
const AS_GOOD: f64 = 1.02;
/// What a hop between two processes costs a token, in microseconds: NATS over loopback takes 50 to 190 (one way, p50).
const HOP_US: f64 = 100.0;

/// Says when `cut`, made for `order`, would be better with fewer stages. Empty if it would not.
///
/// Two rules, each about what another stage buys:
/// 1. A pipeline's rate is one request in its slowest stage's time. What no cut divides (the last layer and the head) bounds
///    that time, so from some number of stages on more of them only add hops: the smallest number with the same
///    bottleneck (within 2 %) that fits the memory is named.
/// 2. A token passes one hop a stage, feedback included. Where the hops take longer than the model is at its batch,
///    cutting makes every answer slower: the number of stages whose hops take no longer than it is named.
pub fn advice(order: &CutOrder<'_>, cut: &Cut) -> Vec<String> {
    let mut lines = Vec::new();
    let stages = order.stages;
    let by_cost = order.toward(Goal { balance: Balance::Cost, ..order.goal });
    let whole: f64 = by_cost.iter().map(|&weight| weight as f64).sum();
    let bottleneck = cut.bottleneck() * whole;
    let enough = fewest_stages(&by_cost, (bottleneck * AS_GOOD) as u64, |stage, range| order.fits(stage, range));
    if let Some(fewer) = enough.filter(|&fewer| fewer < stages) {
        let how = if order.goal.balance == Balance::Cost { "" } else { " cut by cost" };
        lines.push(format!(
            "{fewer} {}{how} would be as fast as {stages}: the slowest would have the same {:.1} % of the cost (within 2 %), \
             and every token would save {}",
            plural(fewer, "stage"),
            100.0 * cut.bottleneck(),
            plural_count(stages - fewer, "hop"),
        ));
    }
    let row: f64 = order.units.iter().map(|unit| unit.cost.decode.row).sum();
    let (compute_us, hops_us) = (row * f64::from(DECODE_BATCH) / 1e3, HOP_US * stages as f64);
    if stages > 1 && hops_us > compute_us {
        let fewer = ((compute_us / HOP_US) as usize).clamp(1, stages - 1);
        lines.push(format!(
            "between processes {stages} hops of about {HOP_US:.0} µs take longer than the model itself (about {compute_us:.0} µs \
             for {DECODE_BATCH} tokens at once): for short answers use {} or fewer, unless memory asks for more",
            plural_count(fewer, "stage"),
        ));
    }
    lines
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { noun.into() } else { format!("{noun}s") }
}

fn plural_count(count: usize, noun: &str) -> String {
    format!("{count} {}", plural(count, noun))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::cut;
    use crate::estimate::{Work, estimate};
    use crate::goal::Mix;
    use crate::unit::tests::smollm2;
    use crate::unit::{Unit, Weights, weights};
    use stageline_base::Border;

    /// Answers that are long: the head counts.
    const LONG: Goal = Goal { balance: Balance::Cost, mix: Mix { prompt: 1, answer: 256 } };

    fn advised(units: &[Unit], stages: usize, stage_memory: &[u64]) -> Vec<String> {
        let order = CutOrder { units, stages, goal: LONG, stage_memory, kv_tokens: 0 };
        advice(&order, &cut(&order).unwrap())
    }

    #[test]
    fn stages_that_only_add_hops_are_named() {
        let units = smollm2();
        // The last layer and the head are 8.4 of 37.4 layers' worth: 5 stages reach that, more cannot go below it.
        for stages in 1..=5 {
            assert!(advised(&units, stages, &[]).is_empty(), "{stages} stages: {:?}", advised(&units, stages, &[]));
        }
        for stages in 6..=30 {
            let lines = advised(&units, stages, &[]);
            assert!(lines[0].starts_with(&format!("5 stages would be as fast as {stages}:")), "{lines:?}");
        }
    }

    #[test]
    fn a_params_cut_is_compared_with_a_cost_cut() {
        let units = smollm2();
        let goal = Goal { balance: Balance::Params, ..LONG };
        let order = CutOrder { units: &units, stages: 3, goal, stage_memory: &[], kv_tokens: 0 };
        // Its middle stage has 15 of 37.4 layers' worth, as slow as it gets with three; two stages would have 19.
        assert!(advice(&order, &cut(&order).unwrap()).is_empty());
        let order = CutOrder { stages: 8, ..order };
        let lines = advice(&order, &cut(&order).unwrap());
        assert!(lines[0].contains("stages cut by cost would be as fast as 8:"), "{lines:?}");
    }

    #[test]
    fn memory_that_needs_the_stages_is_respected() {
        let units = smollm2();
        // Embedding and one layer fit, five stages of layers do not.
        let caps = [weights(&units[..2]).bytes];
        let order = CutOrder { units: &units, stages: 5, goal: LONG, stage_memory: &caps, kv_tokens: 0 };
        assert!(cut(&order).is_ok());
        let tight = [weights(&units[29..]).bytes];
        let lines = advised(&units, 6, &tight);
        assert!(lines.iter().all(|line| !line.starts_with("4 stages")), "{lines:?}");
    }

    #[test]
    fn a_model_that_computes_less_than_its_hops_says_so() {
        let tiny = Weights { parameters: 1 << 18, bytes: 1 << 20 };
        let unit = |number: usize| Unit {
            name: format!("layer {number}"),
            border: Border::hidden(8),
            weights: tiny,
            tied: Vec::new(),
            kv_bytes_per_token: 0,
            cost: estimate(&Work { every_row: tiny, ..Work::default() }),
        };
        let units: Vec<Unit> = (0..6).map(unit).collect();
        let lines = advised(&units, 6, &[]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("use 5 stages or fewer"), "{lines:?}");
        assert!(!advised(&units, 5, &[]).concat().contains("hops of about"));
    }
}
