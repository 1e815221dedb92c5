//! What a sweep of loads finds.

use serde::{Deserialize, Serialize};

/// Where more load stops being served as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    /// Its rate or concurrency; absent if even the lowest one was too much.
    pub level: Option<f64>,
    /// What "served as it should be" meant.
    pub rule: String,
    /// Whether a higher load was tried and was too much: else the knee may lie higher.
    pub bounded: bool,
}
