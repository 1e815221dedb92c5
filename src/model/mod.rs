//! Floor 2: model families as ranges of layers.

pub mod checkpoint;
pub mod spec;
pub mod split;
pub mod tensors;

pub use checkpoint::Checkpoint;
pub use spec::{BertSpec, LayerRange, LlamaSpec, ModelSpec};
pub use tensors::{Part, TensorNeed};
