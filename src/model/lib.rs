//! Floor 2: model families as ranges of layers.

pub mod checkpoint;
pub mod families;
pub mod kv_cache;
pub mod load;
mod naming;
mod sentence;
mod settings;
mod sources;
pub mod spec;
pub mod split;
pub mod stage_model;
pub mod step;
pub mod tensors;
pub mod units;

pub use checkpoint::Checkpoint;
pub use families::LayerRange;
pub use families::bert::BertSpec;
pub use families::llama::LlamaSpec;
pub use kv_cache::{KvCache, KvShape};
pub use load::{RawTensor, TensorSource};
pub use spec::ModelSpec;
pub use stage_model::{Given, Made, StageModel};
pub use step::{Step, held_blocks};
pub use tensors::{LinearNeed, TensorNames, TensorNeed, Use};
pub use units::UnitSpec;
