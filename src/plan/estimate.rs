//! How long a unit takes, by what it computes: what a cut goes by where nobody has measured.

use crate::unit::{RowCost, Sight, UnitCost, Weights};

/// Decode rows that a batch is taken to have: with more, reading weights counts less.
pub const DECODE_BATCH: u32 = 8;

// What a few CPU cores reach; only their ratios matter to a cut. A GPU computes far faster than it reads: there, measure
// (`split --measure`).
/// How fast a device reads weights, keys and values, in bytes a nanosecond.
const READ_BYTES_PER_NS: f64 = 20.0;
/// How fast it multiplies and adds in products with weights, each counting one.
const FLOPS_PER_NS: f64 = 120.0;
/// How fast it does so in attention.
const ATTENTION_FLOPS_PER_NS: f64 = 40.0;

/// What a unit computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Weights of which each row meets every one.
    pub every_row: Weights,
    /// Weights that only rows meet which emit: a head's. One row of a prompt emits, and each decode row.
    pub emitting: Weights,
    /// Multiplications and additions of a row for each position that it attends to.
    pub position_flops: u64,
    /// Bytes of keys and values that it reads for each.
    pub position_bytes: u64,
    /// What a row attends to.
    pub sight: Sight,
}

/// How long `work` takes, roughly.
///
/// A product with a matrix takes the time in which its weights come from memory, once a batch, and that of its arithmetic, 2
/// flops a weight and row. A prompt's rows go so many at a time that reading counts nothing; decode rows share it with their
/// batch; the row of a prompt that emits is the only one in the head. Keys and values are read by each decode row for itself,
/// and by a prompt's rows together.
pub fn estimate(work: &Work) -> UnitCost {
    let multiply = |weights: Weights| 2.0 * weights.parameters as f64 / FLOPS_PER_NS;
    let read = |weights: Weights| weights.bytes as f64 / READ_BYTES_PER_NS;
    let decode = |weights: Weights| multiply(weights) + read(weights) / f64::from(DECODE_BATCH);
    let attend = work.position_flops as f64 / ATTENTION_FLOPS_PER_NS;
    UnitCost {
        prompt: RowCost { row: multiply(work.every_row), position: attend },
        decode: RowCost {
            row: decode(work.every_row) + decode(work.emitting),
            position: attend.max(work.position_bytes as f64 / READ_BYTES_PER_NS),
        },
        request: multiply(work.emitting) + read(work.emitting),
        sight: work.sight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_costs_decode_rows_and_one_row_of_a_prompt() {
        let weights = Weights { parameters: 1 << 20, bytes: 2 << 20 };
        let layer = estimate(&Work { every_row: weights, ..Work::default() });
        let head = estimate(&Work { emitting: weights, ..Work::default() });
        assert_eq!(head.decode, layer.decode);
        assert_eq!((head.prompt.row, layer.request), (0.0, 0.0));
        // The row that emits has nobody to share the reading with.
        assert!(layer.prompt.row > 0.0 && layer.prompt.row < layer.decode.row && layer.decode.row < head.request);
    }

    #[test]
    fn a_decode_row_reads_keys_and_values_for_itself() {
        let work = Work { position_flops: 4 * 64, position_bytes: 2 * 4 * 64, ..Work::default() };
        let cost = estimate(&work);
        assert!(cost.decode.position > cost.prompt.position && cost.prompt.position > 0.0, "{cost:?}");
        assert_eq!((cost.decode.row, cost.prompt.row), (0.0, 0.0));
    }
}
