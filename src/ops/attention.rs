//! Attention: each row takes the mean of values, weighted by the softmax of `scale * query · key`.
//!
//! A row's order of calculation depends on how many keys it sees and on nothing else. Scores: as in `matmul`, one fixed
//! tree each. Sum of weights: 16 partial sums, key `j` in number `j mod 16`, one tree. Each number of the result: one sum
//! over the keys in order.

use super::elementary::exp;
use super::simd::{Isa, Kernel, Lanes, padded};
use super::threads::share_rows;
use super::view::{Matrix, numbers};
use super::{Ops, Path};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Storage, Tensor, bail};
use std::ops::Range;

/// Multiplications worth a thread: some microseconds of them.
const LEAST_PRODUCTS: usize = 1 << 15;

/// Heads, and how wide they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values: head `h` of the queries goes with number `h / (heads / kv_heads)` of these.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// How many positions a row sees, its own the last (of a causal span); `None`: all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// `1 / √head_dim`.
    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Of the first `seen` positions, those that the row of the last one sees.
    fn within(&self, seen: usize) -> Range<usize> {
        self.window.map_or(0, |window| seen.saturating_sub(window))..seen
    }
}

/// Consecutive rows of one sequence, and where the keys lie that they see.
#[derive(Clone, Debug)]
pub struct Span {
    /// The rows, among the batch's.
    pub rows: Range<usize>,
    /// The rows of the key and value tables, in the order of positions (`u32`).
    pub slots: Tensor,
    /// Whether a row sees its own position and those before it (the last row then sees all slots), or every row all.
    pub causal: bool,
}

impl Ops {
    /// The attention of queries `[rows, heads * head_dim]` to tables of keys and values, `[slots, kv_heads * head_dim]`
    /// (each any columns of a tensor): `[rows, heads * head_dim]`. The spans cover the rows in order.
    ///
    /// # Errors
    /// If the shapes do not fit, a slot is not in the tables, or the device fails.
    pub fn attention(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        shape: AttentionShape,
        spans: &[Span],
    ) -> Result<Tensor> {
        match self.0 {
            Path::Rows(isa) => queries.apply_op3_no_bwd(keys, values, &RowAttention { isa, shape, spans }),
            Path::Candle => {
                let parts: Result<Vec<_>> = spans
                    .iter()
                    .map(|span| {
                        let queries = queries.narrow(0, span.rows.start, span.rows.len())?;
                        let gather = |table: &Tensor| table.contiguous()?.index_select(&span.slots, 0);
                        plain(&queries, &gather(keys)?, &gather(values)?, shape, span.causal)
                    })
                    .collect();
                Tensor::cat(&parts?, 0)
            }
        }
    }
}

/// One span's attention by candle's ops.
fn plain(queries: &Tensor, keys: &Tensor, values: &Tensor, shape: AttentionShape, causal: bool) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_dim, window } = shape;
    let (rows, seen, group) = (queries.dim(0)?, keys.dim(0)?, heads / kv_heads);
    let queries = queries.reshape((rows, kv_heads, group, head_dim))?.permute((1, 2, 0, 3))?;
    let queries = queries.reshape((kv_heads, group * rows, head_dim))?.contiguous()?;
    let keys = keys.reshape((seen, kv_heads, head_dim))?.permute((1, 2, 0))?.contiguous()?;
    let values = values.reshape((seen, kv_heads, head_dim))?.transpose(0, 1)?.contiguous()?;
    let mut scores = (queries.matmul(&keys)? * f64::from(shape.scale()))?;
    if causal && (rows > 1 || window.is_some()) {
        let added = |row: usize, key: usize| {
            if shape.within(seen - rows + row + 1).contains(&key) { 0.0 } else { f32::NEG_INFINITY }
        };
        let mask: Vec<f32> = (0..rows).flat_map(|row| (0..seen).map(move |key| added(row, key))).collect();
        let mask = Tensor::from_vec(mask, (1, 1, rows, seen), scores.device())?;
        let by_row = scores.reshape((kv_heads, group, rows, seen))?.broadcast_add(&mask)?;
        scores = by_row.reshape((kv_heads, group * rows, seen))?;
    }
    debug_assert_eq!(scores.dim(D::Minus1)?, seen);
    let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&values)?;
    mixed.reshape((kv_heads, group, rows, head_dim))?.permute((2, 0, 1, 3))?.reshape((rows, heads * head_dim))
}

