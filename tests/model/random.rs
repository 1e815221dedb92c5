//! Weights of random numbers, drawn as tests/golden/decoders.py draws them: of spreads that make a model's tokens hang on
//! everything before them.

use bytes::Bytes;
use half::bf16;
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use stageline_base::prng::Prng;
use stageline_base::{Fault, hex};
use stageline_model::{ModelSpec, RawTensor, TensorSource};
use std::collections::BTreeMap;

/// The tensors of a decoder, in bf16.
pub struct Random(BTreeMap<String, Vec<usize>>);

impl Random {
    /// Those that `spec` needs.
    pub fn of(spec: &ModelSpec) -> Self {
        Self(spec.tensors().into_iter().map(|need| (need.name, need.shape)).collect())
    }

    /// SHA-256 of all tensors in the order of their names.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        self.0.keys().for_each(|name| hash.update(&self.tensor(name).expect("it is there").bytes));
        hex(&hash.finalize())
    }
}

impl TensorSource for Random {
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        let shape = self.0.get(name).ok_or_else(|| Fault::invalid(format!("no tensor {name}")))?.clone();
        let seed = name.bytes().fold(5u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let mut random = Prng::new(seed);
        // A sum of three: near enough to normal, of spread 1.
        let mut normal = || (0..3).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).fold(0.0, |sum, x| sum + x);
        let is_table = name.contains("embed_tokens") || name.contains("lm_head");
        // What the layers add must outweigh the token's own embedding, or each token would only repeat itself.
        let number = |normal: f32| match shape.as_slice() {
            [_] if name.ends_with(".bias") => 0.25 * normal,
            [_] => 1.0 + 0.25 * normal,
            [_, depth] if !is_table => 2.0 * normal / (*depth as f32).sqrt(),
            _ => normal,
        };
        let count: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|_| bf16::from_f32(number(normal())).to_le_bytes()).collect();
        Ok(RawTensor { dtype: Dtype::BF16, shape, bytes: Bytes::from(bytes) })
    }
}
