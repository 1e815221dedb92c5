//! What the attention kernels share: the shape of a layer's heads and cache, its checks, and the oracle of one row.

use super::Checks;
use super::launch::{DeviceSlice, Half, LaunchFault};
use std::ops::Range;

/// The heads of a layer and the cache that holds their keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PagedShape {
    /// Query heads.
    pub heads: usize,
    /// Key heads, and as many value heads: query head `h` goes with number `h / (heads / kv_heads)` of them.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
    /// Positions in a block of the cache: a power of two.
    pub block_size: usize,
    /// How many positions a row sees, its own the last; 0: all.
    pub window: usize,
    /// What a product of query and key is multiplied with.
    pub scale: f32,
}

impl PagedShape {
    /// Numbers in a row of `qkv`: queries, keys, values.
    pub fn row_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// The positions that a row at `position` sees.
    pub fn seen(&self, position: usize) -> Range<usize> {
        let first = if self.window == 0 { 0 } else { (position + 1).saturating_sub(self.window) };
        first..position + 1
    }

    /// How many blocks of a sequence hold `positions`.
    pub(super) fn blocks(&self, positions: &Range<usize>) -> usize {
        if positions.is_empty() {
            return 0;
        }
        (positions.end - 1) / self.block_size + 1 - positions.start / self.block_size
    }

    /// Bytes of keys and values of `positions`, of all heads.
    pub(super) fn kv_bytes(&self, positions: usize) -> u64 {
        2 * (positions * self.kv_heads * self.head_dim * 2) as u64
    }
}

/// A row's queries, and the caches: of both kernels the same arguments.
#[derive(Clone, Copy, Debug)]
pub struct Paged<T> {
    /// `[rows, (heads + 2 kv_heads) * head_dim]`, of which the queries are read.
    pub qkv: DeviceSlice<T>,
    /// `[blocks, kv_heads, block_size, head_dim]`.
    pub k_cache: DeviceSlice<T>,
    /// As `k_cache`.
    pub v_cache: DeviceSlice<T>,
    /// `[table_blocks, table_stride]`: a column for each sequence, its blocks in the order of its positions. Those of positions
    /// that are seen must be below `blocks`, which only whoever wrote them can have checked.
    pub tables: DeviceSlice<i32>,
    /// Sequences that `tables` has columns for: what lies between two blocks of one.
    pub table_stride: usize,
    /// `[rows, heads * head_dim]`, written.
    pub out: DeviceSlice<T>,
    /// Heads and cache.
    pub shape: PagedShape,
}

/// A shape's numbers as kernels take them.
pub(super) struct Counts {
    pub rows: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub block_size: u32,
    pub table_stride: u32,
    pub most_positions: u32,
    pub window: u32,
}

impl<T: Half> Paged<T> {
    /// That the slices fit the shape, and the shape the kernels.
    pub(super) fn check(&self, checks: Checks) -> Result<Counts, LaunchFault> {
        let PagedShape { heads, kv_heads, head_dim, block_size, window, .. } = self.shape;
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
            return Err(checks.fault(format!("{heads} heads do not share {kv_heads} heads of keys")));
        }
        if !block_size.is_power_of_two() {
            return Err(checks.fault(format!("blocks of {block_size} positions: it takes powers of two")));
        }
        if head_dim == 0 || head_dim % 8 != 0 {
            return Err(checks.fault(format!("heads of {head_dim} numbers: it takes multiples of 8")));
        }
        let counts = Counts {
            rows: checks.count("rows", self.qkv.len() / self.shape.row_width())?,
            heads: checks.count("heads", heads)?,
            kv_heads: checks.count("kv heads", kv_heads)?,
            head_dim: checks.count("numbers a head", head_dim)?,
            block_size: checks.count("positions a block", block_size)?,
            table_stride: checks.count("sequences in tables", self.table_stride)?,
            most_positions: checks.count("positions of a sequence", self.table_blocks().saturating_mul(block_size))?,
            window: checks.count("positions in a window", window)?,
        };
        let rows = counts.rows as usize;
        checks.matrix("qkv", self.qkv, &[rows, self.shape.row_width()])?;
        checks.matrix("out", self.out, &[rows, heads * head_dim])?;
        let blocks = self.k_cache.len() / (kv_heads * block_size * head_dim);
        for (name, cache) in [("k_cache", self.k_cache), ("v_cache", self.v_cache)] {
            checks.matrix(name, cache, &[blocks, kv_heads, block_size, head_dim])?;
        }
        // A row's number is 31 bits on the device, a position 32.
        checks.count("rows of a cache", blocks * kv_heads * block_size)?;
        checks.shape("tables", self.tables, &[self.table_blocks(), self.table_stride])?;
        checks.count("blocks in tables", self.tables.len())?;
        Ok(counts)
    }

    /// Blocks that a column of `tables` has room for.
    fn table_blocks(&self) -> usize {
        self.tables.len().checked_div(self.table_stride).unwrap_or(0)
    }
}

