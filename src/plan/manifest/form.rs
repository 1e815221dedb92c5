//! A manifest as its file says it, in each version that is read.
//!
//! Version 1 numbered the layers of one stack, which the first and the last stage's ends went with. Version 2 names units.

use super::{FileEntry, Manifest, StageEntry};
use crate::goal::Mix;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Error, Value};

/// Of any version, the part that says which.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form1 {
    version: u32,
    name: String,
    config: Value,
    dtype: String,
    balance: String,
    stages: Vec<Stage1>,
    tied: Vec<String>,
    files: Vec<FileEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage1 {
    layers: [usize; 2],
    shard: FileEntry,
    parameters: u64,
    cost: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form2 {
    version: u32,
    name: String,
    config: Value,
    dtype: String,
    balance: String,
    mix: String,
    units: Vec<String>,
    stages: Vec<Stage2>,
    tied: Vec<String>,
    files: Vec<FileEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage2 {
    units: [usize; 2],
    border: Vec<String>,
    shard: FileEntry,
    parameters: u64,
    cost: f64,
}

/// Reads a manifest of any version; of one that is not known only `version` is said (`Err(Ok(version))`).
pub(super) fn read(bytes: &[u8]) -> Result<Manifest, Result<u32, Error>> {
    fn whole<T: DeserializeOwned + Into<Manifest>>(bytes: &[u8]) -> Result<Manifest, Result<u32, Error>> {
        serde_json::from_slice::<T>(bytes).map(Into::into).map_err(Err)
    }
    match serde_json::from_slice::<Versioned>(bytes).map_err(Err)?.version {
        1 => whole::<Form1>(bytes),
        2 => whole::<Form2>(bytes),
        other => Err(Ok(other)),
    }
}

/// The manifest as JSON of its version. Every field is text, a number or a list of such, which always has a JSON form; objects
/// of a `Value` sort their keys.
pub(super) fn write(manifest: &Manifest) -> Value {
    let form = match manifest.version {
        1 => serde_json::to_value(Form1::from(manifest.clone())),
        _ => serde_json::to_value(Form2::from(manifest.clone())),
    };
    form.unwrap_or_default()
}

impl From<Form1> for Manifest {
    fn from(form: Form1) -> Self {
        let Form1 { version, name, config, dtype, balance, stages, tied, files } = form;
        let stage = |Stage1 { layers, shard, parameters, cost }| StageEntry {
            units: layers,
            border: Vec::new(),
            shard,
            parameters,
            cost,
        };
        let stages = stages.into_iter().map(stage).collect();
        Self { version, name, config, dtype, balance, mix: None, units: Vec::new(), stages, tied, files }
    }
}

impl From<Manifest> for Form1 {
    fn from(manifest: Manifest) -> Self {
        let Manifest { version, name, config, dtype, balance, stages, tied, files, .. } = manifest;
        let stage =
            |StageEntry { units, shard, parameters, cost, .. }| Stage1 { layers: units, shard, parameters, cost };
        let stages = stages.into_iter().map(stage).collect();
        Self { version, name, config, dtype, balance, stages, tied, files }
    }
}

impl From<Form2> for Manifest {
    fn from(form: Form2) -> Self {
        let Form2 { version, name, config, dtype, balance, mix, units, stages, tied, files } = form;
        let stage =
            |Stage2 { units, border, shard, parameters, cost }| StageEntry { units, border, shard, parameters, cost };
        let stages = stages.into_iter().map(stage).collect();
        Self { version, name, config, dtype, balance, mix: Some(mix), units, stages, tied, files }
    }
}

impl From<Manifest> for Form2 {
    fn from(manifest: Manifest) -> Self {
        let Manifest { version, name, config, dtype, balance, mix, units, stages, tied, files } = manifest;
        let stage =
            |StageEntry { units, border, shard, parameters, cost }| Stage2 { units, border, shard, parameters, cost };
        let stages = stages.into_iter().map(stage).collect();
        let mix = mix.unwrap_or_else(|| Mix::default().to_string());
        Self { version, name, config, dtype, balance, mix, units, stages, tied, files }
    }
}
