//! A decoder of random numbers: small, and wide enough for its tokens to hang on everything before them.

use bytes::Bytes;
use half::bf16;
use safetensors::Dtype;
use stageline::base::Fault;
use stageline::base::prng::Prng;
use stageline::engine::{DeviceChoice, Numbers, Runner, Setup};
use stageline::model::{KvShape, LlamaSpec, ModelSpec, RawTensor, TensorSource};
use stageline::ops::Threads;

pub const HIDDEN: usize = 64;
pub const VOCAB: usize = 97;
/// Heads of keys and of values, and numbers of each.
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 32;
const MAX_POSITIONS: usize = 2048;

/// A stage on the engine, whose cache is `kv`, no smaller: for 32 sequences of up to 256 tokens, 64 rows at once. The emulated
/// device takes its time for more.
pub fn on_engine(numbers: Numbers, kv: KvShape) -> Setup {
    Setup {
        device: DeviceChoice::Cuda(0),
        runner: Runner::Engine(numbers),
        threads: Threads::new(1).expect("threads start"),
        kv,
        least_blocks: kv.blocks,
        to_come: 0,
        longest: 256,
        max_rows: 64,
        max_seqs: 32,
    }
}

/// See the module.
pub struct Random(LlamaSpec);

impl Random {
    /// Of so many layers.
    pub fn of(layers: usize) -> Self {
        Self(LlamaSpec {
            layers,
            hidden: HIDDEN,
            intermediate: 96,
            heads: 4,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            vocab: VOCAB,
            max_positions: MAX_POSITIONS,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tied: false,
            attention_bias: false,
            mlp_bias: false,
            eos: vec![0],
        })
    }

    /// What it is.
    pub fn spec(&self) -> ModelSpec {
        ModelSpec::Llama(self.0.clone())
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let part = name.rsplit('.').nth(1)?;
        let shape = match part {
            "embed_tokens" | "lm_head" => vec![VOCAB, HIDDEN],
            "q_proj" => vec![128, HIDDEN],
            "k_proj" | "v_proj" => vec![64, HIDDEN],
            "o_proj" => vec![HIDDEN, 128],
            "gate_proj" | "up_proj" => vec![96, HIDDEN],
            "down_proj" => vec![HIDDEN, 96],
            "norm" | "input_layernorm" | "post_attention_layernorm" => vec![HIDDEN],
            _ => return None,
        };
        name.ends_with(".weight").then_some(shape)
    }
}

impl TensorSource for Random {
    fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    fn tensor(&self, name: &str) -> Result<RawTensor, Fault> {
        let shape = self.shape(name).ok_or_else(|| Fault::invalid(format!("no tensor {name}")))?;
        let seed = name.bytes().fold(5u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let mut random = Prng::new(seed);
        // A sum of three: near enough to normal, of spread 1.
        let mut normal = || (0..3).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).sum::<f32>();
        let count: usize = shape.iter().product();
        // What the layers add must outweigh the token's own embedding, or each token would only repeat itself.
        let number = |normal: f32| match shape.as_slice() {
            [_] => 1.0,
            [VOCAB, _] => normal,
            [_, depth] => 2.0 * normal / (*depth as f32).sqrt(),
            _ => f32::NAN,
        };
        let bytes: Vec<u8> = (0..count).flat_map(|_| bf16::from_f32(number(normal())).to_le_bytes()).collect();
        Ok(RawTensor { dtype: Dtype::BF16, shape, bytes: Bytes::from(bytes) })
    }
}
