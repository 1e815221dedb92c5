//! `kernels/decode_attention.cu`: one row a sequence attends to all that its sequence has in the cache.

use super::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use super::paged::{Counts, Paged, PagedShape};
use super::{Checks, paged};
use cudarc::driver::CudaStream;

const CHECKS: Checks = Checks { kernel: "decode_attention" };

/// The widest heads that each of the kernel's versions takes, and the threads of its blocks.
const VERSIONS: [(usize, u32); 3] = [(64, 128), (128, 128), (256, 64)];
/// Query heads of an item at most.
const HEADS: usize = 8;
/// Positions that a warp takes at a time: a sequence is read from a multiple of it on.
const KEYS: usize = 16;
/// Positions by which work is shared out.
const UNIT: usize = 64;
/// Blocks of a multiprocessor that keep its memory busy, and, since fewer parts are merged sooner, those of a single sequence.
const BLOCKS_AT_ONCE: usize = 2;
const BLOCKS_OF_ONE: usize = 1;

/// The names of all versions, in the order in which `Kernels` holds them.
pub(crate) fn versions() -> impl Iterator<Item = String> {
    VERSIONS.into_iter().map(|(width, _)| width.to_string())
}

/// The number of the version that takes heads of `head_dim` numbers.
fn version(head_dim: usize) -> Option<usize> {
    VERSIONS.iter().position(|(width, _)| head_dim <= *width)
}

/// What several sequences have to do, shared out among blocks: see the kernel's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Blocks of the launch.
    pub count: usize,
    /// Query heads that an item has at most.
    most_heads: usize,
    head_dim: usize,
}

impl Blocks {
    /// For `rows` sequences of up to `max_positions` on a device of so many `multiprocessors`: as many as keep its memory
    /// busy, or as have anything to do.
    pub fn new(shape: &PagedShape, rows: usize, max_positions: usize, multiprocessors: usize) -> Self {
        let units = rows * items(shape) * max_positions.div_ceil(UNIT).max(1);
        let at_once = if rows == 1 { BLOCKS_OF_ONE } else { BLOCKS_AT_ONCE };
        Self::of(shape, (multiprocessors * at_once).min(units).max(1))
    }

    /// So many.
    pub fn of(shape: &PagedShape, count: usize) -> Self {
        Self { count, most_heads: HEADS.min(shape.heads / shape.kv_heads.max(1)), head_dim: shape.head_dim }
    }

    /// The shape of [`DecodeAttention::partial`].
    fn partial_shape(&self) -> [usize; 4] {
        [self.count, 2, self.most_heads, 4 + self.head_dim]
    }

    /// How many numbers [`DecodeAttention::partial`] has.
    pub fn partial_len(&self) -> usize {
        self.partial_shape().into_iter().product()
    }
}

/// What a sequence is to be done for separately: as often as up to 8 of its heads share keys.
fn items(shape: &PagedShape) -> usize {
    shape.kv_heads * (shape.heads / shape.kv_heads.max(1)).div_ceil(HEADS)
}

/// The arguments of one launch. Row `s` of `qkv` is of the sequence whose blocks are column `s` of `tables`.
#[derive(Clone, Copy, Debug)]
pub struct DecodeAttention<T> {
    /// Queries, caches and shape, with `head_dim` 256 at most.
    pub paged: Paged<T>,
    /// `[rows]`: positions that each sequence has, the row's own included; at most `table_blocks * block_size`, which only
    /// whoever wrote them can have checked. 0 makes zeros.
    pub lengths: DeviceSlice<u32>,
    /// Blocks that share the work.
    pub blocks: Blocks,
    /// `[blocks, 2, heads that share keys, 8 at most, 4 + head_dim]`: what blocks leave each other.
    pub partial: DeviceSlice<f32>,
    /// `[blocks]`: 0 before the launch, and again after it.
    pub turns: DeviceSlice<u32>,
}

