//! What the parts of a model weigh and cost.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Range};

/// What a cut evens out between its stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Time per decode row ([`PartCost::row_bytes`]): no stage waits long for another.
    #[default]
    Cost,
    /// Parameters: no stage needs much more memory for weights than another.
    Params,
}

impl Balance {
    /// Its name on the command line and in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Params => "params",
        }
    }

    /// The balance of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Cost, Self::Params].into_iter().find(|b| b.as_str() == name)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one part of a model (the embedding, a layer, the head), or several together, weigh and cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartCost {
    /// Weights, in elements.
    pub parameters: u64,
    /// Weights, in bytes as they are kept.
    pub weight_bytes: u64,
    /// Weights that one decode row reads, in bytes. This is the time of a decode row up to a factor, since a matrix times
    /// few rows takes as long as its weights take to come from memory. A layer and the head read all their weights; an
    /// embedding look-up reads one row of each table, so it costs about nothing.
    pub row_bytes: u64,
    /// KV cache for one token, in bytes.
    pub kv_bytes_per_token: u64,
}

impl Add for PartCost {
    type Output = Self;

    /// Saturates: what nobody has memory for needs no exact size.
    fn add(self, other: Self) -> Self {
        Self {
            parameters: self.parameters.saturating_add(other.parameters),
            weight_bytes: self.weight_bytes.saturating_add(other.weight_bytes),
            row_bytes: self.row_bytes.saturating_add(other.row_bytes),
            kv_bytes_per_token: self.kv_bytes_per_token.saturating_add(other.kv_bytes_per_token),
        }
    }
}

impl Sum for PartCost {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

/// The parts of a model, in the order in which a row passes them.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCost {
    /// What is in front of the first layer.
    pub embedding: PartCost,
    /// The layers.
    pub layers: Vec<PartCost>,
    /// What follows the last layer.
    pub head: PartCost,
    /// Weights that the embedding and the head both count since the model ties them. A stage that has both ends keeps
    /// them once; otherwise both ends keep them.
    pub tied: PartCost,
}

impl ModelCost {
    /// What the stage of `layers` weighs and costs, with the embedding and the head if it has them.
    pub fn stage(&self, layers: Range<usize>) -> PartCost {
        let (first, last) = (layers.start == 0, layers.end == self.layers.len());
        let ends = [first.then_some(self.embedding), last.then_some(self.head)];
        let mut sum: PartCost = ends.into_iter().flatten().chain(self.layers[layers].iter().copied()).sum();
        if first && last {
            sum.parameters = sum.parameters.saturating_sub(self.tied.parameters);
            sum.weight_bytes = sum.weight_bytes.saturating_sub(self.tied.weight_bytes);
        }
        sum
    }

    /// What each layer adds to a stage's weight in `balance`; the first layer stands for the embedding too, the last for
    /// the head: they are never apart.
    pub(crate) fn weights(&self, balance: Balance) -> Vec<u64> {
        let pick = |part: PartCost| match balance {
            Balance::Cost => part.row_bytes,
            Balance::Params => part.parameters,
        };
        let mut weights: Vec<u64> = self.layers.iter().map(|&part| pick(part)).collect();
        if let Some(first) = weights.first_mut() {
            *first = first.saturating_add(pick(self.embedding));
        }
        if let Some(last) = weights.last_mut() {
            *last = last.saturating_add(pick(self.head));
        }
        weights
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// SmolLM2-135M in bf16, from its config.json: 30 layers, and a tied embedding that weighs as much as 8 of them.
    pub(crate) fn smollm2() -> ModelCost {
        let part = |parameters: u64, row: u64, kv| PartCost {
            parameters,
            weight_bytes: parameters * 2,
            row_bytes: row * 2,
            kv_bytes_per_token: kv,
        };
        let (hidden, kv, mlp, vocab) = (576_u64, 192_u64, 1536_u64, 49_152_u64);
        let layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * mlp + 2 * hidden;
        ModelCost {
            embedding: part(vocab * hidden, hidden, 0),
            layers: vec![part(layer, layer, 2 * kv * 4); 30],
            head: part(vocab * hidden + hidden, vocab * hidden + hidden, 0),
            tied: part(vocab * hidden, 0, 0),
        }
    }

    #[test]
    fn a_tied_embedding_counts_at_both_ends_but_once_where_they_meet() {
        let model = smollm2();
        assert_eq!(model.stage(0..30).parameters, 134_515_008);
        assert_eq!(model.stage(0..30).weight_bytes, 2 * 134_515_008);
        let (front, back) = (model.stage(0..15), model.stage(15..30));
        assert_eq!(front.parameters + back.parameters, 134_515_008 + 49_152 * 576);
        assert_eq!(model.stage(3..4), model.layers[3]);
        assert_eq!(front.row_bytes, 15 * model.layers[0].row_bytes + 2 * 576);
    }

    #[test]
    fn balances_have_names() {
        for balance in [Balance::Cost, Balance::Params] {
            assert_eq!(Balance::parse(balance.as_str()), Some(balance));
        }
        assert_eq!(Balance::parse("layers"), None);
    }
}