struct RowAttention<'a> {
    isa: Isa,
    shape: AttentionShape,
    spans: &'a [Span],
}

impl CustomOp3 for RowAttention<'_> {
    fn name(&self) -> &'static str {
        "row-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (queries, keys, values) = (Matrix::new(q, ql)?, Matrix::new(k, kl)?, Matrix::new(v, vl)?);
        let AttentionShape { heads, kv_heads, head_dim, window } = self.shape;
        if window == Some(0) {
            bail!("a row sees itself at least")
        }
        if kv_heads == 0 || heads % kv_heads != 0 || head_dim == 0 {
            bail!("{heads} heads do not share {kv_heads} heads of keys")
        }
        let widths = (queries.width, keys.width, values.width);
        if widths != (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim) || keys.rows != values.rows {
            bail!("queries, keys and values of {widths:?} numbers do not fit {:?}", self.shape)
        }
        let locked: Vec<_> = self.spans.iter().map(|span| span.slots.storage_and_layout()).collect();
        let mut views = Vec::with_capacity(self.spans.len());
        let mut next_row = 0;
        for (span, (storage, layout)) in self.spans.iter().zip(&locked) {
            let Storage::Cpu(storage) = &**storage else { bail!("slots must be in the CPU's memory") };
            let slots = numbers::<u32>(storage, layout)?;
            let unseen = if span.causal { span.rows.len() - 1 } else { 0 };
            let whole = span.rows.start == next_row && span.rows.end <= queries.rows && !span.rows.is_empty();
            if !whole || slots.len() <= unseen || slots.iter().any(|slot| *slot as usize >= keys.rows) {
                bail!("{} slots of {} do not fit rows {:?}", slots.len(), keys.rows, span.rows)
            }
            next_row = span.rows.end;
            views.push(SpanView { rows: span.rows.clone(), slots, causal: span.causal });
        }
        if next_row != queries.rows {
            bail!("the spans cover {next_row} rows of {}", queries.rows)
        }
        let mut out = vec![0f32; queries.rows * queries.width];
        let width = heads / kv_heads * head_dim;
        let longest = views.iter().map(|view| view.slots.len()).max().unwrap_or(1);
        let least = LEAST_PRODUCTS / (2 * longest * width) + 1;
        share_rows(&mut out, width, least, |first, out| {
            let (shape, spans) = (self.shape, &views[..]);
            self.isa.run(Groups { queries, keys, values, shape, spans, first, out });
        });
        Ok((CpuStorage::F32(out), (queries.rows, queries.width).into()))
    }
}

struct SpanView<'a> {
    rows: Range<usize>,
    slots: &'a [u32],
    causal: bool,
}

impl SpanView<'_> {
    /// The slots that `row` sees.
    fn seen(&self, row: usize, shape: AttentionShape) -> &[u32] {
        if self.causal { &self.slots[shape.within(self.slots.len() - (self.rows.end - 1 - row))] } else { self.slots }
    }
}

/// Heads that share keys, of some rows: the pieces of `heads / kv_heads * head_dim` numbers of the output from `first` on.
struct Groups<'a> {
    queries: Matrix<'a>,
    keys: Matrix<'a>,
    values: Matrix<'a>,
    shape: AttentionShape,
    spans: &'a [SpanView<'a>],
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Groups<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let width = heads / kv_heads * head_dim;
        let mut scores = Vec::new();
        for (i, out) in self.out.chunks_exact_mut(width).enumerate() {
            let (row, kv_head) = ((self.first + i) / kv_heads, (self.first + i) % kv_heads);
            let span = &self.spans[self.spans.partition_point(|span| span.rows.end <= row)];
            let slots = span.seen(row, self.shape);
            scores.resize(slots.len().next_multiple_of(16), 0.0);
            let columns = kv_head * head_dim..(kv_head + 1) * head_dim;
            let queries = &self.queries.row(row)[kv_head * width..(kv_head + 1) * width];
            for (query, out) in queries.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
                let scale = self.shape.scale();
                l.call(Scores { query, keys: self.keys, columns: columns.clone(), slots, scale, scores: &mut scores });
                let sum = l.call(Softmax { scores: &mut scores, count: slots.len() });
                l.call(Mix { scores: &scores, sum, values: self.values, columns: columns.clone(), slots, out });
            }
        }
    }
}

