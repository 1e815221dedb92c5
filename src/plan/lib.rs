//! Floor 1: how a model is cut into stages. Pure: numbers in, ranges out.

pub mod advice;
pub mod cut;
pub mod estimate;
pub mod goal;
pub mod manifest;
pub mod partition;
pub mod unit;

pub use advice::advice;
pub use cut::{Cut, CutOrder, CutStage, cut, even_by_units};
pub use estimate::{Work, estimate};
pub use goal::{Balance, Goal, Mix};
pub use manifest::{FileEntry, Manifest, StageEntry};
pub use unit::{RowCost, Sight, Unit, UnitCost, Weights, weights};
