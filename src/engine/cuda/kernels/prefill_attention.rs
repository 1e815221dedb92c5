//! `kernels/prefill_attention.cu`: rows of prompts attend to themselves and to what is before them.

use super::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use super::paged::{Counts, Paged, PagedShape};
use super::{Checks, paged};
use cudarc::driver::{CudaStream, DeviceRepr};
use std::ops::Range;

const CHECKS: Checks = Checks { kernel: "prefill_attention" };

/// The widths of heads that the kernel has a version for.
pub const WIDTHS: [usize; 4] = [32, 64, 96, 128];
/// Rows of a tile at most: what one block takes.
const MOST_ROWS: u32 = 64;
/// Positions whose keys and values a block has room for: those of two steps.
const POSITIONS: usize = 2 * 64;
/// What the driver takes as the second number of a grid.
const MOST_TILES: usize = 65535;
/// Threads of a block.
const THREADS: u32 = 128;
/// Blocks of the wide plan for each multiprocessor, from which on it is the faster one.
const WIDE_BLOCKS: usize = 3;
/// Of either plan, blocks that a multiprocessor must have room for at once, or it waits for its copies.
const AT_ONCE: usize = 2;
/// Shared memory that each block takes beside its own, on compute capability 8.0 and later.
const RESERVED_BYTES: usize = 1024;

/// How blocks share the work: see the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A block takes one head of a tile.
    Narrow,
    /// A block takes two heads of a tile.
    Wide,
}

impl Plan {
    /// Both, in the order in which `Kernels` holds their versions.
    pub const ALL: [Self; 2] = [Self::Narrow, Self::Wide];

    /// The faster one for `tiles` tiles: the wide one, if heads share keys, there is work for all of the device, and each of its
    /// multiprocessors has the shared memory for two blocks (an A100's has not, for heads of 128).
    pub fn of(shape: &PagedShape, tiles: usize, (multiprocessors, shared_bytes): (usize, usize)) -> Self {
        let enough = Self::Wide.blocks(shape) * tiles >= multiprocessors * WIDE_BLOCKS;
        let room = AT_ONCE * (Self::Wide.shared_bytes(shape.head_dim) as usize + RESERVED_BYTES) <= shared_bytes;
        if enough && room && shape.heads > shape.kv_heads { Self::Wide } else { Self::Narrow }
    }

    /// What it is called in the names of versions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Wide => "wide",
        }
    }

    /// Query heads of a block.
    fn heads(self) -> usize {
        match self {
            Self::Narrow => 1,
            Self::Wide => 2,
        }
    }

    /// Blocks of a tile.
    fn blocks(self, shape: &PagedShape) -> usize {
        shape.kv_heads * (shape.heads / shape.kv_heads).div_ceil(self.heads())
    }

    /// Bytes of shared memory that a block takes: queries, keys and values.
    fn shared_bytes(self, head_dim: usize) -> u32 {
        ((self.heads() * MOST_ROWS as usize + 2 * POSITIONS) * head_dim * 2) as u32
    }
}

/// The names of all versions, in the order in which `Kernels` holds them, and the shared memory that each takes.
pub(crate) fn versions() -> impl Iterator<Item = (String, u32)> {
    let of = |width: usize| Plan::ALL.map(|plan| (format!("{width}_{}", plan.name()), plan.shared_bytes(width)));
    WIDTHS.into_iter().flat_map(of)
}

/// Up to 64 rows of one sequence, at consecutive positions: what a block takes of one or two heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tile {
    /// The column of `tables` that names the sequence's blocks.
    pub member: u32,
    /// The first row, among those of `qkv`.
    pub first_row: u32,
    /// How many rows, 64 at most. A tile of none does nothing.
    pub rows: u32,
    /// The position of the first row in its sequence.
    pub position: u32,
}

// SAFETY: four `u32` without padding, which the kernel takes as such.
unsafe impl DeviceRepr for Tile {}

