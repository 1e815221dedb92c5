//! `y[row][column] = bias[column] + sum over k of x[row][k] * w[column][k]`, where no row's result depends on another row.
//!
//! Each (row, column) keeps 16 partial sums: lane `l` takes `k ≡ l (mod 16)` in ascending order by fused multiply-add, both
//! rows continued by zeros to a multiple of 16; one fixed tree adds the lanes. So the bits are the same whichever tile,
//! thread or instructions calculate them.

use super::simd::{Isa, Kernel, Lanes};
use super::stored::Stored;
use super::threads::share;
use std::ops::Range;

/// Columns of one task: few enough to stay in the second-level cache, many enough to be worth a thread's turn.
const TASK_COLUMNS: usize = 32;
/// Rows of one task.
const TASK_ROWS: usize = 128;
/// How far ahead of their use weights are asked for, at least. Measured: 2 KiB give 22 of the 24 GB/s that a thread can
/// read, no prefetch 16.
const AHEAD_BYTES: usize = 2048;

/// The operands: `x` is `[rows, depth]`, `w` is `[columns, depth]`, `bias` is `[columns]`; all row-major.
pub struct Operands<'a, T> {
    /// What is multiplied.
    pub x: &'a [f32],
    /// By what.
    pub w: &'a [T],
    /// Added at the end.
    pub bias: Option<&'a [f32]>,
    /// Length of the sums.
    pub depth: usize,
}

/// Fills `y`, `[rows, columns]`.
///
/// # Panics
/// If the lengths of `x`, `w`, `bias` and `y` are not those of whole rows that fit together.
pub fn matmul<T: Stored>(isa: Isa, operands: &Operands<T>, y: &mut [f32]) {
    let Operands { x, w, bias, depth } = *operands;
    let (rows, columns) = (x.len() / depth, w.len() / depth);
    assert!(x.len() == rows * depth && w.len() == columns * depth && y.len() == rows * columns);
    assert!(bias.is_none_or(|bias| bias.len() == columns));
    let row_chunks = rows.div_ceil(TASK_ROWS);
    let y = Out(y.as_mut_ptr());
    share(row_chunks * columns.div_ceil(TASK_COLUMNS), |task| {
        let (chunk, block) = (task % row_chunks, task / row_chunks);
        let (row, column) = (chunk * TASK_ROWS, block * TASK_COLUMNS);
        let here = Task {
            x: &x[row * depth..(row + TASK_ROWS).min(rows) * depth],
            w: &w[column * depth..(column + TASK_COLUMNS).min(columns) * depth],
            bias: bias.map(|bias| &bias[column..]),
            depth,
            // SAFETY: (row, column) lies in y, `[rows, columns]`.
            y: unsafe { y.at(row * columns + column) },
            stride: columns,
        };
        isa.run(here);
    });
}

/// A place in the output. Tasks write disjoint elements of it.
#[derive(Clone, Copy)]
struct Out(*mut f32);

// SAFETY: two tasks never write the same element, and nobody reads before all are done.
unsafe impl Sync for Out {}
// SAFETY: as above; a place is no more than a number.
unsafe impl Send for Out {}

impl Out {
    /// The place `by` elements on.
    ///
    /// # Safety
    /// It must still be inside the output.
    unsafe fn at(self, by: usize) -> Out {
        // SAFETY: the caller's promise.
        Out(unsafe { self.0.add(by) })
    }
}

/// A block of whole columns times a chunk of whole rows.
#[derive(Clone, Copy)]
struct Task<'a, T> {
    x: &'a [f32],
    w: &'a [T],
    bias: Option<&'a [f32]>,
    depth: usize,
    y: Out,
    stride: usize,
}

impl<T: Stored> Kernel for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Task { bias, y, stride, .. } = self;
        let depth = self.depth.next_multiple_of(16);
        if depth != self.depth {
            let (x, w) = (wide(lanes, self.x, self.depth), wide(lanes, self.w, self.depth));
            Task { x: &x, w: &w, bias, depth, y, stride }.tiles(lanes);
        } else {
            self.tiles(lanes);
        }
    }
}

/// Rows of `depth` numbers, widened, each continued by zeros to a multiple of 16.
#[inline(always)]
fn wide<L: Lanes, T: Stored>(lanes: L, rows: &[T], depth: usize) -> Vec<f32> {
    let padded_depth = depth.next_multiple_of(16);
    let mut all = vec![0f32; rows.len() / depth * padded_depth];
    for (from, to) in rows.chunks_exact(depth).zip(all.chunks_exact_mut(padded_depth)) {
        let (from, rest) = from.as_chunks::<16>();
        let to = to.as_chunks_mut::<16>().0;
        for (from, to) in from.iter().zip(&mut *to) {
            lanes.store(T::load(lanes, from), to);
        }
        for (i, from) in rest.iter().enumerate() {
            to[depth / 16][i] = from.widen();
        }
    }
    all
}

