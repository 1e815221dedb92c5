//! Ops that take each number of a result from the same place of their operands: sum, gated SiLU, GELU.

use super::elementary::{erf, exp};
use super::simd::{Isa, Kernel, Lanes, padded};
use super::threads::share_rows;
use super::view::Matrix;
use super::{Ops, Path};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use candle_nn::Module;

/// Fewest numbers worth a thread.
const LEAST_NUMBERS: usize = 16_384;

impl Ops {
    /// `x + y`, of one shape, `[rows, width]`.
    ///
    /// # Errors
    /// If the shapes differ, or the device fails.
    pub fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self.0 {
            Path::Rows(isa) => x.apply_op2_no_bwd(y, &Each { isa, function: Function::Add }),
            Path::Candle => x + y,
        }
    }

    /// `silu(gate) * up`, with `silu(x) = x / (1 + e^-x)`; `gate_up` is `[rows, 2 width]`, gates first.
    ///
    /// # Errors
    /// If the width is odd, or the device fails.
    pub fn silu_mul(&self, gate_up: &Tensor) -> Result<Tensor> {
        let width = gate_up.dim(1)? / 2;
        let (gate, up) = (gate_up.narrow(1, 0, width)?, gate_up.narrow(1, width, width)?);
        match self.0 {
            Path::Rows(isa) => gate.apply_op2_no_bwd(&up, &Each { isa, function: Function::SiluMul }),
            Path::Candle => candle_nn::ops::silu(&gate.contiguous()?)? * up,
        }
    }

    /// `x / 2 (1 + erf(x / √2))` of `x`, `[rows, width]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        match self.0 {
            Path::Rows(isa) => x.apply_op2_no_bwd(x, &Each { isa, function: Function::Gelu }),
            Path::Candle => candle_nn::Activation::Gelu.forward(x),
        }
    }
}

#[derive(Clone, Copy)]
enum Function {
    Add,
    SiluMul,
    Gelu,
}

struct Each {
    isa: Isa,
    function: Function,
}

impl CustomOp2 for Each {
    fn name(&self) -> &'static str {
        "row-elementwise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, y: &CpuStorage, yl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (Matrix::new(x, xl)?, Matrix::new(y, yl)?);
        if (x.rows, x.width) != (y.rows, y.width) {
            bail!("operands of {}x{} and {}x{} numbers do not fit", x.rows, x.width, y.rows, y.width)
        }
        let mut out = vec![0f32; x.rows * x.width];
        share_rows(&mut out, x.width, LEAST_NUMBERS.div_ceil(x.width.max(1)), |first, out| {
            let function = self.function;
            match function {
                Function::Add => self.isa.run(Rows { x, y, first, out, of: Add }),
                Function::SiluMul => self.isa.run(Rows { x, y, first, out, of: SiluMul }),
                Function::Gelu => self.isa.run(Rows { x, y, first, out, of: Gelu }),
            }
        });
        Ok((CpuStorage::F32(out), (x.rows, x.width).into()))
    }
}

/// A function of one number of each operand. Its method must be `#[inline(always)]`: see [`Kernel`].
trait Of2 {
    fn of<L: Lanes>(&self, l: L, x: L::V, y: L::V) -> L::V;
}

struct Add;
impl Of2 for Add {
    #[inline(always)]
    fn of<L: Lanes>(&self, l: L, x: L::V, y: L::V) -> L::V {
        l.add(x, y)
    }
}

struct SiluMul;
impl Of2 for SiluMul {
    #[inline(always)]
    fn of<L: Lanes>(&self, l: L, x: L::V, y: L::V) -> L::V {
        let decay = exp(l, l.sub(l.splat(0.0), x));
        l.mul(l.div(x, l.add(l.splat(1.0), decay)), y)
    }
}

struct Gelu;
impl Of2 for Gelu {
    #[inline(always)]
    fn of<L: Lanes>(&self, l: L, x: L::V, _: L::V) -> L::V {
        let size = l.max(l.sub(l.splat(0.0), x), x);
        let erf = erf(l, l.mul(size, l.splat(std::f32::consts::FRAC_1_SQRT_2)));
        l.mul(l.splat(0.5), l.fma(size, erf, x))
    }
}

struct Rows<'a, F> {
    x: Matrix<'a>,
    y: Matrix<'a>,
    first: usize,
    out: &'a mut [f32],
    of: F,
}

impl<F: Of2> Kernel for Rows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (i, out) in self.out.chunks_exact_mut(self.x.width).enumerate() {
            let (x, x_rest) = self.x.row(self.first + i).as_chunks::<16>();
            let (y, y_rest) = self.y.row(self.first + i).as_chunks::<16>();
            let (out, out_rest) = out.as_chunks_mut::<16>();
            for ((x, y), out) in x.iter().zip(y).zip(out) {
                l.store(self.of.of(l, l.load(x), l.load(y)), out);
            }
            if !out_rest.is_empty() {
                let mut all = [0.0; 16];
                l.store(self.of.of(l, l.load(&padded(x_rest)), l.load(&padded(y_rest))), &mut all);
                out_rest.copy_from_slice(&all[..out_rest.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, each_path, noise};
    use super::*;

    #[test]
    fn elementwise_ops_are_candles_whatever_the_width_and_path() -> Result<()> {
        for (rows, width) in [(1, 1536), (5, 64), (300, 74)] {
            let (x, y) = (noise(&[rows, width], 1)?.affine(6.0, 0.0)?, noise(&[rows, width], 2)?);
            assert_close(&each_path(|ops| ops.add(&x, &y))?, &Ops::candle().add(&x, &y)?, 0.0);
            assert_close(&each_path(|ops| ops.silu_mul(&x))?, &Ops::candle().silu_mul(&x)?, 1e-5);
            assert_close(&each_path(|ops| ops.gelu(&x))?, &Ops::candle().gelu(&x)?, 1e-5);
        }
        Ok(())
    }
}
