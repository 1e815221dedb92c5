//! `kernels/add_rms_norm.cu`: adds what a layer's half made to the residual stream, and norms the result for the next half.

use super::Checks;
use super::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::CudaStream;

const CHECKS: Checks = Checks { kernel: "add_rms_norm" };
/// Numbers that a thread takes at a time, how often, and how many threads there are at most.
const EIGHT: usize = 8;
const CHUNKS: usize = 4;
const MOST_THREADS: usize = 512;
/// Most numbers of a row.
pub const MOST_HIDDEN: usize = EIGHT * CHUNKS * MOST_THREADS;

/// The arguments of one launch.
#[derive(Clone, Copy, Debug)]
pub struct AddRmsNorm<T> {
    /// The residual stream, `[rows, hidden]`; written if there is a `delta` and no `take`.
    pub x: DeviceSlice<f32>,
    /// What is added to it, `[rows, hidden]`; with none, nothing is.
    pub delta: Option<DeviceSlice<T>>,
    /// `[hidden]`.
    pub weight: DeviceSlice<T>,
    /// The norms, written: `[rows, hidden]`, or of as many rows as `take` names.
    pub out: DeviceSlice<T>,
    /// The rows to norm, in this order; with none, all. Each must be below `rows`, which only whoever wrote them can have
    /// checked.
    pub take: Option<DeviceSlice<u32>>,
    /// Numbers in a row, at most 16384.
    pub hidden: usize,
    /// Added to the mean of the squares.
    pub eps: f32,
}

impl<T: Half> AddRmsNorm<T> {
    fn rows(&self) -> usize {
        self.x.len().checked_div(self.hidden).unwrap_or(0)
    }

    fn emitted(&self) -> usize {
        self.take.map_or(self.rows(), DeviceSlice::len)
    }

    /// Launches it on `stream`; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape or not aligned to 16 bytes (a hidden size that is no multiple of 8 needs no
    /// alignment), `hidden` is above 16384, or the driver refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        if self.hidden == 0 || self.hidden > MOST_HIDDEN {
            return Err(CHECKS.fault(format!("rows of {} numbers: it takes 1 to {MOST_HIDDEN}", self.hidden)));
        }
        let emitted = CHECKS.count("rows", self.emitted())?;
        CHECKS.matrix("x", self.x, &[self.rows(), self.hidden])?;
        if let Some(delta) = self.delta {
            CHECKS.matrix("delta", delta, &[self.rows(), self.hidden])?;
        }
        CHECKS.matrix("weight", self.weight, &[self.hidden])?;
        CHECKS.matrix("out", self.out, &[self.emitted(), self.hidden])?;
        if emitted == 0 {
            return Ok(());
        }
        let threads = self.hidden.div_ceil(EIGHT).next_multiple_of(32).min(MOST_THREADS) as u32;
        let arguments = [
            self.x.into(),
            self.delta.into(),
            self.weight.into(),
            self.out.into(),
            self.take.into(),
            (self.hidden as u32).into(),
            self.eps.into(),
        ];
        let function = T::of(&kernels.add_rms_norm);
        // SAFETY: the parameters of `add_rms_norm_*`; one block a row of `out`, whose threads reach all of `hidden`; rows
        // of `x` and `delta` are below theirs, as `take` demands.
        unsafe { launch(stream, (CHECKS.kernel, function), (emitted, 1, 1), threads, &arguments) }
    }

    /// What one launch must move.
    pub fn traffic(&self) -> Traffic {
        let (emitted, hidden) = (self.emitted() as u64, self.hidden as u64);
        let adds = self.delta.is_some();
        let row = hidden * if adds { 4 + 2 } else { 4 } + if self.take.is_some() { 4 } else { 0 };
        let written = hidden * if adds && self.take.is_none() { 2 + 4 } else { 2 };
        Traffic { read_bytes: emitted * row + hidden * 2, written_bytes: emitted * written }
    }
}

/// What the kernel must compute: the residual stream after it, exactly, and the norms before they are rounded to `T`.
pub fn oracle<T: Half>(
    x: &[f32],
    delta: Option<&[T]>,
    weight: &[T],
    take: Option<&[u32]>,
    eps: f32,
) -> (Vec<f32>, Vec<f64>) {
    let hidden = weight.len();
    let sums: Vec<f32> = match delta {
        Some(delta) => x.iter().zip(delta).map(|(x, d)| x + d.to_f32()).collect(),
        None => x.to_vec(),
    };
    let rows: Vec<u32> = take.map_or_else(|| (0..(x.len() / hidden) as u32).collect(), <[u32]>::to_vec);
    let mut out = Vec::with_capacity(rows.len() * hidden);
    for row in rows {
        let row = &sums[row as usize * hidden..][..hidden];
        let mean = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / hidden as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        out.extend(row.iter().zip(weight).map(|(v, w)| f64::from(*v) * scale * f64::from(w.to_f32())));
    }
    (if take.is_some() { x.to_vec() } else { sums }, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    fn halves(numbers: &[f32]) -> Vec<f16> {
        numbers.iter().map(|n| f16::from_f32(*n)).collect()
    }

    #[test]
    fn a_row_is_added_and_divided_by_its_root_mean_square() {
        let (x, delta, weight) = ([1.0, -5.0, 0.0, 0.0], halves(&[2.0, 9.0, 0.0, 2.0]), halves(&[1.0, 2.0]));
        let (sums, out) = oracle(&x, Some(&delta), &weight, None, 0.5);
        assert_eq!(sums, [3.0, 4.0, 0.0, 2.0]);
        let (first, second) = (13.0f64.sqrt(), 2.5f64.sqrt());
        assert_eq!(out, [3.0 * (1.0 / first), 4.0 * (1.0 / first) * 2.0, 0.0, 2.0 * (1.0 / second) * 2.0]);
    }

    #[test]
    fn taken_rows_are_normed_and_nothing_is_written() {
        let (x, delta, weight) = ([1.0, -5.0, 0.0, 0.0], halves(&[2.0, 9.0, 0.0, 2.0]), halves(&[1.0, 2.0]));
        let (_, all) = oracle(&x, Some(&delta), &weight, None, 0.5);
        let (left, taken) = oracle(&x, Some(&delta), &weight, Some(&[1]), 0.5);
        assert_eq!((left.as_slice(), taken.as_slice()), (x.as_slice(), &all[2..]));
    }
}
