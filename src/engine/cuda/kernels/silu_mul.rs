//! `kernels/silu_mul.cu`: the gated activation between the two halves of a feed-forward layer.

use super::Checks;
use super::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::CudaStream;

const CHECKS: Checks = Checks { kernel: "silu_mul" };
const THREADS: u32 = 256;
/// Numbers that a block makes.
const BLOCK: u32 = THREADS * 8;

/// The arguments of one launch.
#[derive(Clone, Copy, Debug)]
pub struct SiluMul<T> {
    /// `[rows, 2 width]`: a row's gates, then its ups.
    pub gate_up: DeviceSlice<T>,
    /// Added to each row of `gate_up`: `[2 width]`.
    pub bias: Option<DeviceSlice<T>>,
    /// `[rows, width]`, written.
    pub out: DeviceSlice<T>,
    /// Numbers in a row of `out`.
    pub width: usize,
}

impl<T: Half> SiluMul<T> {
    fn rows(&self) -> usize {
        self.out.len().checked_div(self.width).unwrap_or(0)
    }

    /// Launches it on `stream`; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape or not aligned to 16 bytes (a width that is no multiple of 8 needs no alignment), or
    /// the driver refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let (rows, width) = (CHECKS.count("rows", self.rows())?, CHECKS.count("numbers a row", self.width)?);
        if width == 0 || width.div_ceil(BLOCK) > u32::from(u16::MAX) {
            return Err(CHECKS.fault(format!("rows of {width} numbers")));
        }
        CHECKS.matrix("gate_up", self.gate_up, &[self.rows(), 2, self.width])?;
        if let Some(bias) = self.bias {
            CHECKS.matrix("bias", bias, &[2, self.width])?;
        }
        CHECKS.matrix("out", self.out, &[self.rows(), self.width])?;
        if rows == 0 {
            return Ok(());
        }
        let arguments = [self.gate_up.into(), self.bias.into(), self.out.into(), width.into()];
        let grid = (rows, width.div_ceil(BLOCK), 1);
        // SAFETY: the parameters of `silu_mul_*`; blocks cover the rows and the width of `out`, and no more.
        unsafe { launch(stream, (CHECKS.kernel, T::of(&kernels.silu_mul)), grid, THREADS, &arguments) }
    }

    /// What one launch must move.
    pub fn traffic(&self) -> Traffic {
        let (rows, width) = (self.rows() as u64, self.width as u64);
        let bias = if self.bias.is_some() { width * 4 } else { 0 };
        Traffic { read_bytes: rows * width * 4 + bias, written_bytes: rows * width * 2 }
    }
}

/// What the kernel must compute, before it is rounded to `T`.
pub fn oracle<T: Half>(gate_up: &[T], bias: Option<&[T]>, width: usize) -> Vec<f64> {
    let number = |row: &[T], i: usize| {
        let bias = bias.map_or(0.0, |bias| bias[i].to_f32());
        f64::from(row[i].to_f32() + bias)
    };
    let one = |row: &[T], i: usize| {
        let (gate, up) = (number(row, i), number(row, width + i));
        gate / (1.0 + (-gate).exp()) * up
    };
    gate_up.chunks_exact(2 * width).flat_map(|row| (0..width).map(move |i| one(row, i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn the_gate_weighs_the_up() {
        let halves = |numbers: &[f32]| -> Vec<f16> { numbers.iter().map(|n| f16::from_f32(*n)).collect() };
        let rows = halves(&[0.0, 1.0, 3.0, 5.0, -1.0, 1.0, 2.0, 2.0]);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let near = |got: Vec<f64>, want: [f64; 4]| got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12);
        assert!(near(oracle(&rows, None, 2), [0.0, 5.0 * sigmoid(1.0), -2.0 * sigmoid(-1.0), 2.0 * sigmoid(1.0)]));
        let bias = halves(&[1.0, 0.0, 0.0, -5.0]);
        assert!(near(oracle(&rows, Some(&bias), 2), [3.0 * sigmoid(1.0), 0.0, 0.0, -3.0 * sigmoid(1.0)]));
    }
}
