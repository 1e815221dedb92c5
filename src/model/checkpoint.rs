//! A model folder whose configuration and weights have been checked against each other.

use crate::base::Fault;
use crate::model::spec::ModelSpec;
use crate::model::tensors::{LLAMA_EMBEDDING, LLAMA_HEAD, Part, TensorNeed};
use crate::plan::{ModelCost, PartCost};
use crate::shard::{ModelFolder, TensorBytes, TensorEntry, TensorShape};
use safetensors::Dtype;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most problems named in one message.
const MAX_NAMED: usize = 8;

/// A model folder: what it asks for, and the tensors to do it with, all there in the right shapes and of one type.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// What config.json asks for.
    pub spec: ModelSpec,
    /// config.json, whole.
    pub config: Value,
    /// Element type of every weight.
    pub dtype: Dtype,
    /// Tensors of the folder that the model does not need, by their names in it.
    pub left_out: Vec<String>,
    /// Tensors that both ends of the model need, since it ties them.
    pub tied: Vec<String>,
    folder: ModelFolder,
    /// What stands in front of the needed names in the folder.
    prefix: &'static str,
}

impl Checkpoint {
    /// Opens a Hugging Face folder and checks it: every tensor that the model needs is there, in its shape and of one
    /// type (F32, F16 or BF16), and every other one is known to play no part.
    ///
    /// # Errors
    /// `InvalidRequest` that names what is wrong.
    pub fn open(dir: &Path) -> Result<Self, Fault> {
        let (spec, config) = ModelSpec::from_dir(dir)?;
        let folder = ModelFolder::open(dir)?;
        let bare = |name: &str| !name.starts_with("bert.");
        let prefix = match &spec {
            ModelSpec::Bert(_) if folder.tensors().any(|(name, _)| !bare(name)) => "bert.",
            _ => "",
        };
        let needs = spec.tensors();
        let tied = match &spec {
            ModelSpec::Llama(llama) if llama.tied => vec![LLAMA_EMBEDDING.to_owned()],
            _ => vec![],
        };
        let at = |problem: String| Fault::invalid(format!("{}: {problem}", dir.display()));
        let left_out = match_tensors(&spec, &needs, &folder, prefix).map_err(at)?;
        let dtype = one_dtype(&needs, &folder, prefix).map_err(at)?;
        let checkpoint = Self { dir: dir.into(), spec, config, dtype, left_out, tied, folder, prefix };
        checkpoint.check_tied_head()?;
        Ok(checkpoint)
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

    /// The name in the folder of the tensor that the model calls `name`.
    pub fn source_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Reads the tensor that the model calls `name`.
    ///
    /// # Errors
    /// `InvalidRequest` if the model has no such tensor or it cannot be read.
    pub fn tensor(&self, name: &str) -> Result<TensorBytes, Fault> {
        self.folder.tensor(&self.source_name(name))
    }

    /// What the parts of the model weigh and cost.
    pub fn cost(&self) -> ModelCost {
        let (mut embedding, mut head, mut tied) = (PartCost::default(), PartCost::default(), PartCost::default());
        let mut layers = vec![PartCost::default(); self.spec.layers()];
        for need in self.spec.tensors() {
            let part = self.tensor_cost(&need);
            let sum = match need.part {
                Part::Embedding => &mut embedding,
                Part::Layer(layer) => &mut layers[layer],
                Part::Head => &mut head,
            };
            *sum = *sum + part;
            if need.part == Part::Head && self.tied.contains(&need.name) {
                tied = tied + PartCost { row_bytes: 0, ..part };
            }
        }
        for layer in &mut layers {
            layer.kv_bytes_per_token = self.spec.kv_bytes_per_token();
        }
        ModelCost { embedding, layers, head, tied }
    }

    fn tensor_cost(&self, need: &TensorNeed) -> PartCost {
        let tensor = TensorShape { dtype: self.dtype, shape: need.shape.clone() };
        let parameters = tensor.elements().unwrap_or(u64::MAX);
        let weight_bytes = tensor.bytes().unwrap_or(u64::MAX);
        let rows = need.shape.first().map_or(1, |&rows| rows.max(1) as u64);
        let row_bytes = if need.looked_up { weight_bytes / rows } else { weight_bytes };
        PartCost { parameters, weight_bytes, row_bytes, kv_bytes_per_token: 0 }
    }

    /// A head that config.json ties away must equal the embedding: otherwise one of the two statements is wrong.
    fn check_tied_head(&self) -> Result<(), Fault> {
        if !self.left_out.iter().any(|name| name == LLAMA_HEAD) {
            return Ok(());
        }
        let digest = |name: &str| -> Result<[u8; 32], Fault> {
            let mut sha = Sha256::new();
            self.folder.stream(name, |block| {
                sha.update(block);
                Ok(())
            })?;
            Ok(sha.finalize().into())
        };
        if digest(LLAMA_HEAD)? == digest(LLAMA_EMBEDDING)? {
            return Ok(());
        }
        Err(Fault::invalid(format!(
            "{}: tie_word_embeddings = true, but {LLAMA_HEAD} is there and differs from {LLAMA_EMBEDDING}",
            self.dir.display()
        )))
    }
}

/// Checks names and shapes; returns the tensors to leave out.
fn match_tensors(
    spec: &ModelSpec,
    needs: &[TensorNeed],
    folder: &ModelFolder,
    prefix: &str,
) -> Result<Vec<String>, String> {
    let (mut problems, mut left_out) = (Vec::new(), Vec::new());
    let mut needed = BTreeSet::new();
    for need in needs {
        let source = format!("{prefix}{}", need.name);
        match folder.entry(&source) {
            None => problems.push(format!("tensor {source} is missing")),
            Some(TensorEntry { shape, .. }) if shape.shape != need.shape => {
                problems.push(format!("tensor {source} is {shape}, config.json asks for {:?}", need.shape));
            }
            Some(_) => {}
        }
        needed.insert(source);
    }
    for (name, _) in folder.tensors().filter(|(name, _)| !needed.contains(*name)) {
        if spec.leaves_out(name.strip_prefix(prefix).unwrap_or(name)) {
            left_out.push(name.to_owned());
        } else {
            problems.push(format!("tensor {name} is not known, and so not ignored"));
        }
    }
    if problems.is_empty() { Ok(left_out) } else { Err(named(&problems)) }
}

/// The element type of all needed tensors, if it is one and supported.
fn one_dtype(needs: &[TensorNeed], folder: &ModelFolder, prefix: &str) -> Result<Dtype, String> {
    let mut found: Option<(Dtype, String)> = None;
    for need in needs {
        let source = format!("{prefix}{}", need.name);
        let Some(dtype) = folder.entry(&source).map(|entry| entry.shape.dtype) else { continue };
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(format!("tensor {source} is {dtype:?}; weights can be F32, F16 or BF16"));
        }
        match &found {
            Some((first, name)) if *first != dtype => {
                return Err(format!(
                    "tensor {name} is {first:?} and {source} is {dtype:?}; all weights must be of one type"
                ));
            }
            Some(_) => {}
            None => found = Some((dtype, source)),
        }
    }
    found.map(|(dtype, _)| dtype).ok_or_else(|| "the model has no tensors".into())
}

fn named(problems: &[String]) -> String {
    let first = problems[..problems.len().min(MAX_NAMED)].join("; ");
    match problems.len().saturating_sub(MAX_NAMED) {
        0 => first,
        more => format!("{first}; and {more} more"),
    }
}
