//! What a decode step must move, told without running it.

use super::decoder::Decoder;
use super::device::Gpu;
use super::launch::Traffic;
use super::step::{StepInput, StepShape};
use super::weights::Weights;
use super::work::Most;
use crate::base::Fault;
use crate::model::{KvShape, LlamaSpec};
use half::bf16;
use std::rc::Rc;

/// A step's traffic, and what no step can do without.
#[derive(Clone, Copy, Debug)]
pub struct StepTraffic {
    /// The sum of all its launches' formulas.
    pub step: Traffic,
    /// The weights once, and the keys and values of all positions once.
    pub least_bytes: u64,
}

/// What a decode step of the whole model `spec` in bf16 moves on device `number`, for sequences that are `lengths` long.
/// Takes the memory that the model takes, and uses none of it.
///
/// # Errors
/// `DeviceFailed` if the device has not the memory; otherwise as loading the model.
pub fn step_traffic(
    number: usize,
    spec: &LlamaSpec,
    block_size: usize,
    lengths: &[usize],
) -> Result<StepTraffic, Fault> {
    let gpu = Rc::new(Gpu::open(number)?);
    let weights = Weights::<bf16>::blank(&gpu, spec, &(0..spec.layers))?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let table_blocks = longest.div_ceil(block_size);
    let kv = KvShape { blocks: table_blocks * lengths.len(), block_size };
    let rows = lengths.len();
    let most = Most { rows, emitting: rows, positions: table_blocks * block_size };
    let mut decoder = Decoder::new(&gpu, spec, weights, kv, most)?;
    let shape = StepShape {
        rows,
        decode_rows: rows,
        members: rows,
        table_blocks,
        tiles: 0,
        emitting: rows,
        input: StepInput::Ids,
    };
    let step = decoder.traffic(&shape, lengths.to_vec(), Vec::new())?;
    let position_bytes = 2 * spec.layers * spec.kv_heads * spec.head_dim * size_of::<bf16>();
    let least = decoder.weights_bytes() + lengths.iter().sum::<usize>() * position_bytes;
    Ok(StepTraffic { step, least_bytes: least as u64 })
}
