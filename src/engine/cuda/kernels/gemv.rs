//! `kernels/gemv.cu`: a linear layer for 1 to 16 rows, at the speed of reading its weights once.

use super::Checks;
use super::launch::{ByRows, DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::CudaStream;
use half::{bf16, f16};

const CHECKS: Checks = Checks { kernel: "gemv" };
const THREADS: u32 = 256;
/// Outputs of each row that a block makes, of one row and of several.
const OUTPUTS: [u32; 2] = [8, 16];

/// The kernel's versions: most rows of each, and its name.
pub(crate) const VERSIONS: [(usize, &str); 3] = [(1, "one"), (8, "few_8"), (MOST_ROWS, "few_16")];

/// Most rows that one launch takes. With more, cuBLASLt's tiles are better filled, and it is faster.
pub const MOST_ROWS: usize = 16;

/// What the sums of products of `T` may be rounded to: `T` itself or `f32`.
pub trait SumOf<T> {
    /// The functions that do so, one for each version.
    fn functions(kernels: &Kernels) -> &ByRows;
}

impl SumOf<bf16> for bf16 {
    fn functions(kernels: &Kernels) -> &ByRows {
        &kernels.gemv.bf16
    }
}

impl SumOf<f16> for f16 {
    fn functions(kernels: &Kernels) -> &ByRows {
        &kernels.gemv.f16
    }
}

impl<T: Half> SumOf<T> for f32 {
    fn functions(kernels: &Kernels) -> &ByRows {
        T::of(&kernels.gemv_f32)
    }
}

/// The arguments of one launch.
#[derive(Clone, Copy, Debug)]
pub struct Gemv<T, O> {
    /// `[n, k]`.
    pub weight: DeviceSlice<T>,
    /// `[rows, k]`, rows 0 to 16.
    pub input: DeviceSlice<T>,
    /// Added to each row of `out`: `[n]`.
    pub bias: Option<DeviceSlice<T>>,
    /// `[rows, n]`, written.
    pub out: DeviceSlice<O>,
    /// Outputs of a row.
    pub n: usize,
    /// Inputs of a row: a multiple of 8.
    pub k: usize,
}

impl<T: Half, O: SumOf<T>> Gemv<T, O> {
    fn rows(&self) -> usize {
        self.input.len().checked_div(self.k).unwrap_or(0)
    }

    /// Launches it on `stream`; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape, `weight` or `input` is not aligned to 16 bytes, `k` is no multiple of 8, there are
    /// more than 16 rows or no outputs, or the driver refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let (n, k) = (CHECKS.count("outputs", self.n)?, CHECKS.count("inputs", self.k)?);
        if n == 0 || k == 0 || k % 8 != 0 {
            return Err(CHECKS.fault(format!("{n} outputs of {k} inputs: it takes some, of a multiple of 8")));
        }
        CHECKS.matrix("weight", self.weight, &[self.n, self.k])?;
        CHECKS.matrix("input", self.input, &[self.rows(), self.k])?;
        if let Some(bias) = self.bias {
            CHECKS.shape("bias", bias, &[self.n])?;
        }
        CHECKS.shape("out", self.out, &[self.rows(), self.n])?;
        let rows = self.rows();
        let version = VERSIONS.iter().position(|(most, _)| rows <= *most);
        let Some((version, function)) =
            version.and_then(|version| Some((version, O::functions(kernels).get(version)?)))
        else {
            return Err(CHECKS.fault(format!("{rows} rows: it takes at most {MOST_ROWS}")));
        };
        if rows == 0 {
            return Ok(());
        }
        let arguments = [
            self.weight.into(),
            self.input.into(),
            self.bias.into(),
            self.out.into(),
            (rows as u32).into(),
            n.into(),
            k.into(),
        ];
        let grid = (n.div_ceil(OUTPUTS[version.min(1)]), 1, 1);
        // SAFETY: the parameters of `gemv_*`; the function is the one of so many rows, and blocks cover the outputs.
        unsafe { launch(stream, (CHECKS.kernel, function), grid, THREADS, &arguments) }
    }

    /// What one launch must move.
    pub fn traffic(&self) -> Traffic {
        let (rows, n, k) = (self.rows() as u64, self.n as u64, self.k as u64);
        let bias = if self.bias.is_some() { n * 2 } else { 0 };
        Traffic { read_bytes: n * k * 2 + rows * k * 2 + bias, written_bytes: rows * n * size_of::<O>() as u64 }
    }
}

/// What the kernel must compute, before it is rounded, and the sum of its terms' magnitudes, which its error is measured by.
pub fn oracle<T: Half>(weight: &[T], input: &[T], bias: Option<&[T]>, k: usize) -> Vec<(f64, f64)> {
    let wide = |number: &T| f64::from(number.to_f32());
    let one = |j: usize, row: &[T]| {
        let first = bias.map_or(0.0, |bias| wide(&bias[j]));
        let products = weight[j * k..][..k].iter().zip(row).map(|(w, x)| wide(w) * wide(x));
        products.fold((first, first.abs()), |(sum, size), product| (sum + product, size + product.abs()))
    };
    input.chunks_exact(k).flat_map(|row| (0..weight.len() / k).map(move |j| one(j, row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_dot_products_and_bias() {
        let halves = |numbers: &[f32]| -> Vec<f16> { numbers.iter().map(|n| f16::from_f32(*n)).collect() };
        let (weight, input) = (halves(&[1.0, 2.0, 3.0, -4.0, 0.0, 0.0]), halves(&[1.0, 10.0, -1.0, 2.0]));
        let bias = halves(&[0.0, 1.0, -5.0]);
        let want = [(21.0, 21.0), (-37.0, 43.0), (0.0, 0.0), (3.0, 5.0), (-11.0, 11.0), (0.0, 0.0)];
        assert_eq!(oracle(&weight, &input, None, 2), want);
        let biased: Vec<f64> = oracle(&weight, &input, Some(&bias), 2).iter().map(|(sum, _)| *sum).collect();
        assert_eq!(biased, [21.0, -36.0, -5.0, 3.0, -10.0, -5.0]);
    }
}
