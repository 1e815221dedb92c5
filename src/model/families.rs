//! The families of models, each in a folder of its own.

pub mod bert;
mod inert;
pub mod llama;

use std::ops::Range;

/// Layers `start..end` of a model. A range that starts at 0 also embeds; one that ends at the last layer also holds the
/// head (decoder: final norm and logits; encoder: pooling).
pub type LayerRange = Range<usize>;
