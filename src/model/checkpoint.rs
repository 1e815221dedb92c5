//! A model folder whose configuration and weights have been checked against each other.

use crate::naming::Naming;
use crate::sentence::own_dir;
use crate::spec::ModelSpec;
use crate::tensors::{TensorNeed, Use};
use crate::units::UnitSpec;
use safetensors::Dtype;
use serde_json::Value;
use stageline_base::Fault;
use stageline_plan::{Unit, Weights, Work, estimate};
use stageline_shard::{ModelFolder, TensorBytes, TensorShape};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A model folder: what it asks for, and the tensors to do it with, all there in the right shapes.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder of the weights and the tokenizer.
    pub dir: PathBuf,
    /// What config.json asks for.
    pub spec: ModelSpec,
    /// config.json, whole.
    pub config: Value,
    /// Element type of most of the weights, as they are kept in memory. Single tensors may have another.
    pub dtype: Dtype,
    /// Tensors of the folder that the model does not need, by their names in it.
    pub left_out: Vec<String>,
    /// Tensors that both ends of the model need, since it ties them.
    pub tied: Vec<String>,
    folder: ModelFolder,
    /// Names in the folder, by the model's own.
    sources: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder and checks it: every tensor that the model needs is there under one of its names, in its
    /// shape and of a float type, and every other one is known to play no part.
    ///
    /// # Errors
    /// `InvalidRequest` that names what is wrong.
    pub fn open(dir: &Path) -> Result<Self, Fault> {
        let (spec, config) = ModelSpec::from_dir(dir)?;
        let dir = own_dir(dir)?;
        let folder = ModelFolder::open(&dir)?;
        let needs = spec.tensors();
        let tied = spec.tied();
        let at = |problem: String| Fault::invalid(format!("{}: {problem}", dir.display()));
        let Naming { sources, left_out, doubles } = Naming::of(&spec, &needs, &folder).map_err(at)?;
        for (double, source) in &doubles {
            if !folder.same(double, source)? {
                return Err(at(two_values(double, source, !tied.is_empty())));
            }
        }
        let dtype = most_common(&folder, sources.values());
        Ok(Self { dir, spec, config, dtype, left_out, tied, folder, sources })
    }

    /// The dtype's name in manifests.
    pub fn dtype_name(&self) -> &'static str {
        match self.dtype {
            Dtype::F16 => "f16",
            Dtype::BF16 => "bf16",
            _ => "f32",
        }
    }

    /// The folder's tensors.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// The name in the folder of the tensor that the model calls `name`; `name` itself if the model needs no such tensor.
    pub fn source_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.sources.get(name).map_or(name, String::as_str)
    }

    /// What the model calls the folder's tensor `source`; `None` if it does not need it.
    pub fn model_name(&self, source: &str) -> Option<&str> {
        self.sources.iter().find(|(_, name)| *name == source).map(|(name, _)| name.as_str())
    }

    /// Reads the tensor that the model calls `name`.
    ///
    /// # Errors
    /// `InvalidRequest` if the model has no such tensor or it cannot be read.
    pub fn tensor(&self, name: &str) -> Result<TensorBytes, Fault> {
        self.folder.tensor(self.source_name(name))
    }

    /// The model's units: what they weigh, and what they cost by estimate (see [`stageline_plan::estimate()`]).
    pub fn units(&self) -> Vec<Unit> {
        let needs = self.spec.tensors();
        let unit = |(number, unit): (usize, UnitSpec)| {
            let (mut all, mut seen) = (Weights::default(), BTreeSet::new());
            let mut tied = Vec::new();
            let mut work = Work {
                position_flops: unit.position_flops,
                position_bytes: unit.kv_bytes_per_token,
                sight: unit.sight,
                ..Work::default()
            };
            for need in needs.iter().filter(|need| need.unit == number) {
                let weights = self.weights(need);
                match need.used {
                    Use::LookedUp => {}
                    Use::EveryRow => work.every_row = work.every_row + weights,
                    Use::EmittingRows => work.emitting = work.emitting + weights,
                }
                if seen.insert(&need.name) {
                    all = all + weights;
                    tied.extend(self.tied.contains(&need.name).then(|| (need.name.clone(), weights)));
                }
            }
            Unit {
                name: unit.name,
                border: self.spec.border(number),
                weights: all,
                tied,
                kv_bytes_per_token: unit.kv_bytes_per_token,
                cost: estimate(&work),
            }
        };
        self.spec.units().into_iter().enumerate().map(unit).collect()
    }

    fn weights(&self, need: &TensorNeed) -> Weights {
        let stored = self.folder.entry(self.source_name(&need.name)).map_or(self.dtype, |entry| entry.shape.dtype);
        let tensor = TensorShape { dtype: kept(stored), shape: need.shape.clone() };
        Weights { parameters: tensor.elements().unwrap_or(u64::MAX), bytes: tensor.bytes().unwrap_or(u64::MAX) }
    }
}

/// The type in which what is stored as `dtype` is kept in memory.
fn kept(dtype: Dtype) -> Dtype {
    if dtype == Dtype::F64 { Dtype::F32 } else { dtype }
}

/// The type of most numbers of the tensors `names`.
fn most_common<'a>(folder: &ModelFolder, names: impl Iterator<Item = &'a String>) -> Dtype {
    let mut counts = BTreeMap::new();
    for shape in names.filter_map(|name| folder.entry(name)).map(|entry| &entry.shape) {
        *counts.entry(kept(shape.dtype)).or_insert(0_u64) += shape.elements().unwrap_or(0);
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(Dtype::F32, |(dtype, _)| dtype)
}

/// Two names of one tensor, two values: whichever was taken, releases of the reference would take the other.
fn two_values(double: &str, source: &str, tied: bool) -> String {
    let (why, hint) = if tied {
        ("tie_word_embeddings = true, but ", ": if they are two matrices, config.json must say false")
    } else {
        ("", ": they are names of one tensor")
    };
    format!("{why}{double} is there and differs from {source}{hint}")
}
