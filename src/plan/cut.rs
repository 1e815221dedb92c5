//! A cut of a model into stages, and what each of its stages holds.

use crate::goal::Goal;
use crate::partition::partition;
use crate::unit::{Unit, kv_bytes, weights};
use stageline_base::Fault;
use stageline_base::limits::MAX_STAGES;
use std::ops::Range;

/// What is asked of a cut.
#[derive(Clone, Copy, Debug)]
pub struct CutOrder<'a> {
    /// The model that is cut, unit by unit.
    pub units: &'a [Unit],
    /// Into how many stages.
    pub stages: usize,
    /// What is evened out.
    pub goal: Goal,
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

    /// Whether `range` may be stage `stage`: weights and KV cache within its memory.
    pub(crate) fn fits(&self, stage: usize, range: Range<usize>) -> bool {
        self.bytes(range) <= self.memory(stage)
    }

    /// What a stage of `range` holds: weights and KV cache.
    fn bytes(&self, range: Range<usize>) -> u64 {
        let units = &self.units[range];
        weights(units).bytes.saturating_add(kv_bytes(units, self.kv_tokens))
    }

    /// What each unit adds to a stage's weight on the way to `goal`.
    pub(crate) fn toward(&self, goal: Goal) -> Vec<u64> {
        self.units.iter().map(|unit| unit.toward(goal)).collect()
    }

    /// The stages of `ranges`.
    fn cut_at(&self, ranges: Vec<Range<usize>>) -> Cut {
        let time = |range: &Range<usize>| -> f64 {
            self.units[range.clone()].iter().map(|unit| unit.cost.of(self.goal.mix)).sum()
        };
        // In a model of nothing every stage has an equal part of it.
        let whole = Some(time(&(0..self.units.len()))).filter(|whole| *whole > 0.0);
        let even = 1.0 / ranges.len() as f64;
        let stage = |range: Range<usize>| {
            let units = &self.units[range.clone()];
            let held = weights(units);
            CutStage {
                cost: whole.map_or(even, |whole| time(&range) / whole),
                units: range,
                parameters: held.parameters,
                weight_bytes: held.bytes,
                kv_bytes: kv_bytes(units, self.kv_tokens),
            }
        };
        Cut { stages: ranges.into_iter().map(stage).collect() }
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
    /// Its units.
    pub units: Range<usize>,
    /// Its parameters, tied ones included.
    pub parameters: u64,
    /// Its weights, in bytes.
    pub weight_bytes: u64,
    /// Its KV cache, in bytes.
    pub kv_bytes: u64,
    /// Its share of the model's time for a request of the mix; the shares of a cut sum to 1.
    pub cost: f64,
}

impl Cut {
    /// The largest share of cost: the pipeline's rate is one request in this time.
    pub fn bottleneck(&self) -> f64 {
        self.stages.iter().map(|stage| stage.cost).fold(0.0, f64::max)
    }
}

/// The optimal cut: the heaviest stage as light as can be, then the most even (see [`partition`]).
///
/// # Errors
/// `InvalidRequest` if there are more stages than units, or `stage_memory` names another number of stages, or no cut
/// fits it.
pub fn cut(order: &CutOrder<'_>) -> Result<Cut, Fault> {
    let (units, stages) = (order.units.len(), order.stages);
    if stages == 0 || stages > units.min(MAX_STAGES) {
        return Err(Fault::invalid(format!(
            "cannot cut a model of {units} units ({}) into {stages} stages: every stage needs one; ask for 1 to {} stages",
            named(order.units),
            units.min(MAX_STAGES)
        )));
    }
    if order.stage_memory.len() > 1 && order.stage_memory.len() != stages {
        return Err(Fault::invalid(format!(
            "stage memory is given for {} stages of {stages}: give one number for all stages or one for each",
            order.stage_memory.len()
        )));
    }
    match partition(&order.toward(order.goal), stages, |stage, range| order.fits(stage, range)) {
        Some(ranges) => Ok(order.cut_at(ranges)),
        None => Err(does_not_fit(order)),
    }
}

/// Says what memory would do.
fn does_not_fit(order: &CutOrder<'_>) -> Fault {
    let memory: Vec<u64> = (0..order.units.len()).map(|unit| order.bytes(unit..unit + 1)).collect();
    let even = partition(&memory, order.stages, |_, _| true).unwrap_or_default();
    let needs: Vec<String> = even.into_iter().map(|range| order.bytes(range).to_string()).collect();
    Fault::invalid(format!(
        "no cut into {} stages fits the stage memory: with a KV cache of {} tokens the most even cut by memory needs {} \
         bytes; give more memory, more stages, or less KV cache (max_num_seqs × max_model_len)",
        order.stages,
        order.kv_tokens,
        needs.join(" + ")
    ))
}