/// What all heads of a row become: `queries` `[heads * head_dim]` attend to the `positions` of the sequence whose blocks
/// `table` names, in caches as [`Paged`] has them. No positions make zeros.
pub fn oracle<T: Half>(
    shape: &PagedShape,
    queries: &[T],
    (k_cache, v_cache): (&[T], &[T]),
    table: &[i32],
    positions: Range<usize>,
) -> Vec<f64> {
    let PagedShape { heads, kv_heads, head_dim, block_size, .. } = *shape;
    let wide = |number: &T| f64::from(number.to_f32());
    let mut out = Vec::with_capacity(heads * head_dim);
    for (head, query) in queries.chunks_exact(head_dim).enumerate() {
        let kv_head = head / (heads / kv_heads);
        let at = |position: usize| {
            let row = table[position / block_size] as usize * kv_heads + kv_head;
            (row * block_size + position % block_size) * head_dim
        };
        let dot = |key: &[T]| query.iter().zip(key).map(|(q, k)| wide(q) * wide(k)).sum::<f64>();
        let scores: Vec<f64> =
            positions.clone().map(|p| f64::from(shape.scale) * dot(&k_cache[at(p)..][..head_dim])).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut mix) = (0.0, vec![0.0; head_dim]);
        for (position, score) in positions.clone().zip(scores) {
            let weight = (score - largest).exp();
            sum += weight;
            mix.iter_mut().zip(&v_cache[at(position)..]).for_each(|(mix, value)| *mix += weight * wide(value));
        }
        out.extend(mix.into_iter().map(|mix| if sum > 0.0 { mix / sum } else { 0.0 }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    const SHAPE: PagedShape =
        PagedShape { heads: 2, kv_heads: 1, head_dim: 1, block_size: 2, window: 0, scale: std::f32::consts::LN_2 };

    fn halves(numbers: &[f32]) -> Vec<f16> {
        numbers.iter().map(|n| f16::from_f32(*n)).collect()
    }

    #[test]
    fn a_row_takes_the_mean_that_its_softmax_weighs() {
        // Positions 0, 1, 2 lie in blocks 1 and 0. Weights are 2^(query * key): 1, 2, 4, and for the second head 1, 1, 1.
        let (keys, values) = (halves(&[2.0, f32::NAN, 0.0, 1.0]), halves(&[10.0, f32::NAN, 3.0, 6.0]));
        let mixed = oracle(&SHAPE, &halves(&[1.0, 0.0]), (&keys, &values), &[1, 0], 0..3);
        let want = [(3.0 + 12.0 + 40.0) / 7.0, (3.0 + 6.0 + 10.0) / 3.0];
        assert!(mixed.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{mixed:?}");
        let last = oracle(&SHAPE, &halves(&[1.0, 0.0]), (&keys, &values), &[1, 0], 2..3);
        assert_eq!(last, [10.0, 10.0]);
        assert_eq!(oracle(&SHAPE, &halves(&[1.0, 0.0]), (&keys, &values), &[], 0..0), [0.0, 0.0]);
    }

    #[test]
    fn a_window_ends_with_the_rows_own_position() {
        assert_eq!(SHAPE.seen(5), 0..6);
        let windowed = PagedShape { window: 3, ..SHAPE };
        assert_eq!([0, 2, 3, 9].map(|p| windowed.seen(p)), [0..1, 0..3, 1..4, 7..10]);
    }

    #[test]
    fn blocks_are_those_that_positions_touch() {
        assert_eq!([0..0, 0..1, 0..2, 1..3, 3..4, 1..6].map(|p| SHAPE.blocks(&p)), [0, 1, 1, 2, 1, 3]);
    }
}
