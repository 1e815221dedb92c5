//! Floor 2: model families as ranges of layers.

pub mod bert;
pub mod checkpoint;
pub mod kv_cache;
pub mod llama;
pub mod load;
mod naming;
mod sources;
pub mod spec;
pub mod split;
pub mod stage_model;
pub mod step;
pub mod tensors;

pub use checkpoint::Checkpoint;
pub use kv_cache::{KvCache, KvShape};
pub use load::{RawTensor, TensorSource};
pub use spec::{BertSpec, LayerRange, LlamaSpec, ModelSpec};
pub use stage_model::{Made, StageModel};
pub use step::{Step, held_blocks};
pub use tensors::{LinearNeed, Part, TensorNeed};
