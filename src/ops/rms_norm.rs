//! `y = x / sqrt(mean of x² + eps) * w`.

use super::simd::{Isa, Kernel, Lanes, padded};
use super::threads::share_rows;
use super::view::numbers;
use super::{Ops, Path};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Fewest rows worth a thread.
const LEAST_ROWS: usize = 16;

impl Ops {
    /// The root-mean-square norm of the rows of `x`, `[rows, width]`, with weights `[width]`.
    ///
    /// # Errors
    /// If the shapes do not fit, or the device fails.
    pub fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        match self.0 {
            Path::Rows(isa) => x.apply_op2_no_bwd(weight, &RowRmsNorm { isa, eps }),
            Path::Candle => candle_nn::ops::rms_norm(x, weight, eps),
        }
    }
}

struct RowRmsNorm {
    isa: Isa,
    eps: f32,
}

impl CustomOp2 for RowRmsNorm {
    fn name(&self) -> &'static str {
        "row-rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = xl.shape().dims2()?;
        let (x, weight) = (numbers::<f32>(x, xl)?, numbers::<f32>(w, wl)?);
        if weight.len() != width {
            bail!("rows of {width} numbers do not fit {} norm weights", weight.len())
        }
        let mut y = vec![0f32; x.len()];
        share_rows(&mut y, width, LEAST_ROWS, |first, y| {
            let x = &x[first * width..];
            self.isa.run(Rows { x, weight, eps: self.eps, y });
        });
        Ok((CpuStorage::F32(y), (rows, width).into()))
    }
}

struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let width = self.weight.len();
        let (weight, weight_rest) = self.weight.as_chunks::<16>();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let (x, x_rest) = x.as_chunks::<16>();
            let (y, y_rest) = y.as_chunks_mut::<16>();
            let mut squares = l.splat(0.0);
            for x in x {
                squares = l.fma(l.load(x), l.load(x), squares);
            }
            let last = l.load(&padded(x_rest));
            let mean = l.sum(l.fma(last, last, squares)) / width as f32;
            let scale = l.splat(1.0 / (mean + self.eps).sqrt());
            for ((x, w), y) in x.iter().zip(weight).zip(y) {
                l.store(l.mul(l.mul(l.load(x), scale), l.load(w)), y);
            }
            let mut all = [0.0; 16];
            l.store(l.mul(l.mul(last, scale), l.load(&padded(weight_rest))), &mut all);
            y_rest.copy_from_slice(&all[..y_rest.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, each_path, noise};
    use super::*;

    #[test]
    fn rms_norm_is_candles_whatever_the_width_and_path() -> Result<()> {
        for (rows, width) in [(1, 576), (5, 64), (40, 37)] {
            let (x, weight) = (noise(&[rows, width], 1)?, noise(&[width], 2)?);
            let want = Ops::candle().rms_norm(&x, &weight, 1e-5)?;
            assert_close(&each_path(|ops| ops.rms_norm(&x, &weight, 1e-5))?, &want, 1e-5);
        }
        Ok(())
    }
}
