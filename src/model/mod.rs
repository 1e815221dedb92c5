//! Floor 2: model families as ranges of layers.

pub mod spec;

pub use spec::{BertSpec, LayerRange, LlamaSpec, ModelSpec};
