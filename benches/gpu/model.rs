//! Models without a meaning: the sizes of real ones, and noise for weights.

use crate::device::noise;
use safetensors::Dtype;
use serde_json::{Value, json};
use stageline_base::Fault;
use stageline_model::{LlamaSpec, ModelSpec, RawTensor, TensorSource};
use stageline_shard::TensorShape;
use std::collections::BTreeMap;

/// Numbers of noise that all weights are cut from.
const NOISE: usize = 4 << 20;

/// A model's name and sizes.
pub struct Model {
    pub name: &'static str,
    pub llama: LlamaSpec,
    pub spec: ModelSpec,
}

impl Model {
    pub fn new(name: &'static str, llama: LlamaSpec) -> Self {
        Self { name, spec: ModelSpec::from(llama.clone()), llama }
    }

    /// Every tensor by name, once, in the order of use.
    pub fn tensors(&self) -> Vec<(String, TensorShape)> {
        let needs = self.spec.stage_tensors(&(0..self.llama.layers)).into_iter();
        needs.map(|need| (need.name, TensorShape { dtype: Dtype::BF16, shape: need.shape })).collect()
    }

    /// Numbers of all weights.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.elements().unwrap_or(0)).sum()
    }

    /// Columns and depth of the products of a layer.
    pub fn products(&self) -> [(&'static str, usize, usize); 4] {
        let LlamaSpec { hidden, intermediate, heads, kv_heads, head_dim, .. } = self.llama;
        [
            ("qkv", (heads + 2 * kv_heads) * head_dim, hidden),
            ("out", hidden, heads * head_dim),
            ("gate_up", 2 * intermediate, hidden),
            ("down", hidden, intermediate),
        ]
    }

    /// Multiplications and additions of a prompt of `rows` rows whose last one goes to the head.
    pub fn prefill_flops(&self, rows: usize) -> f64 {
        let LlamaSpec { layers, hidden, heads, head_dim, vocab, .. } = self.llama;
        let linear: usize = self.products().iter().map(|(_, columns, depth)| columns * depth).sum();
        let layer = 2.0 * (rows * linear) as f64 + attention_flops(heads, head_dim, rows);
        layers as f64 * layer + 2.0 * (hidden * vocab) as f64
    }

    /// Its config.json.
    pub fn config(&self) -> Value {
        let llama = &self.llama;
        json!({
            "model_type": "llama",
            "num_hidden_layers": llama.layers,
            "hidden_size": llama.hidden,
            "intermediate_size": llama.intermediate,
            "num_attention_heads": llama.heads,
            "num_key_value_heads": llama.kv_heads,
            "head_dim": llama.head_dim,
            "vocab_size": llama.vocab,
            "max_position_embeddings": llama.max_positions,
            "rms_norm_eps": 1e-5,
            "rope_theta": llama.rope_theta,
            "tie_word_embeddings": llama.tied,
            "eos_token_id": llama.eos,
        })
    }
}

/// Multiplications and additions of the attention of `rows` rows to themselves and to what is before each: with the key and
/// with the value of each position, one of both a number of the head.
pub fn attention_flops(heads: usize, head_dim: usize, rows: usize) -> f64 {
    let seen = rows as f64 * (rows as f64 + 1.0) / 2.0;
    4.0 * (heads * head_dim) as f64 * seen
}

/// Weights of a model, made up as they are read.
pub struct Noise {
    shapes: BTreeMap<String, TensorShape>,
    bytes: Vec<u8>,
}

impl Noise {
    pub fn of(model: &Model) -> Self {
        let bytes = noise(NOISE.min(model.parameters() as usize));
        Self { shapes: model.tensors().into_iter().collect(), bytes }
    }
}

impl TensorSource for Noise {
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        let TensorShape { dtype, shape } = self.stored(name)?;
        let mut bytes = vec![0; shape.iter().product::<usize>() * 2];
        self.read(name, 0, &mut bytes)?;
        Ok(RawTensor { dtype, shape, bytes: bytes.into() })
    }

    fn stored(&self, name: &str) -> Result<TensorShape, Fault> {
        let missing = || Fault::internal(format!("the model has no tensor {name}"));
        self.shapes.get(name).cloned().ok_or_else(missing)
    }

    /// Each tensor begins elsewhere in the noise, so that no two are alike.
    fn read(&self, name: &str, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        let begin = name.bytes().fold(0usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let mut from = (begin.wrapping_mul(2) % self.bytes.len() + at) % self.bytes.len();
        let mut rest = out;
        while !rest.is_empty() {
            let count = rest.len().min(self.bytes.len() - from);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&self.bytes[from..from + count]);
            (from, rest) = (0, later);
        }
        Ok(())
    }
}