impl Tile {
    /// The tiles of `rows` rows of a sequence, of which the first is `first_row` at `position`. Those that see most come
    /// first, as blocks start in this order and the last to start should have little to do.
    pub fn cover(member: u32, first_row: u32, rows: u32, position: u32) -> impl Iterator<Item = Self> {
        (0..rows.div_ceil(MOST_ROWS)).rev().map(move |i| {
            let done = i * MOST_ROWS;
            Self { member, first_row: first_row + done, rows: MOST_ROWS.min(rows - done), position: position + done }
        })
    }

    /// The positions that any of its rows sees.
    fn seen(&self, shape: &PagedShape) -> Range<usize> {
        let position = self.position as usize;
        if self.rows == 0 { 0..0 } else { shape.seen(position).start..position + self.rows as usize }
    }
}

/// The arguments of one launch.
#[derive(Clone, Copy, Debug)]
pub struct PrefillAttention<T> {
    /// Queries, caches and shape, with a `head_dim` of 32, 64, 96 or 128. The caches hold the keys and values of all rows.
    pub paged: Paged<T>,
    /// What to do. Rows, members and positions must be inside `qkv` and `tables`, which only whoever wrote them can have
    /// checked. Rows in no tile are not written.
    pub tiles: DeviceSlice<Tile>,
    /// How blocks share the work. Results differ in their last digits.
    pub plan: Plan,
}

impl<T: Half> PrefillAttention<T> {
    /// Launches it on `stream`; no tiles are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape or not aligned to 16 bytes, the shape is not one that the kernel takes, or the driver
    /// refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let Counts { heads, kv_heads, block_size, table_stride, window, .. } = self.paged.check(CHECKS)?;
        let shape = &self.paged.shape;
        let head_dim = shape.head_dim;
        let Some(width) = WIDTHS.iter().position(|width| *width == head_dim) else {
            return Err(CHECKS.fault(format!("heads of {head_dim} numbers: it takes 32, 64, 96 and 128")));
        };
        if shape.scale.is_nan() || shape.scale <= 0.0 {
            return Err(CHECKS.fault(format!("a scale of {}: it takes those above 0", shape.scale)));
        }
        if self.tiles.len() > MOST_TILES {
            return Err(CHECKS.fault(format!("{} tiles: a grid has {MOST_TILES} at most", self.tiles.len())));
        }
        let blocks = CHECKS.count("blocks of a tile", self.plan.blocks(shape))?;
        CHECKS.aligned("tiles", self.tiles)?;
        let tiles = CHECKS.count("tiles", self.tiles.len())?;
        if tiles == 0 {
            return Ok(());
        }
        let arguments = [
            self.paged.qkv.into(),
            self.paged.k_cache.into(),
            self.paged.v_cache.into(),
            self.paged.tables.into(),
            self.tiles.into(),
            self.paged.out.into(),
            heads.into(),
            kv_heads.into(),
            block_size.into(),
            table_stride.into(),
            window.into(),
            shape.scale.into(),
        ];
        let function = T::of(&kernels.prefill_attention[width * Plan::ALL.len() + self.plan as usize]);
        let grid = (blocks, tiles, 1);
        // SAFETY: the parameters of `prefill_attention_*`, and its plan's blocks; what tiles and tables name is inside `qkv`,
        // `out` and the caches, as the fields demand.
        unsafe { launch(stream, (CHECKS.kernel, function), grid, THREADS, &arguments) }
    }

    /// What one launch of `tiles` must move, if no two members share a block.
    pub fn traffic(&self, tiles: &[Tile]) -> Traffic {
        let shape = &self.paged.shape;
        let rows: u64 = tiles.iter().map(|tile| u64::from(tile.rows)).sum();
        let rows_bytes = rows * (shape.heads * shape.head_dim * 2) as u64;
        let seen = |tile: &Tile| (tile.member, tile.seen(shape));
        let blocks = |(member, seen): (u32, Range<usize>)| {
            let first = seen.start / shape.block_size;
            (member, first..first + shape.blocks(&seen))
        };
        let positions = covered(tiles.iter().map(seen).collect());
        let table_bytes = 4 * covered(tiles.iter().map(seen).map(blocks).collect()) as u64;
        let read_bytes = 16 * tiles.len() as u64 + rows_bytes + table_bytes + shape.kv_bytes(positions);
        Traffic { read_bytes, written_bytes: rows_bytes }
    }
}

