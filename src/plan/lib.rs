//! Floor 1: how a model is cut into stages. Pure: numbers in, ranges out.

pub mod advice;
pub mod cost;
pub mod cut;
pub mod manifest;
pub mod partition;

pub use advice::advice;
pub use cost::{Balance, ModelCost, PartCost};
pub use cut::{Cut, CutOrder, CutStage, cut, even_by_layers};
pub use manifest::{FileEntry, Manifest, StageEntry};
