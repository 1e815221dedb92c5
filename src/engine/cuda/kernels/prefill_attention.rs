//! `kernels/prefill_attention.cu`: rows of prompts attend to themselves and to what is before them.

use super::paged::{Counts, Paged, PagedShape};
use super::{Checks, paged};
use crate::engine::cuda::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::{CudaStream, DeviceRepr};
use std::ops::Range;

const CHECKS: Checks = Checks { kernel: "prefill_attention" };
const THREADS: u32 = 128;

/// The widths of heads that the kernel has a version for.
const WIDTHS: [usize; 4] = [32, 64, 96, 128];
/// Rows of a tile at most: what one block takes.
const MOST_ROWS: u32 = 64;
/// What the driver takes as the second number of a grid.
const MOST_HEADS: usize = 65535;

/// The names of all versions, in the order in which `Kernels` holds them.
pub(in crate::engine::cuda) fn versions() -> impl Iterator<Item = String> {
    WIDTHS.into_iter().map(|width| width.to_string())
}

/// Up to 64 rows of one sequence, at consecutive positions: the work of one block for each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tile {
    /// The row of `tables` that names the sequence's blocks.
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
    /// The tiles of `rows` rows of a sequence, of which the first is `first_row` at `position`.
    pub fn cover(member: u32, first_row: u32, rows: u32, position: u32) -> impl Iterator<Item = Self> {
        (0..rows.div_ceil(MOST_ROWS)).map(move |i| {
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
}

impl<T: Half> PrefillAttention<T> {
    /// Launches it on `stream`; no tiles are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape or not aligned to 16 bytes, the shape is not one that the kernel takes, or the driver
    /// refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let Counts { heads, kv_heads, block_size, table_stride, window, .. } = self.paged.check(CHECKS)?;
        let head_dim = self.paged.shape.head_dim;
        let Some(version) = WIDTHS.iter().position(|width| *width == head_dim) else {
            return Err(CHECKS.fault(format!("heads of {head_dim} numbers: it takes 32, 64, 96 and 128")));
        };
        if self.paged.shape.heads > MOST_HEADS {
            return Err(CHECKS.fault(format!("{heads} heads: a grid has {MOST_HEADS} at most")));
        }
        let members = self.paged.tables.len() / self.paged.table_stride.max(1);
        CHECKS.shape("tables", self.paged.tables, &[members, self.paged.table_stride])?;
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
            self.paged.shape.scale.into(),
        ];
        let function = T::of(&kernels.prefill_attention[version]);
        // SAFETY: the parameters of `prefill_attention_*`; a block a tile and query head; what tiles and tables name is
        // inside `qkv`, `out` and the caches, as the fields demand.
        unsafe { launch(stream, (CHECKS.kernel, function), (tiles, heads, 1), THREADS, &arguments) }
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
        let tiles: Vec<Tile> = Tile::cover(3, 5, 130, 9).collect();
        let rows: Vec<u32> = tiles.iter().flat_map(|t| t.first_row..t.first_row + t.rows).collect();
        let positions: Vec<u32> = tiles.iter().flat_map(|t| t.position..t.position + t.rows).collect();
        assert_eq!(rows, (5..135).collect::<Vec<_>>());
        assert_eq!(positions, (9..139).collect::<Vec<_>>());
        assert!(tiles.iter().all(|tile| tile.member == 3 && tile.rows <= 64));
    }

    #[test]
    fn what_ranges_share_is_counted_once() {
        assert_eq!(covered(vec![]), 0);
        assert_eq!(covered(vec![(0, 3..7), (1, 0..2), (0, 5..9), (1, 1..2), (0, 20..21), (0, 0..0)]), 6 + 2 + 1);
        assert_eq!(covered(vec![(0, 0..9), (0, 2..4), (0, 8..10)]), 10);
    }
}
