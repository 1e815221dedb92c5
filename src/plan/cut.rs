//! A cut of a model into stages, and what each of its stages holds.

use crate::cost::{Balance, ModelCost};
use crate::partition::partition;
use stageline_base::Fault;
use stageline_base::limits::MAX_STAGES;
use std::ops::Range;

/// What is asked of a cut.
#[derive(Clone, Copy, Debug)]
pub struct CutOrder<'a> {
    /// What is cut.
    pub model: &'a ModelCost,
    /// Into how many stages.
    pub stages: usize,
    /// What is evened out.
    pub balance: Balance,
    /// Most bytes of weights and KV cache of a stage: none, one number for every stage, or one a stage.
    pub stage_memory: &'a [u64],
    /// Tokens that the KV cache of every stage must hold.
    pub kv_tokens: u64,
}

impl CutOrder<'_> {
    /// Most bytes of stage `stage`.
    fn memory(&self, stage: usize) -> u64 {
        match self.stage_memory {
            [] => u64::MAX,
            [all] => *all,
            each => each.get(stage).copied().unwrap_or(0),
        }
    }

    /// Whether `layers` may be stage `stage`: weights and KV cache within its memory.
    pub(crate) fn fits(&self, stage: usize, layers: Range<usize>) -> bool {
        let part = self.model.stage(layers);
        part.weight_bytes.saturating_add(part.kv_bytes_per_token.saturating_mul(self.kv_tokens)) <= self.memory(stage)
    }
}

/// A model in stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The stages, in order.
    pub stages: Vec<CutStage>,
}

/// One stage of a [`Cut`].
#[derive(Clone, Debug, PartialEq)]
pub struct CutStage {
    /// Its layers.
    pub layers: Range<usize>,
    /// Its parameters, tied ones included.
    pub parameters: u64,
    /// Its weights, in bytes.
    pub weight_bytes: u64,
    /// Its KV cache, in bytes.
    pub kv_bytes: u64,
    /// Its share of the model's time per decode row; the shares of a cut sum to 1.
    pub cost: f64,
}

impl Cut {
    /// The largest share of cost: the pipeline's rate is one row in this time.
    pub fn bottleneck(&self) -> f64 {
        self.stages.iter().map(|stage| stage.cost).fold(0.0, f64::max)
    }

    fn new(model: &ModelCost, ranges: Vec<Range<usize>>, kv_tokens: u64) -> Self {
        let parts: Vec<_> = ranges.iter().map(|range| model.stage(range.clone())).collect();
        let whole: f64 = parts.iter().map(|part| part.row_bytes as f64).sum::<f64>().max(1.0);
        let stages = ranges.into_iter().zip(parts).map(|(layers, part)| CutStage {
            layers,
            parameters: part.parameters,
            weight_bytes: part.weight_bytes,
            kv_bytes: part.kv_bytes_per_token.saturating_mul(kv_tokens),
            cost: part.row_bytes as f64 / whole,
        });
        Self { stages: stages.collect() }
    }
}

/// The optimal cut: the heaviest stage as light as can be, then the most even (see [`partition`]).
///
/// # Errors
/// `InvalidRequest` if there are more stages than layers, or `stage_memory` names another number of stages, or no cut
/// fits it.
pub fn cut(order: &CutOrder<'_>) -> Result<Cut, Fault> {
    let (layers, stages) = (order.model.layers.len(), order.stages);
    if stages == 0 || stages > layers.min(MAX_STAGES) {
        return Err(Fault::invalid(format!(
            "cannot cut {layers} layers into {stages} stages: every stage needs a layer; ask for 1 to {} stages",
            layers.min(MAX_STAGES)
        )));
    }
    if order.stage_memory.len() > 1 && order.stage_memory.len() != stages {
        return Err(Fault::invalid(format!(
            "stage memory is given for {} stages of {stages}: give one number for all stages or one for each",
            order.stage_memory.len()
        )));
    }
    let weights = order.model.weights(order.balance);
    match partition(&weights, stages, |stage, range| order.fits(stage, range)) {
        Some(ranges) => Ok(Cut::new(order.model, ranges, order.kv_tokens)),
        None => Err(does_not_fit(order)),
    }
}

