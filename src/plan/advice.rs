//! Whether fewer stages would do as well.

use crate::cost::Balance;
use crate::cut::{Cut, CutOrder};
use crate::partition::fewest_stages;

/// A bottleneck within this factor of another is as good: it is below what runs differ by.
const AS_GOOD: f64 = 1.02;
/// What a hop between two processes costs a token, in microseconds: NATS over loopback takes 50 to 190 (one way, p50).
const HOP_US: f64 = 100.0;
/// How fast a device reads its weights, in bytes per microsecond: 20 GB/s, what a few CPU cores reach. A GPU reads faster,
/// so that hops weigh more there.
const READ_BYTES_PER_US: f64 = 20_000.0;

/// Says when `cut`, made for `order`, would be better with fewer stages. Empty if it would not.
///
/// Two rules, each about what another stage buys:
/// 1. A pipeline's rate is one row in its slowest stage's time. What no cut divides (the last layer and the head) bounds
///    that time, so from some number of stages on more of them only add hops: the smallest number with the same
///    bottleneck (within 2 %) that fits the memory is named.
/// 2. A token passes one hop a stage, feedback included. Where the hops take longer than the model's own arithmetic,
///    cutting makes every answer slower: the number of stages whose hops take no longer than it is named.
pub fn advice(order: &CutOrder<'_>, cut: &Cut) -> Vec<String> {
    let mut lines = Vec::new();
    let stages = order.stages;
    let whole = order.model.stage(0..order.model.layers.len()).row_bytes as f64;
    let bottleneck = cut.bottleneck() * whole;
    let weights = order.model.weights(Balance::Cost);
    let enough = fewest_stages(&weights, (bottleneck * AS_GOOD) as u64, |stage, range| order.fits(stage, range));
    if let Some(fewer) = enough.filter(|&fewer| fewer < stages) {
        let how = if order.balance == Balance::Cost { "" } else { " cut by cost" };
        lines.push(format!(
            "{fewer} {}{how} would be as fast as {stages}: the slowest would have the same {:.1} % of the cost (within 2 %), \
             and every token would save {}",
            plural(fewer, "stage"),
            100.0 * cut.bottleneck(),
            plural_count(stages - fewer, "hop"),
        ));
    }
    let (compute_us, hops_us) = (whole / READ_BYTES_PER_US, HOP_US * stages as f64);
    if stages > 1 && hops_us > compute_us {
        let fewer = ((compute_us / HOP_US) as usize).clamp(1, stages - 1);
        lines.push(format!(
            "between processes {stages} hops of about {HOP_US:.0} µs take longer than the model itself (about {compute_us:.0} µs \
             a token at 20 GB/s): for short answers use {} or fewer, unless memory asks for more",
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
    use crate::cost::tests::smollm2;
    use crate::cost::{ModelCost, PartCost};
    use crate::cut::cut;

    fn advised(model: &ModelCost, stages: usize, stage_memory: &[u64]) -> Vec<String> {
        let order = CutOrder { model, stages, balance: Balance::Cost, stage_memory, kv_tokens: 0 };
        advice(&order, &cut(&order).unwrap())
    }

    #[test]
    fn stages_that_only_add_hops_are_named() {
        let model = smollm2();
        // The last layer and the head are 9 of 38 units: 5 stages reach that, more cannot go below it.
        for stages in 1..=5 {
            assert!(advised(&model, stages, &[]).is_empty(), "{stages} stages: {:?}", advised(&model, stages, &[]));
        }
        for stages in 6..=30 {
            let lines = advised(&model, stages, &[]);
            assert!(lines[0].starts_with(&format!("5 stages would be as fast as {stages}:")), "{lines:?}");
        }
    }

    #[test]
    fn a_params_cut_is_compared_with_a_cost_cut() {
        let model = smollm2();
        let order = CutOrder { model: &model, stages: 3, balance: Balance::Params, stage_memory: &[], kv_tokens: 0 };
        // Its middle stage has 15 of 38 units, as slow as it gets with three; two stages would have 19.
        assert!(advice(&order, &cut(&order).unwrap()).is_empty());
        let order = CutOrder { stages: 8, ..order };
        let lines = advice(&order, &cut(&order).unwrap());
        assert!(lines[0].contains("stages cut by cost would be as fast as 8:"), "{lines:?}");
    }

    #[test]
    fn memory_that_needs_the_stages_is_respected() {
        let model = smollm2();
        // Embedding and one layer fit, five stages of layers do not.
        let caps = [model.embedding.weight_bytes + 2 * model.layers[0].weight_bytes];
        assert!(
            cut(&CutOrder { model: &model, stages: 5, balance: Balance::Cost, stage_memory: &caps, kv_tokens: 0 })
                .is_ok()
        );
        let tight = [model.head.weight_bytes + model.layers[0].weight_bytes];
        let lines = advised(&model, 6, &tight);
        assert!(lines.iter().all(|line| !line.starts_with("4 stages")), "{lines:?}");
    }

    #[test]
    fn a_model_that_computes_less_than_its_hops_says_so() {
        let tiny = PartCost { parameters: 1 << 18, weight_bytes: 1 << 20, row_bytes: 1 << 20, kv_bytes_per_token: 0 };
        let none = PartCost::default();
        let model = ModelCost { embedding: none, layers: vec![tiny; 6], head: none, tied: none };
        let lines = advised(&model, 6, &[]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("use 3 stages or fewer"), "{lines:?}");
        assert!(advised(&model, 3, &[]).is_empty());
    }
}
