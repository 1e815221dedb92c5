//! Sequences in a paged cache, for the attention kernels' tests: shuffled blocks, and NaN wherever nothing may be read.

use super::noise;
use crate::{Array, Device};
use half::{bf16, f16};
use stageline_base::prng::Prng;
use stageline_cuda::kernels::{Paged, PagedShape};
use stageline_cuda::launch::Half;
use std::ops::Range;

/// A number of a cache that no kernel may read.
pub const NOTHING: f32 = f32::NAN;
/// A block that is in no cache, where a table has no block.
const NO_BLOCK: i32 = i32::MAX;

/// Sequences of which each has some positions in the caches, and the rest of the caches is NaN.
pub struct Cache<T> {
    pub keys: Vec<T>,
    pub values: Vec<T>,
    /// `[blocks, table_stride]`: a column for each sequence.
    pub tables: Vec<i32>,
    pub table_stride: usize,
}

impl<T: Half> Cache<T> {
    /// For each sequence, which of its positions the caches hold. Each sequence's table has room for one block more, and there is
    /// a table more than sequences.
    pub fn new(shape: PagedShape, sequences: &[Range<usize>], seed: u64) -> Self {
        let PagedShape { kv_heads, head_dim, block_size, .. } = shape;
        let blocks_of = |held: &Range<usize>| held.end.div_ceil(block_size);
        let (room, table_stride) = (1 + sequences.iter().map(blocks_of).max().unwrap_or(0), 1 + sequences.len());
        let blocks = 1 + sequences.iter().map(blocks_of).sum::<usize>();
        let mut free: Vec<i32> = (0..blocks as i32).collect();
        let mut prng = Prng::new(seed);
        for i in (1..blocks).rev() {
            free.swap(i, prng.below(i as u64 + 1) as usize);
        }
        let mut tables = vec![NO_BLOCK; room * table_stride];
        let numbers = blocks * kv_heads * block_size * head_dim;
        let (mut keys, mut values) = (vec![T::from_f32(NOTHING); numbers], vec![T::from_f32(NOTHING); numbers]);
        let (some_keys, some_values) = (noise::<T>(numbers, seed + 1), noise::<T>(numbers, seed + 2));
        for (sequence, held) in sequences.iter().enumerate() {
            let mut table = vec![NO_BLOCK; room];
            for (i, block) in table.iter_mut().take(blocks_of(held)).enumerate() {
                if held.start < (i + 1) * block_size {
                    *block = free.pop().expect("as many blocks as are needed");
                }
            }
            for position in held.clone() {
                for kv_head in 0..kv_heads {
                    let row = table[position / block_size] as usize * kv_heads + kv_head;
                    let at = (row * block_size + position % block_size) * head_dim;
                    keys[at..][..head_dim].copy_from_slice(&some_keys[at..][..head_dim]);
                    values[at..][..head_dim].copy_from_slice(&some_values[at..][..head_dim]);
                }
            }
            tables[sequence..].iter_mut().step_by(table_stride).zip(table).for_each(|(to, block)| *to = block);
        }
        Self { keys, values, tables, table_stride }
    }

    /// The caches on `device`, and `qkv`, whose queries see them.
    pub fn placed(&self, device: &Device, shape: PagedShape, qkv: &[T]) -> Placed<T> {
        Placed {
            qkv: device.array(qkv),
            keys: device.array(&self.keys),
            values: device.array(&self.values),
            tables: device.array(&self.tables),
            table_stride: self.table_stride,
            shape,
        }
    }

    /// The blocks of a sequence.
    pub fn table(&self, sequence: usize) -> Vec<i32> {
        self.tables[sequence..].iter().step_by(self.table_stride).copied().collect()
    }
}

/// A [`Cache`] on a device, with rows that see it.
pub struct Placed<T> {
    qkv: Array<T>,
    keys: Array<T>,
    values: Array<T>,
    tables: Array<i32>,
    table_stride: usize,
    shape: PagedShape,
}

impl<T: Half> Placed<T> {
    /// The arguments that all attention kernels share, for results in `out`.
    pub fn paged(&self, out: &Array<T>) -> Paged<T> {
        Paged {
            qkv: self.qkv.slice(),
            k_cache: self.keys.slice(),
            v_cache: self.values.slice(),
            tables: self.tables.slice(),
            table_stride: self.table_stride,
            out: out.slice(),
            shape: self.shape,
        }
    }
}

/// Rows of `qkv` whose keys and values are NaN, since attention reads those of the cache, and whose queries make some
/// weights much larger than others.
pub fn rows<T: Half>(shape: &PagedShape, rows: usize, seed: u64) -> Vec<T> {
    let mut qkv = noise::<T>(rows * shape.row_width(), seed);
    for row in qkv.chunks_exact_mut(shape.row_width()) {
        let (queries, rest) = row.split_at_mut(shape.heads * shape.head_dim);
        queries.iter_mut().for_each(|q| *q = T::from_f32(q.to_f32() * 8.0));
        rest.fill(T::from_f32(NOTHING));
    }
    qkv
}

/// `1 / √head_dim`, as models have it.
pub fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

#[test]
fn a_cache_holds_what_its_sequences_have_and_nothing_else() {
    let shape = PagedShape { heads: 1, kv_heads: 2, head_dim: 8, block_size: 4, window: 0, scale: 1.0 };
    let cache = Cache::<f16>::new(shape, &[0..5, 0..0, 9..14], 1);
    let held = cache.keys.chunks_exact(8).filter(|row| row.iter().all(|n| !n.to_f32().is_nan())).count();
    assert_eq!(held, (5 + 5) * 2);
    assert_eq!((cache.table_stride, cache.tables.len()), (4, 5 * 4));
    let blocks = |sequence: usize| cache.table(sequence).iter().map(|block| *block != NO_BLOCK).collect::<Vec<bool>>();
    assert_eq!(blocks(0), [true, true, false, false, false]);
    assert_eq!([1, 3].map(blocks), [[false; 5], [false; 5]]);
    assert_eq!(blocks(2), [false, false, true, true, false]);
    assert!(rows::<bf16>(&shape, 3, 1)[8..40].iter().all(|n| n.to_f32().is_nan()));
}
