//! `pipeline.json`: what a split model is made of.

use crate::cost::Balance;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stageline_base::limits::MAX_STAGES;
use stageline_base::{Fault, hex};
use std::collections::BTreeSet;

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
    /// Type of most of the weights as they are kept in memory: `f32`, `f16` or `bf16`. A shard's header says each tensor's.
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
    /// Element types of weights that a manifest may name.
    pub const DTYPES: [&str; 3] = ["f32", "f16", "bf16"];

    /// A manifest from the bytes of its file, checked.
    ///
    /// # Errors
    /// `InvalidRequest` that names every field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| Fault::invalid(format!("{} is not a manifest: {error}", Self::FILE)))?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The manifest as its file holds it: one field a line, keys in order.
    pub fn to_file(&self) -> Vec<u8> {
        format!("{:#}\n", self.as_json()).into_bytes()
    }

    /// The bytes that the digest is of: JSON without white space, keys in order. They do not depend on how the file was
    /// laid out.
    pub fn canonical(&self) -> Vec<u8> {
        self.as_json().to_string().into_bytes()
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

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.stages.last().map_or(0, |stage| stage.layers[1])
    }

    /// Checks every field: names, file names without a folder, digests, layers that cover the model without gap or overlap,
    /// costs.
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
        check(self.version == Self::VERSION, &|| {
            format!("version {} (this program reads {})", self.version, Self::VERSION)
        });
        check(is_pipeline_name(&self.name), &|| format!("name {:?}", clip(&self.name)));
        check(Self::DTYPES.contains(&self.dtype.as_str()), &|| format!("dtype {:?}", clip(&self.dtype)));
        check(Balance::parse(&self.balance).is_some(), &|| format!("balance {:?}", clip(&self.balance)));
        check((1..=MAX_STAGES).contains(&self.stages.len()), &|| format!("{} stages", self.stages.len()));
        let layers = self.config.get("num_hidden_layers").and_then(serde_json::Value::as_u64);
        check(layers == Some(self.layers() as u64), &|| {
            format!("stages end at layer {}, num_hidden_layers is {layers:?}", self.layers())
        });
        let mut next = 0;
        for (k, stage) in self.stages.iter().enumerate() {
            let [start, end] = stage.layers;
            check(start == next && end > start, &|| {
                format!("stage {k} has layers {start}..{end}, expected {next}..more")
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
        Err(Fault::invalid(format!("{} is wrong: {}", Self::FILE, problems.join("; "))))
    }

    fn as_json(&self) -> serde_json::Value {
        // Every field is text, a number or a list of such, which always has a JSON form; objects of a Value sort their keys.
        serde_json::to_value(self).unwrap_or_default()
    }
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
mod tests {
    use super::*;

    fn file(name: &str) -> FileEntry {
        FileEntry { file: name.into(), bytes: 3, sha256: "0123456789abcdef".repeat(4) }
    }

    fn manifest() -> Manifest {
        let stage = |k: usize, layers, cost| StageEntry {
            layers,
            shard: file(&format!("stage-{k}.safetensors")),
            parameters: 7,
            cost,
        };
        Manifest {
            version: 1,
            name: "smollm2-135m".into(),
            config: serde_json::json!({"num_hidden_layers": 5, "b": 1, "a": {"d": 1.5e-5, "c": 2}}),
            dtype: "bf16".into(),
            balance: "cost".into(),
            stages: vec![stage(0, [0, 3], 0.6), stage(1, [3, 5], 0.4)],
            tied: vec!["model.embed_tokens.weight".into()],
            files: vec![file("tokenizer.json")],
        }
    }

    #[test]
    fn the_digest_depends_on_what_is_said_and_not_on_the_layout() {
        let manifest = manifest();
        manifest.validate().unwrap();
        let parsed = Manifest::parse(&manifest.to_file()).unwrap();
        assert_eq!(parsed, manifest);
        assert_eq!(parsed.digest(), Manifest::parse(&manifest.canonical()).unwrap().digest());
        let reordered = String::from_utf8(manifest.canonical())
            .unwrap()
            .replace(r#""config":{"a":{"c":2,"d":0.000015},"b":1,"#, r#""config": {"b":1, "a":{"d":15e-6,"c":2},"#);
        assert_ne!(reordered.as_bytes(), manifest.canonical());
        assert_eq!(Manifest::parse(reordered.as_bytes()).unwrap().digest(), manifest.digest());
        let mut other = manifest.clone();
        other.stages[1].shard.sha256.replace_range(0..1, "f");
        assert_ne!(other.digest(), manifest.digest());
        assert_eq!(manifest.digest8().len(), 8);
        assert!(manifest.digest8().chars().all(|c| c.is_ascii_hexdigit()));
    }

    #[test]
    fn every_wrong_field_is_named() {
        type Break = fn(&mut Manifest);
        let breaks: [(Break, &str); 20] = [
            (|m| m.version = 2, "version 2"),
            (|m| m.name = "Big".into(), "name \"Big\""),
            (|m| m.name = "-a".into(), "name \"-a\""),
            (|m| m.name = String::new(), "name \"\""),
            (|m| m.dtype = "i8".into(), "dtype \"i8\""),
            (|m| m.balance = "luck".into(), "balance \"luck\""),
            (|m| m.stages.clear(), "0 stages"),
            (|m| m.config["num_hidden_layers"] = 6.into(), "num_hidden_layers is Some(6)"),
            (|m| m.config = serde_json::json!([]), "num_hidden_layers is None"),
            (|m| m.stages[1].layers = [2, 5], "stage 1 has layers 2..5, expected 3..more"),
            (|m| m.stages[0].layers = [0, 0], "stage 0 has layers 0..0"),
            (|m| m.stages[0].parameters = 0, "stage 0 has no parameters"),
            (|m| m.stages[0].cost = f64::NAN, "stage 0 has cost NaN"),
            (|m| m.stages[0].cost = 0.1, "costs sum to 0.5"),
            (|m| m.stages[0].shard.file = "../x.safetensors".into(), "file name \"../x.safetensors\""),
            (|m| m.stages[0].shard.file = "x.bin".into(), "shard \"x.bin\" of stage 0"),
            (|m| m.files[0].file = "pipeline.json".into(), "file \"pipeline.json\" twice"),
            (|m| m.files[0].file = "/etc/passwd".into(), "file name \"/etc/passwd\""),
            (|m| m.files[0].sha256 = "A".repeat(64), "sha256 of \"tokenizer.json\""),
            (|m| m.tied.push(m.tied[0].clone()), "a tied tensor twice"),
        ];
        for (wrong, said) in breaks {
            let mut manifest = manifest();
            wrong(&mut manifest);
            let fault = manifest.validate().unwrap_err();
            assert!(fault.message.contains(said), "{said}: {fault}");
        }
        let mut two = manifest();
        two.version = 9;
        two.dtype = "x".into();
        assert_eq!(
            two.validate().unwrap_err().message,
            "pipeline.json is wrong: version 9 (this program reads 1); dtype \"x\""
        );
        let unknown = String::from_utf8(manifest().to_file()).unwrap().replace("\"tied\"", "\"glued\"");
        assert!(Manifest::parse(unknown.as_bytes()).unwrap_err().message.contains("glued"));
    }
}