impl<T: Half> DecodeAttention<T> {
    /// Launches it on `stream`; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape or not aligned to 16 bytes, the shape is not one that the kernel takes, or the driver
    /// refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let Counts { rows, heads, kv_heads, head_dim, block_size, table_stride, most_positions, window } =
            self.paged.check(CHECKS)?;
        let shape = &self.paged.shape;
        let Some(version) = version(shape.head_dim) else {
            return Err(CHECKS.fault(format!("heads of {head_dim} numbers: it takes 256 at most")));
        };
        if self.blocks != Blocks::of(shape, self.blocks.count.max(1)) {
            return Err(CHECKS.fault(format!("{:?} are not of {shape:?}", self.blocks)));
        }
        let blocks = CHECKS.count("blocks", self.blocks.count)?;
        let seqs = self.lengths.len();
        CHECKS.shape("lengths", self.lengths, &[rows as usize])?;
        if seqs > self.paged.table_stride {
            return Err(CHECKS.fault(format!("{seqs} rows, but tables of {table_stride} sequences")));
        }
        CHECKS.matrix("partial", self.partial, &self.blocks.partial_shape())?;
        CHECKS.aligned("partial", self.partial)?;
        CHECKS.shape("turns", self.turns, &[self.blocks.count])?;
        // All units are counted by 32 bits on the device.
        let most_units = (most_positions as usize).div_ceil(UNIT) + 1;
        CHECKS.count("units of work", most_units.saturating_mul(items(shape)).saturating_mul(seqs))?;
        if rows == 0 {
            return Ok(());
        }
        let arguments = [
            self.paged.qkv.into(),
            self.paged.k_cache.into(),
            self.paged.v_cache.into(),
            self.paged.tables.into(),
            self.lengths.into(),
            self.paged.out.into(),
            self.partial.into(),
            self.turns.into(),
            rows.into(),
            heads.into(),
            kv_heads.into(),
            head_dim.into(),
            block_size.into(),
            table_stride.into(),
            window.into(),
            shape.scale.into(),
        ];
        let (function, threads) = (T::of(&kernels.decode_attention[version]), VERSIONS[version].1);
        // SAFETY: the parameters of `decode_attention_*`; `qkv`, `tables`, `lengths` and `out` have room for `rows` rows,
        // `partial` and `turns` for `blocks` blocks; lengths and blocks stay inside tables and caches, as the fields demand.
        unsafe { launch(stream, (CHECKS.kernel, function), (blocks, 1, 1), threads, &arguments) }
    }

    /// What one launch must move for sequences of these `lengths`, if no two share a block.
    pub fn traffic(&self, lengths: &[usize]) -> Traffic {
        let shape = &self.paged.shape;
        let row = (shape.heads * shape.head_dim * 2) as u64;
        let mut traffic = Traffic { read_bytes: 4 * lengths.len() as u64, written_bytes: row * lengths.len() as u64 };
        for seen in lengths.iter().filter(|length| **length > 0).map(|length| shape.seen(length - 1)) {
            traffic.read_bytes += row + 4 * shape.blocks(&seen) as u64 + shape.kv_bytes(seen.len());
        }
        for (heads, parts) in self.shared_items(lengths) {
            let bytes = (parts * heads * (2 + shape.head_dim) * 4 + 4) as u64;
            traffic += Traffic { read_bytes: bytes, written_bytes: bytes };
        }
        traffic
    }

    /// The items that several blocks have parts of: query heads, and parts.
    fn shared_items(&self, lengths: &[usize]) -> Vec<(usize, usize)> {
        let shape = &self.paged.shape;
        let units = |length: &usize| {
            let seen = if *length == 0 { 0..0 } else { shape.seen(length - 1) };
            (seen.end - seen.start / KEYS * KEYS).div_ceil(UNIT).max(1)
        };
        let all: usize = lengths.iter().map(|length| units(length) * items(shape)).sum();
        let share = all.div_ceil(self.blocks.count).max(1);
        let group = shape.heads / shape.kv_heads;
        let (mut shared, mut unit) = (Vec::new(), 0);
        for units in lengths.iter().map(units) {
            for first_head in (0..shape.kv_heads).flat_map(|_| (0..group).step_by(HEADS)) {
                let parts = (unit + units - 1) / share - unit / share + 1;
                if parts > 1 {
                    shared.push((HEADS.min(group - first_head), parts));
                }
                unit += units;
            }
        }
        shared
    }
}

