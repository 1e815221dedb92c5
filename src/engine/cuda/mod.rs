//! What runs on a CUDA device without candle: our kernels (`kernels/*.cu`) and what launches them.

pub mod kernels;
pub mod launch;
