//! Floor 2: the maths, one op a file.
//!
//! Each op has two paths side by side. On the CPU it is ours: every row is calculated in one fixed order, whichever rows
//! it is batched with, however a prompt was chunked, on any number of threads and in any instructions, so that equal
//! inputs give equal bits. On every other device it is made of candle's ops; that path also serves as the oracle that
//! tests hold the first one against.
//!
//! All maths is in `f32`, whatever type the weights are stored in.

mod attention;
mod elementary;
mod elementwise;
mod embed;
mod layer_norm;
mod linear;
mod matmul;
mod memory;
pub mod observe;
mod pool;
mod rms_norm;
mod rope;
pub mod sample;
pub mod simd;
mod store;
mod stored;
mod threads;
mod view;

pub use attention::{AttentionShape, Span};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use memory::advise_huge_pages;
pub use observe::observe;
pub use rope::{RopeFrequencies, Rotation};
pub use sample::sample;
pub use simd::Isa;
pub use threads::{Threads, share_map};

/// The ops, on one of their two paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ops(Path);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Rows(Isa),
    Candle,
}

impl Ops {
    /// Ours, for tensors in the CPU's memory.
    pub fn rows(isa: Isa) -> Self {
        Self(Path::Rows(isa))
    }

    /// candle's, for tensors on any device. On the CPU, too, but there a row's bits depend on the rows beside it.
    pub fn candle() -> Self {
        Self(Path::Candle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Result, Tensor};
    use stageline_base::prng::Prng;

    /// Numbers between -1 and 1.
    pub(super) fn noise(shape: &[usize], seed: u64) -> Result<Tensor> {
        let mut prng = Prng::new(seed);
        let count = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| prng.below(2_000_001) as f32 / 1e6 - 1.0).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu)
    }

    pub(super) fn bits(x: &Tensor) -> Result<Vec<u32>> {
        Ok(x.flatten_all()?.to_vec1::<f32>()?.iter().map(|v| v.to_bits()).collect())
    }

    /// Runs `op` on every path and on 1, 2 and 3 threads, demands equal bits of all, and gives the result.
    pub(super) fn each_path(op: impl Fn(Ops) -> Result<Tensor> + Sync) -> Result<Tensor> {
        let first = op(Ops::rows(Isa::available()[0]))?;
        for isa in Isa::available() {
            for count in [1, 2, 3] {
                let threads = Threads::new(count).expect("threads start");
                let other = threads.run(|| op(Ops::rows(isa)))?;
                assert_eq!(bits(&first)?, bits(&other)?, "{} on {count} threads differs", isa.name());
            }
        }
        Ok(first)
    }

    /// Demands that every number of `got` is within `tolerance` of that of `want`. NaN never is.
    pub(super) fn assert_close(got: &Tensor, want: &Tensor, tolerance: f32) {
        assert_eq!(got.dims(), want.dims());
        let numbers = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32 on the CPU");
        for (i, (got, want)) in numbers(got).iter().zip(numbers(want)).enumerate() {
            let close = (got - want).abs() <= tolerance * want.abs().max(1.0);
            assert!(close, "number {i} is {got}, not {want}");
        }
    }
}
