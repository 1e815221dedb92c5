//! The memory of a stage beside its weights: the KV cache, and where a step's results lie. All of it is taken at once.

use super::arena::{Arena, room_bytes};
use super::device::Gpu;
use super::kernels::decode_attention::Blocks;
use super::kernels::launch::DeviceSlice;
use super::kernels::{PagedShape, sample};
use super::step::{StepInput, StepShape};
use super::weights::Compute;
use super::weights::Weights;
use stageline_base::Fault;
use stageline_core::machine::DEVICE_DEPTH;
use stageline_model::{KvShape, LlamaSpec};
use std::rc::Rc;

/// How much at most a step asks for.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Rows of a step.
    pub rows: usize,
    /// Members of a step.
    pub members: usize,
    /// Rows of a step that the head takes.
    pub emitting: usize,
    /// Ids in the histories of these.
    pub history_ids: usize,
    /// Positions of a sequence.
    pub positions: usize,
}

/// Where a step's intermediate results lie.
pub struct Work<T> {
    /// Residual stream of a stage that embeds, `[rows, hidden]`.
    pub x: DeviceSlice<f32>,
    pub normed: DeviceSlice<T>,
    pub qkv: DeviceSlice<T>,
    pub mixed: DeviceSlice<T>,
    pub delta: DeviceSlice<T>,
    pub gate_up: DeviceSlice<T>,
    pub gated: DeviceSlice<T>,
    pub partial: DeviceSlice<f32>,
    /// All 0 between two launches that use them.
    pub turns: DeviceSlice<u32>,
    pub logits: DeviceSlice<f32>,
    pub tokens: DeviceSlice<u32>,
    pub sampling: DeviceSlice<u64>,
    pub words: DeviceSlice<u32>,
    /// Where the words of steps wait for their turn.
    pub waiting_words: [DeviceSlice<u32>; DEVICE_DEPTH],
    _arena: Arena,
}

/// Keys and values of all layers, `[blocks, kv_heads, block_size, head_dim]` each.
pub struct PagedCache<T> {
    pub layers: Vec<(DeviceSlice<T>, DeviceSlice<T>)>,
    _arena: Arena,
}

impl<T: Compute> Work<T> {
    pub fn new(gpu: &Rc<Gpu>, spec: &LlamaSpec, weights: &Weights<T>, kv: KvShape, most: Most) -> Result<Self, Fault> {
        let LlamaSpec { hidden, heads, kv_heads, head_dim, intermediate, vocab, .. } = *spec;
        let Most { rows, members, emitting, history_ids, positions } = most;
        let first = weights.embedding.is_some();
        let last = weights.head.is_some();
        // No fewer with more rows, and the same for every window.
        let block_size = kv.block_size;
        let heads_shape = PagedShape { heads, kv_heads, head_dim, block_size, window: 0, scale: 1.0 };
        let room = positions.next_multiple_of(block_size);
        let blocks = Blocks::new(&heads_shape, rows, room, gpu.multiprocessors as usize);
        let words = StepShape {
            rows,
            decode_rows: rows,
            members,
            table_blocks: positions.div_ceil(kv.block_size),
            history_ids: if last { history_ids } else { 0 },
            tiles: rows,
            emitting: if last { emitting } else { 0 },
            input: if first { StepInput::Ids } else { StepInput::Activations(hidden) },
        };
        let head_rows = if last { emitting } else { 0 };
        let halves = [
            rows * hidden,
            rows * (heads + 2 * kv_heads) * head_dim,
            rows * heads * head_dim,
            rows * hidden,
            rows * 2 * intermediate,
            rows * intermediate,
        ];
        let singles =
            [if first { rows * hidden } else { 0 }, blocks.partial_len(), blocks.count, head_rows * vocab, head_rows];
        let sampling = head_rows * sample::work_len(vocab);
        let bytes = |len: &usize, size: usize| room_bytes(len * size);
        let words = [words.words(); 1 + DEVICE_DEPTH];
        let total = halves.iter().map(|len| bytes(len, 2)).sum::<usize>()
            + singles.iter().chain(&words).map(|len| bytes(len, 4)).sum::<usize>()
            + bytes(&sampling, 8);
        let mut arena = Arena::new(gpu, total, &format!("a step of {rows} rows"))?;
        Ok(Self {
            x: arena.take(singles[0])?,
            normed: arena.take(halves[0])?,
            qkv: arena.take(halves[1])?,
            mixed: arena.take(halves[2])?,
            delta: arena.take(halves[3])?,
            gate_up: arena.take(halves[4])?,
            gated: arena.take(halves[5])?,
            partial: arena.take(singles[1])?,
            turns: arena.take_zeros(singles[2])?,
            logits: arena.take(singles[3])?,
            tokens: arena.take(singles[4])?,
            sampling: arena.take(sampling)?,
            words: arena.take(words[0])?,
            waiting_words: [arena.take(words[1])?, arena.take(words[2])?],
            _arena: arena,
        })
    }
}

impl<T: Compute> PagedCache<T> {
    pub fn new(gpu: &Rc<Gpu>, spec: &LlamaSpec, layers: usize, kv: KvShape) -> Result<Self, Fault> {
        let len = kv.blocks * kv.block_size * spec.kv_heads * spec.head_dim;
        let purpose = format!("a KV cache of {} blocks for {layers} layers", kv.blocks);
        let mut arena = Arena::new(gpu, Self::bytes(spec, layers, kv), &purpose)?;
        let layers = (0..layers).map(|_| Ok((arena.take(len)?, arena.take(len)?))).collect::<Result<_, Fault>>()?;
        Ok(Self { layers, _arena: arena })
    }

    /// Bytes of device memory that such a cache takes.
    pub fn bytes(spec: &LlamaSpec, layers: usize, kv: KvShape) -> usize {
        2 * layers * room_bytes(kv.blocks * kv.block_size * spec.kv_heads * spec.head_dim * size_of::<T>())
    }

    /// Blocks of the largest cache of blocks of `block_size` positions that takes at most `bytes`.
    pub fn blocks_in(bytes: usize, spec: &LlamaSpec, layers: usize, block_size: usize) -> usize {
        let kv = |blocks| KvShape { blocks, block_size };
        let one = 2 * layers * block_size * spec.kv_heads * spec.head_dim * size_of::<T>();
        let most = bytes / one;
        // What lies between the layers' ranges may be worth a few blocks.
        (0..=most).rev().find(|blocks| Self::bytes(spec, layers, kv(*blocks)) <= bytes).unwrap_or(0)
    }
}
