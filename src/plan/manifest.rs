//! `pipeline.json`: what a split model is made of.

mod form;

use crate::goal::{Balance, Mix};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stageline_base::limits::MAX_STAGES;
use stageline_base::{Border, Fault, hex};
use std::collections::BTreeSet;

/// The manifest of a pipeline folder. Its digest names the pipeline on the wire, so every replica of a pipeline has the
/// same one, byte for byte.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Version of this format: one of [`Manifest::VERSIONS`].
    pub version: u32,
    /// The pipeline's name: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 characters, as a function's name.
    pub name: String,
    /// The model's config.json, whole.
    pub config: serde_json::Value,
    /// Type of most of the weights as they are kept in memory: `f32`, `f16` or `bf16`. A shard's header says each tensor's.
    pub dtype: String,
    /// How the cut was balanced: `cost` or `params`.
    pub balance: String,
    /// The requests that it was cut for, as [`Mix`] writes them; `None` in version 1, whose costs were those of a decode row.
    pub mix: Option<String>,
    /// The names of the model's units, in order; none in version 1, whose units are the layers.
    pub units: Vec<String>,
    /// The stages, in order.
    pub stages: Vec<StageEntry>,
    /// Tensors that more than one stage holds, since the model ties them.
    pub tied: Vec<String>,
    /// The other files of the folder (tokenizer.json, generation_config.json, …), by name.
    pub files: Vec<FileEntry>,
}

