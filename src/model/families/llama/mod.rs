//! Llama-type decoders: Llama, Mistral, Qwen2, Qwen3.

mod config;
mod layers;
mod relatives;
mod rope;
mod spec;
mod tensors;

pub(crate) use config::read;
pub use layers::LlamaStage;
pub(crate) use relatives::Relative;
pub use spec::{LlamaSpec, RopeScaling, Sliding};
pub(crate) use tensors::tensors;
pub use tensors::{EMBEDDING, HEAD, LlamaLayerNeeds, NORM};
