//! BERT-type encoders.

mod config;
mod layers;
mod tensors;

pub use config::BertSpec;
pub(crate) use config::{ARCHITECTURES, AS_IT_IS, read};
pub use layers::BertStage;
pub(crate) use tensors::tensors;