/// `scores[j] = scale * query · key of slots[j]`, sixteen keys at a time.
struct Scores<'a> {
    query: &'a [f32],
    keys: Matrix<'a>,
    columns: Range<usize>,
    slots: &'a [u32],
    scale: f32,
    scores: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (query, query_rest) = self.query.as_chunks::<16>();
        let scale = l.splat(self.scale);
        for (slots, scores) in self.slots.chunks(16).zip(self.scores.as_chunks_mut::<16>().0) {
            let mut keys: [&[f32]; 16] = [&[]; 16];
            for j in 0..16 {
                // Past the end, the last key again: its score there is never read.
                let slot = slots[j.min(slots.len() - 1)];
                keys[j] = &self.keys.row(slot as usize)[self.columns.clone()];
            }
            let mut sums = [l.splat(0.0); 16];
            for (c, query) in query.iter().enumerate() {
                let query = l.load(query);
                for j in 0..16 {
                    // SAFETY: every key is as long as the query, whose chunk `c` is whole.
                    let key = unsafe { &*keys[j].as_ptr().add(16 * c).cast() };
                    sums[j] = l.fma(query, l.load(key), sums[j]);
                }
            }
            if !query_rest.is_empty() {
                let rest = l.load(&padded(query_rest));
                for j in 0..16 {
                    sums[j] = l.fma(rest, l.load(&padded(&keys[j][16 * query.len()..])), sums[j]);
                }
            }
            l.store(l.mul(l.sums(&sums), scale), scores);
        }
    }
}

/// `scores[j]` becomes `e^(scores[j] - largest)` for `j` below `count` and 0 beyond. Gives their sum.
struct Softmax<'a> {
    scores: &'a mut [f32],
    count: usize,
}

impl Kernel for Softmax<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f32 {
        self.scores[self.count..].fill(f32::NEG_INFINITY);
        let mut largest = l.splat(f32::NEG_INFINITY);
        for scores in self.scores.as_chunks::<16>().0 {
            largest = l.max(l.load(scores), largest);
        }
        let mut all = [0.0; 16];
        l.store(largest, &mut all);
        let largest = l.splat(all.into_iter().fold(f32::NEG_INFINITY, f32::max));
        for scores in self.scores.as_chunks_mut::<16>().0 {
            let power = exp(l, l.sub(l.load(scores), largest));
            l.store(power, scores);
        }
        self.scores[self.count..].fill(0.0);
        let mut sums = l.splat(0.0);
        for scores in self.scores.as_chunks::<16>().0 {
            sums = l.add(l.load(scores), sums);
        }
        l.sum(sums)
    }
}

/// `out = sum of scores[j] * value of slots[j], divided by sum`.
struct Mix<'a> {
    scores: &'a [f32],
    sum: f32,
    values: Matrix<'a>,
    columns: Range<usize>,
    slots: &'a [u32],
    out: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let start = self.columns.start;
        let (four, rest) = self.out.as_chunks_mut::<64>();
        let four_count = four.len();
        for (c, out) in four.iter_mut().enumerate() {
            let mut sums = [l.splat(0.0); 4];
            for (score, slot) in self.scores.iter().zip(self.slots) {
                let value = &self.values.row(*slot as usize)[start + 64 * c..start + 64 * c + 64];
                let value = value.as_chunks::<16>().0;
                for i in 0..4 {
                    sums[i] = l.fma(l.splat(*score), l.load(&value[i]), sums[i]);
                }
            }
            for (out, sum) in out.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
                l.store(l.div(sum, l.splat(self.sum)), out);
            }
        }
        for (c, out) in rest.chunks_mut(16).enumerate() {
            let at = start + 64 * four_count + 16 * c;
            let mut sum = l.splat(0.0);
            for (score, slot) in self.scores.iter().zip(self.slots) {
                let value = padded(&self.values.row(*slot as usize)[at..at + out.len()]);
                sum = l.fma(l.splat(*score), l.load(&value), sum);
            }
            let mut all = [0.0; 16];
            l.store(l.div(sum, l.splat(self.sum)), &mut all);
            out.copy_from_slice(&all[..out.len()]);
        }
    }
}

#[cfg(test)]
mod tests;
