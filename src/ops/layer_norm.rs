//! `y = (x - mean of x) / sqrt(variance of x + eps) * w + b`.

use super::simd::{Isa, Kernel, Lanes, padded};
use super::threads::share_rows;
use super::view::numbers;
use super::{Ops, Path};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// Fewest rows worth a thread.
const LEAST_ROWS: usize = 16;

/// The weights of a layer norm.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[width]`, `f32`.
    pub weight: Tensor,
    /// `[width]`, `f32`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f32,
}

impl Ops {
    /// The layer norm of the rows of `x`, `[rows, width]`.
    ///
    /// # Errors
    /// If the shapes do not fit, or the device fails.
    pub fn layer_norm(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        match self.0 {
            Path::Rows(isa) => x.apply_op3_no_bwd(&norm.weight, &norm.bias, &RowLayerNorm { isa, eps: norm.eps }),
            Path::Candle => candle_nn::ops::layer_norm(x, &norm.weight, &norm.bias, norm.eps),
        }
    }
}

struct RowLayerNorm {
    isa: Isa,
    eps: f32,
}

impl CustomOp3 for RowLayerNorm {
    fn name(&self) -> &'static str {
        "row-layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = xl.shape().dims2()?;
        let (x, weight, bias) = (numbers::<f32>(x, xl)?, numbers::<f32>(w, wl)?, numbers::<f32>(b, bl)?);
        if weight.len() != width || bias.len() != width {
            bail!("rows of {width} numbers do not fit {} norm weights and {} biases", weight.len(), bias.len())
        }
        let mut y = vec![0f32; x.len()];
        share_rows(&mut y, width, LEAST_ROWS, |first, y| {
            let x = &x[first * width..];
            self.isa.run(Rows { x, weight, bias, eps: self.eps, y });
        });
        Ok((CpuStorage::F32(y), (rows, width).into()))
    }
}

struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let width = self.weight.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let mut sums = l.splat(0.0);
            for x in x.chunks(16) {
                sums = l.add(l.load(&padded(x)), sums);
            }
            let mean = l.sum(sums) / width as f32;
            // Numbers less their mean, kept in y.
            let mut squares = l.splat(0.0);
            for (x, y) in x.chunks(16).zip(y.chunks_mut(16)) {
                for (x, y) in x.iter().zip(&mut *y) {
                    *y = x - mean;
                }
                let centred = l.load(&padded(y));
                squares = l.fma(centred, centred, squares);
            }
            let scale = 1.0 / (l.sum(squares) / width as f32 + self.eps).sqrt();
            for ((y, w), b) in y.iter_mut().zip(self.weight).zip(self.bias) {
                *y = *y * scale * w + b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, each_path, noise};
    use super::*;

    #[test]
    fn layer_norm_is_candles_whatever_the_width_and_path() -> Result<()> {
        for (rows, width) in [(1, 384), (5, 64), (40, 37)] {
            let norm = LayerNorm { weight: noise(&[width], 2)?, bias: noise(&[width], 3)?, eps: 1e-12 };
            let x = noise(&[rows, width], 1)?;
            let want = Ops::candle().layer_norm(&x, &norm)?;
            assert_close(&each_path(|ops| ops.layer_norm(&x, &norm))?, &want, 1e-5);
        }
        Ok(())
    }
}
