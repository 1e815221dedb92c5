//! Floor 1: how a model is cut into stages. Pure: numbers in, ranges out.

pub mod manifest;

pub use manifest::{Manifest, StageEntry};
