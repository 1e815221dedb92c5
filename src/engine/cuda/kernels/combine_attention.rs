//! `kernels/combine_attention.cu`: the parts that `decode_attention` split a sequence into become one.

use super::Checks;
use crate::engine::cuda::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::CudaStream;

const CHECKS: Checks = Checks { kernel: "combine_attention" };
const MOST_HEAD_DIM: usize = 256;
/// What the driver takes as the second number of a grid.
const MOST_ROWS: usize = 65535;

/// The arguments of one launch.
#[derive(Clone, Copy, Debug)]
pub struct CombineAttention<T> {
    /// `[rows, heads, splits, 2 + head_dim]`, as [`DecodeAttention`](super::DecodeAttention) writes it.
    pub partial: DeviceSlice<f32>,
    /// `[rows, heads * head_dim]`, written.
    pub out: DeviceSlice<T>,
    /// Query heads.
    pub heads: usize,
    /// Numbers in a head, 256 at most.
    pub head_dim: usize,
    /// Parts of each head.
    pub splits: usize,
}

impl<T: Half> CombineAttention<T> {
    /// Launches it on `stream`; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape, there is no head or part, heads are too wide, or the driver refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let width = self.heads.saturating_mul(self.head_dim);
        if width == 0 || self.splits == 0 || self.head_dim > MOST_HEAD_DIM {
            let (heads, head_dim, splits) = (self.heads, self.head_dim, self.splits);
            return Err(CHECKS.fault(format!("{heads} heads of {head_dim} numbers (256 at most) in {splits} parts")));
        }
        let rows = self.out.len() / width;
        CHECKS.shape("out", self.out, &[rows, self.heads, self.head_dim])?;
        CHECKS.shape("partial", self.partial, &[rows, self.heads, self.splits, 2 + self.head_dim])?;
        let heads = CHECKS.count("heads", self.heads)?;
        let splits = CHECKS.count("splits", self.splits)?;
        // Where a part begins is counted by 32 bits on the device.
        CHECKS.count("numbers a head", self.splits.saturating_mul(2 + self.head_dim))?;
        if rows > MOST_ROWS {
            return Err(CHECKS.fault(format!("{rows} rows: a grid has {MOST_ROWS} at most")));
        }
        if rows == 0 {
            return Ok(());
        }
        let head_dim = self.head_dim as u32;
        let arguments = [self.partial.into(), self.out.into(), heads.into(), head_dim.into(), splits.into()];
        let (function, threads) = (T::of(&kernels.combine_attention), head_dim.next_multiple_of(32));
        // SAFETY: the parameters of `combine_attention_*`; one block a head and row of `out` and `partial`, and at least one
        // thread a number of a head.
        unsafe { launch(stream, (CHECKS.kernel, function), (heads, rows as u32, 1), threads, &arguments) }
    }

    /// What one launch must move.
    pub fn traffic(&self) -> Traffic {
        Traffic { read_bytes: 4 * self.partial.len() as u64, written_bytes: 2 * self.out.len() as u64 }
    }
}

/// What the parts of one head, `[splits, 2 + head_dim]`, become.
pub fn oracle(parts: &[f32], head_dim: usize) -> Vec<f64> {
    let parts = || parts.chunks_exact(2 + head_dim);
    let largest = parts().map(|part| part[0]).fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut mix) = (0.0, vec![0.0; head_dim]);
    for part in parts().filter(|part| part[0] > f32::NEG_INFINITY) {
        let weight = f64::from(part[0] - largest).exp2();
        sum += weight * f64::from(part[1]);
        mix.iter_mut().zip(&part[2..]).for_each(|(mix, number)| *mix += weight * f64::from(*number));
    }
    mix.into_iter().map(|mix| if sum > 0.0 { mix / sum } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [f32; 4] = [f32::NEG_INFINITY, 0.0, 0.0, 0.0];

    #[test]
    fn parts_weigh_what_their_largest_score_says() {
        // The second part's scores are lower by 1, so its weights count half.
        let parts = [[5.0, 2.0, 4.0, 6.0], [4.0, 4.0, 12.0, 0.0], NOTHING].concat();
        assert_eq!(oracle(&parts, 2), [(4.0 + 6.0) / 4.0, 6.0 / 4.0]);
    }

    #[test]
    fn parts_of_nothing_make_zeros() {
        assert_eq!(oracle(&[NOTHING, NOTHING].concat(), 2), [0.0, 0.0]);
    }
}