/// One stage of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct StageEntry {
    /// Units `units[0]..units[1]`.
    pub units: [usize; 2],
    /// What crosses the border in front of it, as [`Border::lines`] gives it. Not said in version 1.
    pub border: Vec<String>,
    /// The shard.
    pub shard: FileEntry,
    /// Parameters in the shard, tied ones included.
    pub parameters: u64,
    /// Time for a request of the mix, relative to the other stages' (the measure is the model's whole: the costs sum to 1).
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
    /// The version this program writes.
    pub const VERSION: u32 = 2;
    /// The versions that it reads. What an older one says is said in its form again, so that its digest stays.
    pub const VERSIONS: [u32; 2] = [1, Self::VERSION];
    /// The manifest's file name.
    pub const FILE: &str = "pipeline.json";
    /// Element types of weights that a manifest may name.
    pub const DTYPES: [&str; 3] = ["f32", "f16", "bf16"];

    /// A manifest from the bytes of its file, checked.
    ///
    /// # Errors
    /// `InvalidRequest` that names every field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let manifest = form::read(bytes).map_err(|wrong| match wrong {
            Ok(version) => wrong_fields(&[wrong_version(version)]),
            Err(error) => Fault::invalid(format!("{} is not a manifest: {error}", Self::FILE)),
        })?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The manifest as its file holds it: one field a line, keys in order.
    pub fn to_file(&self) -> Vec<u8> {
        format!("{:#}\n", form::write(self)).into_bytes()
    }

    /// The bytes that the digest is of: JSON without white space, keys in order. They do not depend on how the file was
    /// laid out.
    pub fn canonical(&self) -> Vec<u8> {
        form::write(self).to_string().into_bytes()
    }

    /// SHA-256 of [`Manifest::canonical`]: what names this pipeline on the wire.
    ///
    /// Take it of a manifest that was parsed: a number of config.json may lose its last bit the first time it is read.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.canonical()).into()
    }

    /// The first 8 hexadecimal digits of the digest, as subjects carry them.
    pub fn digest8(&self) -> String {
        hex(&self.digest()[..4])
    }

    /// The number of units.
    pub fn unit_count(&self) -> usize {
        self.stages.last().map_or(0, |stage| stage.units[1])
    }

    /// Checks every field: names, file names without a folder, digests, units that cover the model without gap or overlap,
    /// borders, costs.
    ///
    /// # Errors
    /// `InvalidRequest` that names every field that is wrong.
    pub fn validate(&self) -> Result<(), Fault> {
        let mut problems = Vec::new();
        let mut check = |right: bool, problem: &dyn Fn() -> String| {
            if !right {
                problems.push(problem());
            }
        };
        check(Self::VERSIONS.contains(&self.version), &|| wrong_version(self.version));
        check(is_pipeline_name(&self.name), &|| format!("name {:?}", clip(&self.name)));
        check(Self::DTYPES.contains(&self.dtype.as_str()), &|| format!("dtype {:?}", clip(&self.dtype)));
        check(Balance::parse(&self.balance).is_some(), &|| format!("balance {:?}", clip(&self.balance)));
        check((1..=MAX_STAGES).contains(&self.stages.len()), &|| format!("{} stages", self.stages.len()));
        match &self.mix {
            // In version 1 the units are the layers.
            None => {
                let layers = self.config.get("num_hidden_layers").and_then(serde_json::Value::as_u64);
                check(layers == Some(self.unit_count() as u64), &|| {
                    format!("stages end at layer {}, num_hidden_layers is {layers:?}", self.unit_count())
                });
            }
            Some(mix) => {
                check(Mix::parse(mix).is_some(), &|| format!("mix {:?}", clip(mix)));
                check(self.units.len() == self.unit_count(), &|| {
                    format!("stages end at unit {} of {}", self.unit_count(), self.units.len())
                });
                let names: BTreeSet<&String> = self.units.iter().collect();
                check(names.len() == self.units.len(), &|| "a unit twice".into());
                for (k, stage) in self.stages.iter().enumerate() {
                    check(Border::parse(&stage.border).is_some(), &|| {
                        format!("border {:?} of stage {k}", clip(&stage.border.join("; ")))
                    });
                }
            }
        }
        let mut next = 0;
        for (k, stage) in self.stages.iter().enumerate() {
            let [start, end] = stage.units;
            check(start == next && end > start, &|| {
                format!("stage {k} has units {start}..{end}, expected {next}..more")
            });
            next = end;
            check(stage.parameters > 0, &|| format!("stage {k} has no parameters"));
            check((0.0..=1.0).contains(&stage.cost), &|| format!("stage {k} has cost {}", stage.cost));
            check(stage.shard.file.ends_with(".safetensors"), &|| {
                format!("shard {:?} of stage {k}", clip(&stage.shard.file))
            });
        }
        let costs: f64 = self.stages.iter().map(|stage| stage.cost).sum();
        check((costs - 1.0).abs() < 1e-3, &|| format!("costs sum to {costs}"));
        let mut names = BTreeSet::from([Self::FILE]);
        for entry in self.stages.iter().map(|stage| &stage.shard).chain(&self.files) {
            check(is_file_name(&entry.file), &|| format!("file name {:?}", clip(&entry.file)));
            check(names.insert(&entry.file), &|| format!("file {:?} twice", clip(&entry.file)));
            check(is_sha256(&entry.sha256), &|| format!("sha256 of {:?}", clip(&entry.file)));
        }
        let tied: BTreeSet<&String> = self.tied.iter().collect();
        check(tied.len() == self.tied.len(), &|| "a tied tensor twice".into());
        if problems.is_empty() {
            return Ok(());
        }
        Err(wrong_fields(&problems))
    }
}

fn wrong_fields(problems: &[String]) -> Fault {
    Fault::invalid(format!("{} is wrong: {}", Manifest::FILE, problems.join("; ")))
}

fn wrong_version(version: u32) -> String {
    format!("version {version} (this program reads {} and {})", Manifest::VERSIONS[0], Manifest::VERSIONS[1])
}

/// Whether `name` can name a pipeline: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 characters, as a function's name.
pub fn is_pipeline_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(legal) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether `name` is a plain file name: `[A-Za-z0-9._-]`, at most 128 characters, no leading dot, and so no folder.
pub fn is_file_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=128).contains(&name.len()) && name.chars().all(legal) && !name.starts_with('.')
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The beginning of a text from outside, for a message.
fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests;