/// How many numbers the ranges of each member have together.
fn covered(mut ranges: Vec<(u32, Range<usize>)>) -> usize {
    ranges.sort_by_key(|(member, range)| (*member, range.start));
    let mut count = 0;
    let mut reached = (0, 0);
    for (member, range) in ranges {
        let from = if reached.0 == member { range.start.max(reached.1) } else { range.start };
        count += range.end.saturating_sub(from);
        reached = (member, range.end.max(from));
    }
    count
}

/// What a row at `position` of its sequence becomes: see [`paged::oracle`].
pub fn oracle<T: Half>(
    shape: &PagedShape,
    queries: &[T],
    caches: (&[T], &[T]),
    table: &[i32],
    position: usize,
) -> Vec<f64> {
    paged::oracle(shape, queries, caches, table, shape.seen(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_each_row_once() {
        assert_eq!(Tile::cover(1, 5, 0, 9).count(), 0);
        let mut tiles: Vec<Tile> = Tile::cover(3, 5, 130, 9).collect();
        assert!(tiles.is_sorted_by_key(|tile| std::cmp::Reverse(tile.position)), "{tiles:?}");
        tiles.reverse();
        let rows: Vec<u32> = tiles.iter().flat_map(|t| t.first_row..t.first_row + t.rows).collect();
        let positions: Vec<u32> = tiles.iter().flat_map(|t| t.position..t.position + t.rows).collect();
        assert_eq!(rows, (5..135).collect::<Vec<_>>());
        assert_eq!(positions, (9..139).collect::<Vec<_>>());
        assert!(tiles.iter().all(|tile| tile.member == 3 && tile.rows <= 64));
    }

    #[test]
    fn the_wide_plan_takes_groups_of_heads_and_work_for_the_device() {
        const H100: usize = 228 << 10;
        const A100: usize = 164 << 10;
        let plan_of = |heads, kv_heads, head_dim, rows, chip| {
            let shape = PagedShape { heads, kv_heads, head_dim, block_size: 16, window: 0, scale: 1.0 };
            Plan::of(&shape, Tile::cover(0, 0, rows, 0).count(), chip)
        };
        let plan = |heads, kv_heads, rows, chip| plan_of(heads, kv_heads, 128, rows, (chip, H100));
        // 16 blocks of two heads for each of 32 and 8 tiles.
        assert_eq!(plan(32, 8, 2048, 132), Plan::Wide);
        assert_eq!(plan(32, 8, 512, 132), Plan::Narrow);
        assert_eq!([42, 43].map(|multiprocessors| plan(32, 8, 512, multiprocessors)), [Plan::Wide, Plan::Narrow]);
        // Of seven heads, the last block has one.
        assert_eq!([128, 129].map(|multiprocessors| plan(28, 4, 1536, multiprocessors)), [Plan::Wide, Plan::Narrow]);
        assert_eq!(plan(32, 32, 4096, 1), Plan::Narrow);
        // 96 KiB a block; 48 of heads of 64.
        assert_eq!([64, 128].map(|head_dim| plan_of(32, 8, head_dim, 2048, (108, A100))), [Plan::Wide, Plan::Narrow]);
    }

    #[test]
    fn what_ranges_share_is_counted_once() {
        assert_eq!(covered(vec![]), 0);
        assert_eq!(covered(vec![(0, 3..7), (1, 0..2), (0, 5..9), (1, 1..2), (0, 20..21), (0, 0..0)]), 6 + 2 + 1);
        assert_eq!(covered(vec![(0, 0..9), (0, 2..4), (0, 8..10)]), 10);
    }
}
