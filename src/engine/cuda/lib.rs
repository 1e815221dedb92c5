//! The decode engine: what runs a decoder on a CUDA device without candle.
//!
//! From the bottom: `device` (a context and its stream), `arena` (memory, taken once), `kernels`
//! (our kernels; `functions` and `launch`: what launches them), `gemm` (cuBLASLt), `shared` (all of these, which the stages of a device have in common); `weights` (a shard in
//! device memory), `work` (the KV cache and room for a step), `step` (a microbatch as the kernels read it), `buffers` (its way up and
//! down), `decoder` (the layers as launches), `recording` and `graphs` (recorded steps), `executor` (the engine as everyone else sees it), `traffic`
//! (what a step must move).

mod arena;
mod buffers;
mod checker;
mod decoder;
mod device;
mod executor;
mod gemm;
mod graphs;
pub mod kernels;
mod recording;
mod shared;
mod step;
mod traffic;
mod weights;
mod work;

pub use device::Gpu;
pub use executor::load;
pub use gemm::{Gemm, Product};
pub use kernels::launch;
pub use recording::record;
pub use traffic::{StepTraffic, prefill_traffic, step_traffic};

/// The PTX of `kernels/mma.cu`, which only tests launch.
pub const MMA_PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels/mma.ptx"));
