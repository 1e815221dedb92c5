//! The real models' files, as tests read them.

use crate::real_models::model_dir;
use bytes::Bytes;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use stageline_base::Fault;
use stageline_model::{BertSpec, LlamaSpec, ModelSpec, RawTensor, TensorSource};

/// A model.safetensors in memory.
pub struct Weights {
    bytes: Bytes,
    first: usize,
    metadata: Metadata,
}

impl Weights {
    /// Those of the model called `name`.
    pub fn of(name: &str) -> Self {
        let bytes = std::fs::read(model_dir(name).join("model.safetensors")).expect("the weights");
        let (header, metadata) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        Self { bytes: bytes.into(), first: header + 8, metadata }
    }
}

impl TensorSource for Weights {
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        let found = self.metadata.info(name).ok_or_else(|| Fault::invalid(format!("no tensor {name}")))?;
        let (start, end) = found.data_offsets;
        let bytes = self.bytes.slice(self.first + start..self.first + end);
        Ok(RawTensor { dtype: found.dtype, shape: found.shape.clone(), bytes })
    }
}

/// What SmolLM2-135M-Instruct's config.json says.
pub fn smollm2() -> ModelSpec {
    ModelSpec::from(LlamaSpec {
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
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        head_norms: false,
        sliding: None,
        eos: vec![2],
    })
}

/// What all-MiniLM-L6-v2's config.json says.
pub fn minilm() -> ModelSpec {
    ModelSpec::from(BertSpec {
        layers: 6,
        hidden: 384,
        intermediate: 1536,
        heads: 12,
        vocab: 30522,
        type_vocab: 2,
        max_positions: 512,
        norm_eps: 1e-12,
        length_one: true,
    })
}