/// What a row becomes whose sequence has `length` positions: see [`paged::oracle`].
pub fn oracle<T: Half>(
    shape: &PagedShape,
    queries: &[T],
    caches: (&[T], &[T]),
    table: &[i32],
    length: usize,
) -> Vec<f64> {
    let seen = if length == 0 { 0..0 } else { shape.seen(length - 1) };
    paged::oracle(shape, queries, caches, table, seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    const CHIP: usize = 132;
    const SHAPE: PagedShape =
        PagedShape { heads: 32, kv_heads: 8, head_dim: 128, block_size: 16, window: 0, scale: 1.0 };

    #[test]
    fn blocks_fill_the_device_and_no_more() {
        let count = |rows, positions| Blocks::new(&SHAPE, rows, positions, CHIP).count;
        assert_eq!([1, 2, 256].map(|rows| count(rows, 8192)), [CHIP, 2 * CHIP, 2 * CHIP]);
        assert_eq!([1, 64, 65, 128].map(|positions| count(1, positions)), [8, 8, 16, 16]);
        assert_eq!(count(0, 0), 1);
        let blocks = Blocks::of(&PagedShape { heads: 7 * 8, ..SHAPE }, 3);
        assert_eq!(blocks.partial_len(), 3 * 2 * 7 * 132);
        assert_eq!(Blocks::of(&PagedShape { heads: 12 * 8, ..SHAPE }, 3).partial_len(), 3 * 2 * 8 * 132);
    }

    /// The arguments of a launch that never happens.
    fn attention(shape: PagedShape, blocks: usize) -> DecodeAttention<bf16> {
        // SAFETY: no numbers at all.
        let (halves, words, table, floats) =
            unsafe { (DeviceSlice::new(0, 0), DeviceSlice::new(0, 0), DeviceSlice::new(0, 0), DeviceSlice::new(0, 0)) };
        let paged =
            Paged { qkv: halves, k_cache: halves, v_cache: halves, tables: table, table_stride: 0, out: halves, shape };
        let blocks = Blocks::of(&shape, blocks);
        DecodeAttention { paged, lengths: words, blocks, partial: floats, turns: words }
    }

    #[test]
    fn items_that_cross_a_blocks_border_have_parts() {
        let shape = PagedShape { heads: 20, kv_heads: 2, ..SHAPE };
        let shared = |blocks, lengths: &[usize]| attention(shape, blocks).shared_items(lengths);
        // Ten heads of each of two: items of 8 and 2 heads. Of 128 positions each has two units.
        assert_eq!(shared(1, &[128]), []);
        assert_eq!(shared(4, &[128]), []);
        assert_eq!(shared(3, &[128]), [(2, 2)]);
        assert_eq!(shared(8, &[128]), [(8, 2), (2, 2), (8, 2), (2, 2)]);
        assert_eq!(shared(99, &[128]), shared(8, &[128]));
        // Empty sequences take a unit, and are never shared.
        assert_eq!(shared(99, &[0, 1, 64]), []);
        assert_eq!(shared(5, &[0, 128]), [(8, 2)]);
        // A window of 64 that begins inside of 16 positions takes two units.
        let windowed = PagedShape { heads: 1, kv_heads: 1, window: 64, ..SHAPE };
        assert_eq!(attention(windowed, 9).shared_items(&[128, 129, 64]), [(1, 2)]);
    }

    #[test]
    fn a_cache_of_more_rows_than_are_counted_is_refused() {
        let shape = PagedShape { heads: 1, kv_heads: 1, head_dim: 8, block_size: 16, ..SHAPE };
        let rows = |rows: usize| {
            // SAFETY: nothing is launched.
            let cache = unsafe { DeviceSlice::new(0, rows * 8) };
            Paged { k_cache: cache, v_cache: cache, ..attention(shape, 1).paged }.check(CHECKS).err()
        };
        assert!(rows((1 << 31) - 16).is_none());
        let refused = rows(1 << 31).expect("a row more than 31 bits count").to_string();
        assert!(refused.contains("rows of a cache"), "{refused}");
    }

    #[test]
    fn every_shape_has_the_narrowest_version_that_holds_it() {
        let names: Vec<String> = versions().collect();
        let name = |head_dim| version(head_dim).map(|version| names[version].as_str());
        assert_eq!([8, 64, 72, 128, 256].map(name), ["64", "64", "128", "128", "256"].map(Some));
        assert_eq!(name(264), None);
    }
}
