//! What an encoder answers with: the mean of a sequence's rows, as it is or divided by its length.

use super::simd::{Isa, Kernel, Lanes, padded};
use super::view::numbers;
use super::{Ops, Path};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use std::ops::Range;

/// Vectors shorter than this are divided by this instead, as the reference implementation does.
const LEAST_LENGTH: f32 = 1e-12;

impl Ops {
    /// For each range of the rows of `x`, `[rows, width]`, their mean: `[ranges, width]`; divided by its Euclidean length if
    /// it is to be of `length_one`.
    ///
    /// # Errors
    /// If a range is empty or outside the rows, or the device fails.
    pub fn mean(&self, x: &Tensor, ranges: &[Range<usize>], length_one: bool) -> Result<Tensor> {
        match self.0 {
            Path::Rows(isa) => x.apply_op1_no_bwd(&RowPool { isa, ranges, length_one }),
            Path::Candle => {
                let vectors: Result<Vec<_>> = ranges
                    .iter()
                    .map(|rows| {
                        let mean = x.narrow(0, rows.start, rows.len())?.mean_keepdim(0)?;
                        if !length_one {
                            return Ok(mean);
                        }
                        let length = mean.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(LEAST_LENGTH)?;
                        mean.broadcast_div(&length)
                    })
                    .collect();
                Tensor::cat(&vectors?, 0)
            }
        }
    }
}

struct RowPool<'a> {
    isa: Isa,
    ranges: &'a [Range<usize>],
    length_one: bool,
}

impl CustomOp1 for RowPool<'_> {
    fn name(&self) -> &'static str {
        "row-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = xl.shape().dims2()?;
        let x = numbers::<f32>(x, xl)?;
        let mut out = vec![0f32; self.ranges.len() * width];
        for (range, out) in self.ranges.iter().zip(out.chunks_exact_mut(width)) {
            if range.is_empty() || range.end > rows {
                bail!("there is no mean of rows {range:?} of {rows}")
            }
            for row in x[range.start * width..range.end * width].chunks_exact(width) {
                out.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
            }
            out.iter_mut().for_each(|sum| *sum /= range.len() as f32);
            if self.length_one {
                let length = self.isa.run(Length(out)).max(LEAST_LENGTH);
                out.iter_mut().for_each(|v| *v /= length);
            }
        }
        Ok((CpuStorage::F32(out), (self.ranges.len(), width).into()))
    }
}

struct Length<'a>(&'a [f32]);

impl Kernel for Length<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f32 {
        let mut squares = l.splat(0.0);
        for x in self.0.chunks(16) {
            let x = l.load(&padded(x));
            squares = l.fma(x, x, squares);
        }
        l.sum(squares).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, each_path, noise};
    use super::*;

    #[test]
    fn vectors_are_candles_and_have_length_one_if_they_are_to() -> Result<()> {
        let x = noise(&[9, 70], 1)?;
        let ranges = [0..1, 1..9, 3..5];
        let got = each_path(|ops| ops.mean(&x, &ranges, true))?;
        assert_close(&got, &Ops::candle().mean(&x, &ranges, true)?, 1e-6);
        for vector in got.to_vec2::<f32>()? {
            assert!((vector.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-6);
        }
        let got = each_path(|ops| ops.mean(&x, &ranges, false))?;
        assert_close(&got, &Ops::candle().mean(&x, &ranges, false)?, 1e-6);
        assert_close(&got.narrow(0, 0, 1)?, &x.narrow(0, 0, 1)?, 0.0);
        let empty = 4..4;
        assert!(each_path(|ops| ops.mean(&x, std::slice::from_ref(&empty), true)).is_err());
        Ok(())
    }
}