impl<T: Stored> Task<'_, T> {
    #[inline(always)]
    fn tiles<L: Lanes>(self, lanes: L) {
        let rows = self.x.len() / self.depth;
        let mut row = 0;
        while row < rows {
            row += match (rows - row, rows) {
                // Few rows are as fast as memory gives the weights, and one stream of them comes faster than several.
                (_, 1) => self.band::<L, 1, 1>(lanes, row),
                (_, 2) => self.band::<L, 2, 1>(lanes, row),
                (_, 3) => self.band::<L, 3, 1>(lanes, row),
                // All rows at once, so that the whole calculation hides the weights' way from memory.
                (8, 8) if L::WIDE => self.band::<L, 8, 2>(lanes, row),
                (7, 7) if L::WIDE => self.band::<L, 7, 2>(lanes, row),
                (6, 6) if L::WIDE => self.band::<L, 6, 2>(lanes, row),
                (5, 5) if L::WIDE => self.band::<L, 5, 2>(lanes, row),
                (4.., _) if L::WIDE => self.band::<L, 4, 4>(lanes, row),
                (_, 4) => self.band::<L, 4, 1>(lanes, row),
                // The most sums that 16 registers hold beside the weights.
                (3.., _) => self.band::<L, 3, 2>(lanes, row),
                (2, _) => self.band::<L, 2, 2>(lanes, row),
                _ => self.band::<L, 1, 4>(lanes, row),
            };
        }
    }

    /// Rows `row..row + M`, all columns. Gives `M`.
    #[inline(always)]
    fn band<L: Lanes, const M: usize, const N: usize>(self, lanes: L, row: usize) -> usize {
        let columns = self.w.len() / self.depth;
        let whole = columns / N * N;
        lanes.call(Band::<T, M, N> { task: self, row, columns: 0..whole });
        if whole < columns {
            lanes.call(Band::<T, M, 1> { task: self, row, columns: whole..columns });
        }
        M
    }
}

/// `M` rows times whole tiles of `N` columns.
struct Band<'a, T, const M: usize, const N: usize> {
    /// Its `depth` is a multiple of 16.
    task: Task<'a, T>,
    /// The first of the rows.
    row: usize,
    /// So many that `N` divides their number.
    columns: Range<usize>,
}

impl<T: Stored, const M: usize, const N: usize> Kernel for Band<'_, T, M, N> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Task { depth, bias, y, stride, .. } = self.task;
        let x = &self.task.x[self.row * depth..(self.row + M) * depth];
        // The same place of the next tile's columns, or farther: the processor's own prefetch ends with every page.
        let ahead = (N * depth).max(AHEAD_BYTES / size_of::<T>());
        for column in self.columns.step_by(N) {
            let sums = tile::<L, T, M, N>(lanes, x, &self.task.w[column * depth..(column + N) * depth], depth, ahead);
            for m in 0..M {
                for n in 0..N {
                    let bias = if let Some(bias) = bias { bias[column + n] } else { 0.0 };
                    // SAFETY: an element of the task's rows and columns, since the slices above hold these.
                    unsafe { *y.0.add((self.row + m) * stride + column + n) = sums[m * N + n] + bias };
                }
            }
        }
    }
}

/// The sums of `M` rows of `x` and `N` columns of `w`, rows first.
#[inline(always)]
fn tile<L: Lanes, T: Stored, const M: usize, const N: usize>(
    lanes: L,
    x: &[f32],
    w: &[T],
    depth: usize,
    ahead: usize,
) -> [f32; 16] {
    let mut sums = [[lanes.splat(0.0); N]; M];
    for at in (0..depth).step_by(16) {
        let mut columns = [lanes.splat(0.0); N];
        for (n, column) in columns.iter_mut().enumerate() {
            let here = w.as_ptr().wrapping_add(n * depth + at);
            lanes.prefetch(here.wrapping_add(ahead));
            // SAFETY: `w` holds N columns of `depth` numbers, and 16 divides `depth`.
            *column = T::load(lanes, unsafe { &*here.cast() });
        }
        for (m, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `x` holds M rows of `depth` numbers, and 16 divides `depth`.
            let x = lanes.load(unsafe { &*x.as_ptr().add(m * depth + at).cast() });
            for n in 0..N {
                sums[n] = lanes.fma(x, columns[n], sums[n]);
            }
        }
    }
    let mut all = [0f32; 16];
    if M * N == 16 {
        let mut flat = [lanes.splat(0.0); 16];
        for m in 0..M {
            for n in 0..N {
                flat[m * N + n] = sums[m][n];
            }
        }
        lanes.store(lanes.sums(&flat), &mut all);
    } else {
        for m in 0..M {
            for n in 0..N {
                all[m * N + n] = lanes.sum(sums[m][n]);
            }
        }
    }
    all
}
