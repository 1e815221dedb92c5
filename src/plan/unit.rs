//! What a cut divides: the units of a model, what they weigh and what they cost.

use crate::goal::{Balance, Goal, Mix};
use stageline_base::Border;
use std::collections::BTreeSet;
use std::iter::Sum;
use std::ops::Add;

/// The smallest part of a model that may be a stage of its own, such as a layer. What is never apart from its neighbour
/// belongs to the neighbour's unit: a decoder's first has the embedding, its last the head.
///
/// A model is a row of units, in the order in which a row of activations passes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// What it is called, such as `layer 3`; no other unit of its model is called so.
    pub name: String,
    /// What crosses in front of it; at the first unit, what a request brings.
    pub border: Border,
    /// All its weights.
    pub weights: Weights,
    /// Of these, those that other units have too, by the tensor's name: a stage keeps each once.
    pub tied: Vec<(String, Weights)>,
    /// KV cache for one token, in bytes.
    pub kv_bytes_per_token: u64,
    /// How long it takes.
    pub cost: UnitCost,
}

/// Weights, as they are kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Numbers.
    pub parameters: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Add for Weights {
    type Output = Self;

    /// Saturates: what nobody has memory for needs no exact size.
    fn add(self, other: Self) -> Self {
        Self {
            parameters: self.parameters.saturating_add(other.parameters),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Sum for Weights {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

/// How long a device is at one unit, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UnitCost {
    /// For a prompt's row, in a chunk.
    pub prompt: RowCost,
    /// For a decode row, in a batch of [`crate::estimate::DECODE_BATCH`] of them.
    pub decode: RowCost,
    /// For a request, whatever its length: what its prompt's last row takes beyond the others, since it emits.
    pub request: f64,
    /// What its rows attend to.
    pub sight: Sight,
}

/// How long a row takes, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowCost {
    /// Whatever it attends to.
    pub row: f64,
    /// For each position that it attends to, its own too.
    pub position: f64,
}

/// What a row attends to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// Its own position and all before it.
    #[default]
    Before,
    /// At most so many positions, its own the last.
    Window(u32),
    /// The whole sequence.
    Whole,
}

impl Sight {
    /// How many positions the first `rows` rows of a sequence attend to, all together.
    pub fn seen(self, rows: u32) -> f64 {
        let triangle = |rows: f64| rows * (rows + 1.0) / 2.0;
        let n = f64::from(rows);
        match self {
            Self::Before => triangle(n),
            Self::Whole => n * n,
            Self::Window(window) => {
                let near = f64::from(rows.min(window));
                triangle(near) + (n - near) * f64::from(window)
            }
        }
    }
}

impl UnitCost {
    /// For a request of `mix`, in nanoseconds.
    pub fn of(&self, mix: Mix) -> f64 {
        let rows = |cost: RowCost, rows: u32, seen: f64| cost.row * f64::from(rows) + cost.position * seen;
        let prompt = self.sight.seen(mix.prompt);
        let all = self.sight.seen(mix.prompt.saturating_add(mix.decode_rows()));
        self.request + rows(self.prompt, mix.prompt, prompt) + rows(self.decode, mix.decode_rows(), all - prompt)
    }
}

impl Unit {
    /// What it adds to a stage's weight on the way to `goal`: nanoseconds a request, or parameters.
    pub(crate) fn toward(&self, goal: Goal) -> u64 {
        match goal.balance {
            Balance::Cost => self.cost.of(goal.mix).round() as u64,
            Balance::Params => self.weights.parameters,
        }
    }
}

/// The weights of a stage of `units`, what several of them hold counted once.
pub fn weights(units: &[Unit]) -> Weights {
    let mut seen = BTreeSet::new();
    let again = units.iter().flat_map(|unit| &unit.tied).filter(|(name, _)| !seen.insert(name));
    let (all, again): (Weights, Weights) =
        (units.iter().map(|unit| unit.weights).sum(), again.map(|(_, weights)| *weights).sum());
    Weights {
        parameters: all.parameters.saturating_sub(again.parameters),
        bytes: all.bytes.saturating_sub(again.bytes),
    }
}

/// The bytes of a stage of `units`: its weights, and the KV cache of `kv_tokens` tokens.
pub fn kv_bytes(units: &[Unit], kv_tokens: u64) -> u64 {
    let one = units.iter().fold(0_u64, |sum, unit| sum.saturating_add(unit.kv_bytes_per_token));
    one.saturating_mul(kv_tokens)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::estimate::{Work, estimate};

    /// SmolLM2-135M in bf16, from its config.json: 30 layers, and a tied embedding that weighs as much as 8 of them.
    pub(crate) fn smollm2() -> Vec<Unit> {
        let (hidden, kv, mlp, vocab) = (576_u64, 192_u64, 1536_u64, 49_152_u64);
        let of = |parameters: u64| Weights { parameters, bytes: parameters * 2 };
        let layer = of(2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * mlp + 2 * hidden);
        let table = of(vocab * hidden);
        let work = Work { every_row: layer, position_flops: 4 * hidden, position_bytes: 8 * kv, ..Work::default() };
        let unit = |number: usize| Unit {
            name: format!("layer {number}"),
            border: Border::hidden(576),
            weights: layer,
            tied: Vec::new(),
            kv_bytes_per_token: 8 * kv,
            cost: estimate(&work),
        };
        let mut units: Vec<Unit> = (0..30).map(unit).collect();
        for end in [0, 29] {
            units[end].weights = layer + table;
            units[end].tied = vec![("embedding".into(), table)];
        }
        units[29].weights = units[29].weights + of(hidden);
        units[29].cost = estimate(&Work { emitting: table + of(hidden), ..work });
        units
    }

    #[test]
    fn what_is_tied_counts_in_each_stage_but_once_where_it_meets_itself() {
        let units = smollm2();
        assert_eq!(weights(&units).parameters, 134_515_008);
        assert_eq!(weights(&units).bytes, 2 * 134_515_008);
        let (front, back) = (weights(&units[..15]), weights(&units[15..]));
        assert_eq!(front.parameters + back.parameters, 134_515_008 + 49_152 * 576);
        assert_eq!(weights(&units[3..4]), units[3].weights);
        assert_eq!(kv_bytes(&units[3..5], 10), 2 * 10 * 2 * 192 * 4);
    }

    #[test]
    fn a_request_costs_its_rows_and_what_they_attend_to() {
        let row = |row, position| RowCost { row, position };
        let cost = UnitCost { prompt: row(2.0, 0.5), decode: row(10.0, 1.0), request: 7.0, sight: Sight::Before };
        // Prompt rows see 1 + 2 + 3 positions, the one decode row sees 4.
        let mix = Mix { prompt: 3, answer: 2 };
        assert_eq!(cost.of(mix), 7.0 + (3.0 * 2.0 + 6.0 * 0.5) + (10.0 + 4.0));
        // Within a window of 2 they see 1 + 2 + 2, and 2.
        assert_eq!(UnitCost { sight: Sight::Window(2), ..cost }.of(mix), 7.0 + (6.0 + 2.5) + (10.0 + 2.0));
        assert_eq!(UnitCost { sight: Sight::Window(9), ..cost }.of(mix), cost.of(mix));
        // Of an encoder each sees all three.
        let once = Mix { prompt: 3, answer: 1 };
        assert_eq!(UnitCost { sight: Sight::Whole, ..cost }.of(once), 7.0 + 6.0 + 4.5);
    }
}
