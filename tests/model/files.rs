//! The real models' files, as tests read them.

use bytes::Bytes;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use stageline::base::Fault;
use stageline::model::{BertSpec, LlamaSpec, ModelSpec, RawTensor, TensorSource};
use std::path::PathBuf;

/// A model.safetensors in memory.
pub struct Weights {
    bytes: Bytes,
    first: usize,
    metadata: Metadata,
}

impl Weights {
    /// Those of the model called `name`.
    pub fn of(name: &str) -> Self {
        let path = models_dir().join(name).join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap_or_else(|e| {
            panic!("{}: {e}. These tests need real models: run scripts/test, which fetches them.", path.display())
        });
        let (header, metadata) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        Self { bytes: bytes.into(), first: header + 8, metadata }
    }
}

impl TensorSource for Weights {
    fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        let found = self.metadata.info(name).ok_or_else(|| Fault::invalid(format!("no tensor {name}")))?;
        let (start, end) = found.data_offsets;
        let bytes = self.bytes.slice(self.first + start..self.first + end);
        Ok(RawTensor { dtype: found.dtype, shape: found.shape.clone(), bytes })
    }
}

/// `STAGELINE_MODELS`, or `~/.cache/stageline/models`.
fn models_dir() -> PathBuf {
    std::env::var_os("STAGELINE_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME or STAGELINE_MODELS is set");
        PathBuf::from(home).join(".cache/stageline/models")
    })
}

/// The reference implementation's results for the model called `name`.
pub fn golden(name: &str) -> serde_json::Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).expect("the golden file")).expect("JSON")
}

/// A JSON array of numbers.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().expect("an array").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

pub const SMOLLM2: &str = "smollm2-135m-instruct";
pub const MINILM: &str = "all-minilm-l6-v2";

/// What SmolLM2-135M-Instruct's config.json says.
pub fn smollm2() -> ModelSpec {
    ModelSpec::Llama(LlamaSpec {
        layers: 30,
        hidden: 576,
        intermediate: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49152,
        max_positions: 8192,
        norm_eps: 1e-5,
        rope_theta: 100_000.0,
        rope_scaling: None,
        tied: true,
        attention_bias: false,
        mlp_bias: false,
        eos: vec![2],
    })
}

/// What all-MiniLM-L6-v2's config.json says.
pub fn minilm() -> ModelSpec {
    ModelSpec::Bert(BertSpec {
        layers: 6,
        hidden: 384,
        intermediate: 1536,
        heads: 12,
        vocab: 30522,
        type_vocab: 2,
        max_positions: 512,
        norm_eps: 1e-12,
    })
}