/// The units of a model, for a message: the first and the last.
fn named(units: &[Unit]) -> String {
    match units {
        [] => "none".into(),
        [only] => only.name.clone(),
        [first, .., last] => format!("{} to {}", first.name, last.name),
    }
}

/// The cut that counts units only, for comparison: the first stages take one more where it does not come out even.
///
/// `order.stages` is in 1..=units.
pub fn even_by_units(order: &CutOrder<'_>) -> Cut {
    let (units, stages) = (order.units.len(), order.stages);
    let start = |stage: usize| stage * (units / stages) + stage.min(units % stages);
    order.cut_at((0..stages).map(|stage| start(stage)..start(stage + 1)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goal::{Balance, Mix};
    use crate::unit::tests::smollm2;

    fn lengths(cut: &Cut) -> Vec<usize> {
        cut.stages.iter().map(|stage| stage.units.len()).collect()
    }

    fn order(units: &[Unit], stages: usize) -> CutOrder<'_> {
        CutOrder { units, stages, goal: Goal::default(), stage_memory: &[], kv_tokens: 0 }
    }

    fn for_mix(prompt: u32, answer: u32) -> Goal {
        Goal { mix: Mix { prompt, answer }, ..Goal::default() }
    }

    #[test]
    fn the_head_counts_as_often_as_the_mix_has_tokens_of_answers() {
        let units = smollm2();
        // One row of 2048 meets the head, which is little; then each does, where it weighs as much as eight layers.
        for (goal, expected) in [
            (for_mix(2048, 1), [10, 10, 10]),
            (for_mix(1, 2048), [12, 11, 7]),
            (for_mix(32, 16), [12, 11, 7]),
            (for_mix(512, 64), [11, 10, 9]),
            (for_mix(64, 512), [12, 12, 6]),
        ] {
            let three = cut(&CutOrder { goal, ..order(&units, 3) }).unwrap();
            assert_eq!(lengths(&three), expected, "{}", goal.mix);
            assert!((three.stages.iter().map(|stage| stage.cost).sum::<f64>() - 1.0).abs() < 1e-12);
            let even = even_by_units(&CutOrder { goal, ..order(&units, 3) });
            assert_eq!(lengths(&even), [10, 10, 10]);
            assert!(three.bottleneck() <= even.bottleneck() && three.bottleneck() < 0.36);
        }
    }

    #[test]
    fn a_params_cut_counts_the_embedding_at_both_ends() {
        let units = smollm2();
        let goal = Goal { balance: Balance::Params, ..Goal::default() };
        let three = cut(&CutOrder { goal, ..order(&units, 3) }).unwrap();
        assert_eq!(lengths(&three), [8, 15, 7]);
    }

    #[test]
    fn memory_caps_count_weights_and_kv_cache() {
        let units = smollm2();
        let kv_tokens = 1000;
        // The first stage may hold the embedding and five layers.
        let first = weights(&units[..5]).bytes + kv_bytes(&units[..5], kv_tokens);
        let free = u64::MAX;
        let caps = [first, free, free];
        let capped = CutOrder { stage_memory: &caps, kv_tokens, ..order(&units, 3) };
        assert_eq!(lengths(&cut(&capped).unwrap())[0], 5);
        let short = [first - 1, free, free];
        assert_eq!(lengths(&cut(&CutOrder { stage_memory: &short, ..capped }).unwrap())[0], 4);
        let stage = &cut(&capped).unwrap().stages[0];
        assert_eq!(stage.weight_bytes + stage.kv_bytes, first);
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let units = smollm2();
        let caps = [100_000_000];
        let fault = cut(&CutOrder { stage_memory: &caps, kv_tokens: 10, ..order(&units, 2) }).unwrap_err();
        assert!(fault.message.contains("no cut into 2 stages fits"), "{fault}");
        assert!(cut(&CutOrder { stage_memory: &caps, ..order(&units, 4) }).is_ok());
        let fault = cut(&order(&units, 31)).unwrap_err();
        assert!(fault.message.contains("30 units (layer 0 to layer 29) into 31 stages"), "{fault}");
        let fault = cut(&CutOrder { stage_memory: &[1, 2], ..order(&units, 3) }).unwrap_err();
        assert!(fault.message.contains("for 2 stages of 3"), "{fault}");
    }

    #[test]
    fn the_comparison_covers_every_unit() {
        let units = smollm2();
        for stages in 1..=30 {
            let even = lengths(&even_by_units(&order(&units, stages)));
            assert_eq!(even.iter().sum::<usize>(), 30);
            assert!(even.iter().max().unwrap() - even.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_model_of_nothing_is_cut_all_the_same() {
        let mut units = smollm2();
        units.iter_mut().for_each(|unit| unit.cost = crate::unit::UnitCost::default());
        let three = cut(&order(&units, 3)).unwrap();
        assert!(three.stages.iter().all(|stage| stage.cost == 1.0 / 3.0), "{three:?}");
    }
}