/// Says what memory would do.
fn does_not_fit(order: &CutOrder<'_>) -> Fault {
    let memory: Vec<u64> = (0..order.model.layers.len())
        .map(|layer| order.model.stage(layer..layer + 1))
        .map(|part| part.weight_bytes.saturating_add(part.kv_bytes_per_token.saturating_mul(order.kv_tokens)))
        .collect();
    let sum = |range: Range<usize>| memory[range].iter().fold(0_u64, |sum, &bytes| sum.saturating_add(bytes));
    let even = partition(&memory, order.stages, |_, _| true).unwrap_or_default();
    let needs: Vec<String> = even.into_iter().map(|range| sum(range).to_string()).collect();
    Fault::invalid(format!(
        "no cut into {} stages fits the stage memory: with a KV cache of {} tokens the most even cut by memory needs {} \
         bytes; give more memory, more stages, or less KV cache (max_num_seqs × max_model_len)",
        order.stages,
        order.kv_tokens,
        needs.join(" + ")
    ))
}

/// The cut that counts layers only, for comparison: the first stages take one more where it does not come out even.
///
/// `stages` is in 1..=layers.
pub fn even_by_layers(model: &ModelCost, stages: usize, kv_tokens: u64) -> Cut {
    let layers = model.layers.len();
    let start = |stage: usize| stage * (layers / stages) + stage.min(layers % stages);
    let ranges = (0..stages).map(|stage| start(stage)..start(stage + 1)).collect();
    Cut::new(model, ranges, kv_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::tests::smollm2;

    fn layers(cut: &Cut) -> Vec<usize> {
        cut.stages.iter().map(|stage| stage.layers.len()).collect()
    }

    fn order(model: &ModelCost, stages: usize) -> CutOrder<'_> {
        CutOrder { model, stages, balance: Balance::Cost, stage_memory: &[], kv_tokens: 0 }
    }

    #[test]
    fn a_cost_cut_gives_the_head_its_layers_worth() {
        let model = smollm2();
        assert_eq!(layers(&cut(&order(&model, 2)).unwrap()), [19, 11]);
        let three = cut(&order(&model, 3)).unwrap();
        assert_eq!(layers(&three), [12, 13, 5]);
        assert!((three.stages.iter().map(|stage| stage.cost).sum::<f64>() - 1.0).abs() < 1e-12);
        let even = even_by_layers(&model, 3, 0);
        assert_eq!(layers(&even), [10, 10, 10]);
        assert!(three.bottleneck() < 0.35 && even.bottleneck() > 0.47);
    }

    #[test]
    fn a_params_cut_counts_the_embedding_at_both_ends() {
        let model = smollm2();
        let three = cut(&CutOrder { balance: Balance::Params, ..order(&model, 3) }).unwrap();
        assert_eq!(layers(&three), [8, 15, 7]);
    }

    #[test]
    fn memory_caps_count_weights_and_kv_cache() {
        let model = smollm2();
        let layer = model.layers[0];
        let kv_tokens = 1000;
        // The first stage may hold the embedding and five layers.
        let first = model.embedding.weight_bytes + 5 * (layer.weight_bytes + kv_tokens * layer.kv_bytes_per_token);
        let free = u64::MAX;
        let caps = [first, free, free];
        let capped = CutOrder { stage_memory: &caps, kv_tokens, ..order(&model, 3) };
        assert_eq!(layers(&cut(&capped).unwrap())[0], 5);
        let short = [first - 1, free, free];
        assert_eq!(layers(&cut(&CutOrder { stage_memory: &short, ..capped }).unwrap())[0], 4);
        let stage = &cut(&capped).unwrap().stages[0];
        assert_eq!(stage.weight_bytes + stage.kv_bytes, first);
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let model = smollm2();
        let caps = [100_000_000];
        let fault = cut(&CutOrder { stage_memory: &caps, kv_tokens: 10, ..order(&model, 2) }).unwrap_err();
        assert!(fault.message.contains("no cut into 2 stages fits"), "{fault}");
        assert!(cut(&CutOrder { stage_memory: &caps, ..order(&model, 4) }).is_ok());
        let fault = cut(&order(&model, 31)).unwrap_err();
        assert!(fault.message.contains("cannot cut 30 layers into 31 stages"), "{fault}");
        let fault = cut(&CutOrder { stage_memory: &[1, 2], ..order(&model, 3) }).unwrap_err();
        assert!(fault.message.contains("for 2 stages of 3"), "{fault}");
    }

    #[test]
    fn the_comparison_covers_every_layer() {
        let model = smollm2();
        for stages in 1..=30 {
            let even = layers(&even_by_layers(&model, stages, 0));
            assert_eq!(even.iter().sum::<usize>(), 30);
            assert!(even.iter().max().unwrap() - even.iter().min().unwrap() <= 1);
        }
    }
}
