//! Rotary position embedding (Su et al., "RoFormer", 2021), of halves: number `i` of a head turns with number
//! `i + head_dim / 2`, by `position * frequency[i]`.

use super::elementary::{power, sin_cos};
use super::view::{Matrix, numbers};
use super::{Ops, Path};
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use std::f64::consts::TAU;

/// The frequencies of a head: radians a position, one for each pair of numbers.
#[derive(Clone, Debug)]
pub struct RopeFrequencies(Vec<f32>);

impl RopeFrequencies {
    /// `theta^(-2i / head_dim)`.
    pub fn new(head_dim: usize, theta: f64) -> Self {
        let frequency = |i| power(theta, -2.0 * i as f64 / head_dim as f64) as f32;
        Self((0..head_dim / 2).map(frequency).collect())
    }

    /// All divided by `factor` ("linear" scaling).
    pub fn linear(self, factor: f64) -> Self {
        Self(self.0.iter().map(|f| (f64::from(*f) / factor) as f32).collect())
    }

    /// "llama3" scaling: wavelengths above `original / low` are stretched by `factor`, those below `original / high` kept,
    /// those between blended.
    pub fn llama3(self, factor: f64, low: f64, high: f64, original: usize) -> Self {
        let original = original as f64;
        let scaled = |f: &f32| {
            let frequency = f64::from(*f);
            let turns = original * frequency / TAU;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - kept) * frequency / factor + kept * frequency) as f32
        };
        Self(self.0.iter().map(scaled).collect())
    }

    /// Cosine and sine of each pair's turn at `position`.
    pub fn turns(&self, position: u32) -> impl Iterator<Item = (f32, f32)> + '_ {
        self.0.iter().map(move |frequency| {
            // Rounded to f32, as the reference implementation rounds it.
            let (sin, cos) = sin_cos(f64::from(position as f32 * frequency));
            (cos as f32, sin as f32)
        })
    }

    /// The turns of rows at `positions`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn rotation(&self, positions: &[u32], device: &Device) -> Result<Rotation> {
        let count = positions.len() * self.0.len();
        let (mut cos, mut sin) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for position in positions {
            for (c, s) in self.turns(*position) {
                cos.push(c);
                sin.push(s);
            }
        }
        let shape = (positions.len(), self.0.len());
        Ok(Rotation { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }
}

/// By how much each row's pairs turn.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[rows, head_dim / 2]`, `f32`.
    pub cos: Tensor,
    /// `[rows, head_dim / 2]`, `f32`.
    pub sin: Tensor,
}

impl Ops {
    /// `x`, `[rows, heads * head_dim]` (any columns of a tensor), with every head turned by its row's rotation.
    ///
    /// # Errors
    /// If the shapes do not fit, or the device fails.
    pub fn rope(&self, x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        match self.0 {
            Path::Rows(_) => x.apply_op3_no_bwd(&rotation.cos, &rotation.sin, &RowRope),
            Path::Candle => {
                let (rows, width) = x.dims2()?;
                let head_dim = rotation.cos.dim(1)? * 2;
                let heads =
                    x.reshape((rows, width / head_dim, head_dim))?.transpose(0, 1)?.contiguous()?.unsqueeze(0)?;
                let turned = candle_nn::rotary_emb::rope(&heads, &rotation.cos, &rotation.sin)?;
                turned.squeeze(0)?.transpose(0, 1)?.reshape((rows, width))
            }
        }
    }
}

struct RowRope;

impl CustomOp3 for RowRope {
    fn name(&self) -> &'static str {
        "row-rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        cos: &CpuStorage,
        cl: &Layout,
        sin: &CpuStorage,
        sl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = Matrix::new(x, xl)?;
        let (rows, half) = cl.shape().dims2()?;
        let (cos, sin) = (numbers::<f32>(cos, cl)?, numbers::<f32>(sin, sl)?);
        if rows != x.rows || sin.len() != cos.len() || half == 0 || x.width % (2 * half) != 0 {
            bail!("{} rows of {} numbers do not fit {rows} rotations of {half} pairs", x.rows, x.width)
        }
        let mut y = vec![0f32; x.rows * x.width];
        for (i, y) in y.chunks_exact_mut(x.width).enumerate() {
            let turn = i * half..(i + 1) * half;
            let (cos, sin) = (&cos[turn.clone()], &sin[turn]);
            for (x, y) in x.row(i).chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
                let (a, b) = x.split_at(half);
                let (ya, yb) = y.split_at_mut(half);
                for i in 0..half {
                    ya[i] = a[i] * cos[i] - b[i] * sin[i];
                    yb[i] = b[i] * cos[i] + a[i] * sin[i];
                }
            }
        }
        Ok((CpuStorage::F32(y), (x.rows, x.width).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, each_path, noise};
    use super::*;

    #[test]
    fn rope_is_candles() -> Result<()> {
        let rotation = RopeFrequencies::new(64, 1e5).rotation(&[0, 7, 4000], &Device::Cpu)?;
        let x = noise(&[3, 5 * 64], 1)?.narrow(1, 64, 192)?;
        assert_close(&each_path(|ops| ops.rope(&x, &rotation))?, &Ops::candle().rope(&x, &rotation)?, 1e-6);
        assert!(Ops::rows(super::super::Isa::available()[0]).rope(&x.narrow(1, 0, 96)?, &rotation).is_err());
        Ok(())
    }

    /// The formulas of the reference implementation, written out for one pair each.
    #[test]
    fn scalings_are_the_references() {
        let plain = RopeFrequencies::new(128, 500_000.0);
        let linear = plain.clone().linear(4.0);
        let llama3 = plain.clone().llama3(8.0, 1.0, 4.0, 8192);
        for i in 0..64 {
            let f = 500_000f64.powf(-2.0 * i as f64 / 128.0);
            let near = |got: f32, want: f64| (f64::from(got) / want - 1.0).abs() < 2e-7;
            assert!(near(plain.0[i], f) && near(linear.0[i], f / 4.0));
            let wavelength = TAU / f;
            let want = if wavelength < 8192.0 / 4.0 {
                f
            } else if wavelength > 8192.0 {
                f / 8.0
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
                (1.0 - smooth) * f / 8.0 + smooth * f
            };
            assert!(near(llama3.0[i], want), "pair {i}: {}, not {want}", llama3.0[i]);
        }
    }
}
