//! `pipeline.json`: what a split model is made of.

use serde::{Deserialize, Serialize};

/// The manifest of a pipeline folder. Its digest names the pipeline on the wire, so every replica of a pipeline has the
/// same one, byte for byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: [`Manifest::VERSION`].
    pub version: u32,
    /// The pipeline's name: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 characters, as a function's name.
    pub name: String,
    /// The model's config.json, whole.
    pub config: serde_json::Value,
    /// Type of the weights as they are stored and kept in memory: `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// How the cut was balanced: `cost` or `params`.
    pub balance: String,
    /// The stages, in order.
    pub stages: Vec<StageEntry>,
    /// Tensors that more than one stage holds, since the model ties them.
    pub tied: Vec<String>,
    /// The other files of the folder (tokenizer.json, generation_config.json, …), by name.
    pub files: Vec<FileEntry>,
}

/// One stage of a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageEntry {
    /// Layers `layers[0]..layers[1]`. The first stage also embeds; the last also holds the head.
    pub layers: [usize; 2],
    /// The shard.
    pub shard: FileEntry,
    /// Parameters in the shard, tied ones included.
    pub parameters: u64,
    /// Time for one decode row, relative to the other stages' (the unit is the model's whole: the costs sum to 1).
    pub cost: f64,
}

/// A file of the pipeline folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name; no folder.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// The version this program writes and reads.
    pub const VERSION: u32 = 1;
    /// The manifest's file name.
    pub const FILE: &str = "pipeline.json";
}
