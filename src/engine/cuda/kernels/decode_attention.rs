//! `kernels/decode_attention.cu`: one row a sequence attends to all that its sequence has in the cache.

use super::paged::{Counts, Paged};
use super::{Checks, paged};
use crate::engine::cuda::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::CudaStream;

const CHECKS: Checks = Checks { kernel: "decode_attention" };
const THREADS: u32 = 128;

/// The widest heads that each of the kernel's versions takes.
const WIDTHS: [usize; 3] = [64, 128, 256];
/// How many query heads each version takes at a time.
const GROUPS: [usize; 4] = [1, 2, 4, 8];
/// What the driver takes as the second and third number of a grid.
const MOST_BLOCKS: usize = 65535;
/// Blocks that a multiprocessor runs at once: enough loads on their way to keep its memory busy.
const BLOCKS_AT_ONCE: usize = 2;
/// Positions that are worth a block: four warps take eight at a time, and each should do so a few times.
const LEAST_POSITIONS: usize = 128;

/// The names of all versions, in the order in which `Kernels` holds them.
pub(in crate::engine::cuda) fn versions() -> impl Iterator<Item = String> {
    WIDTHS.into_iter().flat_map(|width| GROUPS.map(|heads| format!("{width}_{heads}")))
}

/// The number of the version that takes heads of `head_dim` numbers in groups of `group`; groups beyond the largest are
/// taken in parts.
fn version(head_dim: usize, group: usize) -> Option<usize> {
    let width = WIDTHS.iter().position(|width| head_dim <= *width)?;
    let heads = GROUPS.iter().position(|heads| group <= *heads).unwrap_or(GROUPS.len() - 1);
    Some(width * GROUPS.len() + heads)
}

/// Into how many parts to split the positions of `seqs` sequences of up to `max_positions`: so many that the blocks fill
/// the device, but none too short to be worth one.
pub fn splits(seqs: usize, kv_heads: usize, max_positions: usize, multiprocessors: usize) -> usize {
    let room = multiprocessors * BLOCKS_AT_ONCE / (seqs * kv_heads).max(1);
    room.min(max_positions.div_ceil(LEAST_POSITIONS)).max(1)
}

/// The arguments of one launch. Row `s` of `qkv` is of the sequence whose blocks are row `s` of `tables`.
#[derive(Clone, Copy, Debug)]
pub struct DecodeAttention<T> {
    /// Queries, caches and shape, with `head_dim` 256 at most.
    pub paged: Paged<T>,
    /// `[rows]`: positions that each sequence has, the row's own included; at most `table_stride * block_size`, which only
    /// whoever wrote them can have checked. 0 makes zeros.
    pub lengths: DeviceSlice<u32>,
    /// Parts that a sequence's positions are split into, each a block's work.
    pub splits: usize,
    /// `[rows, heads, splits, 2 + head_dim]`: written instead of `out` if there are several splits, for
    /// [`CombineAttention`](super::CombineAttention). Empty if there is one.
    pub partial: DeviceSlice<f32>,
}

impl<T: Half> DecodeAttention<T> {
    /// Launches it on `stream`; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape or not aligned to 16 bytes, the shape is not one that the kernel takes, or the driver
    /// refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let Counts { rows, heads, kv_heads, head_dim, block_size, table_stride, window } = self.paged.check(CHECKS)?;
        let shape = &self.paged.shape;
        let Some(version) = version(shape.head_dim, shape.heads / shape.kv_heads) else {
            return Err(CHECKS.fault(format!("heads of {head_dim} numbers: it takes 256 at most")));
        };
        if self.splits == 0 {
            return Err(CHECKS.fault("no splits".into()));
        }
        let splits = CHECKS.count("splits", self.splits)?;
        let seqs = self.lengths.len();
        if rows as usize > MOST_BLOCKS || shape.kv_heads > MOST_BLOCKS {
            return Err(CHECKS.fault(format!("{rows} rows, {kv_heads} kv heads: a grid has {MOST_BLOCKS} at most")));
        }
        CHECKS.shape("lengths", self.lengths, &[rows as usize])?;
        CHECKS.shape("tables", self.paged.tables, &[seqs, self.paged.table_stride])?;
        let parts = if self.splits == 1 { 0 } else { self.splits };
        CHECKS.shape("partial", self.partial, &[seqs, shape.heads, parts, 2 + shape.head_dim])?;
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
            heads.into(),
            kv_heads.into(),
            head_dim.into(),
            block_size.into(),
            table_stride.into(),
            splits.into(),
            window.into(),
            shape.scale.into(),
        ];
        let function = T::of(&kernels.decode_attention[version]);
        // SAFETY: the parameters of `decode_attention_*`; a block a split, key head and row, for which `qkv`, `tables`,
        // `lengths` and what is written have room; lengths and blocks stay inside tables and caches, as the fields demand.
        unsafe { launch(stream, (CHECKS.kernel, function), (splits, kv_heads, rows), THREADS, &arguments) }
    }

    /// What one launch must move for sequences of these `lengths`, if no two share a block.
    pub fn traffic(&self, lengths: &[usize]) -> Traffic {
        let shape = &self.paged.shape;
        let row = (shape.heads * shape.head_dim * 2) as u64;
        let mut read_bytes = 4 * lengths.len() as u64;
        for seen in lengths.iter().filter(|length| **length > 0).map(|length| shape.seen(length - 1)) {
            read_bytes += row + 4 * shape.blocks(&seen) as u64 + shape.kv_bytes(seen.len());
        }
        let partial = (shape.heads * self.splits * (2 + shape.head_dim) * 4) as u64;
        let written = if self.splits == 1 { row } else { partial };
        Traffic { read_bytes, written_bytes: written * lengths.len() as u64 }
    }
}

/// What a row becomes whose sequence has `length` positions: see [`paged::oracle`].
pub fn oracle<T: Half>(
    shape: &paged::PagedShape,
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

    #[test]
    fn splits_fill_the_device_and_no_more() {
        const CHIP: usize = 132;
        // One long sequence: a block for every multiprocessor, and no second round of blocks.
        for kv_heads in [1, 2, 3, 4, 8, 32] {
            let blocks = kv_heads * splits(1, kv_heads, 8192, CHIP);
            assert!(blocks <= CHIP * BLOCKS_AT_ONCE, "{kv_heads}: {blocks}");
            assert!(
                blocks >= CHIP || splits(1, kv_heads, 8192, CHIP) == 8192 / LEAST_POSITIONS,
                "{kv_heads}: {blocks}"
            );
        }
        assert_eq!(splits(1, 8, 8192, CHIP), 33);
        // Short ones and many: as they are.
        assert_eq!([1, 16, 128].map(|positions| splits(1, 8, positions, CHIP)), [1, 1, 1]);
        assert_eq!(splits(1, 8, 129, CHIP), 2);
        assert_eq!([16, 33, 64, 256].map(|seqs| splits(seqs, 8, 8192, CHIP)), [2, 1, 1, 1]);
        assert_eq!(splits(0, 0, 0, 0), 1);
    }

    #[test]
    fn every_shape_has_the_narrowest_version_that_holds_it() {
        let names: Vec<String> = versions().collect();
        let name = |head_dim, group| version(head_dim, group).map(|version| names[version].as_str());
        assert_eq!(name(8, 1), Some("64_1"));
        assert_eq!(name(64, 3), Some("64_4"));
        assert_eq!(name(72, 2), Some("128_2"));
        assert_eq!(name(128, 7), Some("128_8"));
        assert_eq!(name(256, 16), Some("256_8"));
        assert_eq!(name(264, 1), None);
    }
}
