//! What a step must move, told without running it.

use super::decoder::Decoder;
use super::kernels::launch::Traffic;
use super::kernels::prefill_attention::Tile;
use super::shared::Shared;
use super::step::{StepInput, StepShape};
use super::weights::Weights;
use super::work::Most;
use half::bf16;
use stageline_base::Fault;
use stageline_model::{KvShape, LlamaSpec};

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
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let rows = lengths.len();
    let shape = StepShape {
        rows,
        decode_rows: rows,
        members: rows,
        table_blocks: longest.div_ceil(block_size),
        history_ids: 0,
        tiles: 0,
        emitting: rows,
        input: StepInput::Ids,
    };
    traffic(number, spec, block_size, &shape, lengths.to_vec(), Vec::new())
}

/// What the prefill of `rows` rows of one sequence moves, of which `before` rows are in the cache. As [`step_traffic`].
///
/// # Errors
/// As [`step_traffic`].
pub fn prefill_traffic(
    number: usize,
    spec: &LlamaSpec,
    block_size: usize,
    (before, rows): (usize, usize),
) -> Result<StepTraffic, Fault> {
    let tiles: Vec<Tile> = Tile::cover(0, 0, rows as u32, before as u32).collect();
    let shape = StepShape {
        rows,
        decode_rows: 0,
        members: 1,
        table_blocks: (before + rows).div_ceil(block_size),
        history_ids: 0,
        tiles: tiles.len(),
        emitting: 1,
        input: StepInput::Ids,
    };
    traffic(number, spec, block_size, &shape, vec![before + rows], tiles)
}

/// What the step of `shape` moves. Of its sequences' `lengths` every position is read or written once at least.
fn traffic(
    number: usize,
    spec: &LlamaSpec,
    block_size: usize,
    shape: &StepShape,
    lengths: Vec<usize>,
    tiles: Vec<Tile>,
) -> Result<StepTraffic, Fault> {
    let shared = Shared::open(number)?;
    let weights = Weights::<bf16>::blank(&shared.gpu, spec, &(0..spec.layers), shape.table_blocks * block_size)?;
    let kv = KvShape { blocks: shape.table_blocks * shape.members, block_size };
    let most = Most {
        rows: shape.rows,
        members: shape.members,
        emitting: shape.emitting,
        history_ids: shape.history_ids,
        positions: shape.table_blocks * block_size,
    };
    let mut decoder = Decoder::new(&shared, spec, weights, kv, most)?;
    let seen = |layer: usize, length: usize| spec.window(layer).map_or(length, |window| length.min(window));
    let positions: usize = (0..spec.layers).map(|layer| lengths.iter().map(|l| seen(layer, *l)).sum::<usize>()).sum();
    let least = decoder.weights_bytes() + positions * 2 * spec.kv_heads * spec.head_dim * size_of::<bf16>();
    let step = decoder.traffic(shape, lengths, tiles)?;
    Ok(StepTraffic { step, least_bytes: least as u64 })
}
