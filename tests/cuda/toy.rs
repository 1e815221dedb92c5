//! A Llama of random weights: small, and wide enough for its tokens to hang on everything before them.

use stageline_engine::{DeviceChoice, Numbers, Runner, Setup};
use stageline_model::{KvShape, LlamaSpec, ModelSpec};
use stageline_ops::Threads;

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
        share: 1.0,
        max_model_len: 256,
        max_rows: 64,
        max_seqs: 32,
    }
}

/// Of so many layers.
pub fn toy(layers: usize) -> ModelSpec {
    ModelSpec::from(LlamaSpec {
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
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        head_norms: false,
        sliding: None,
        eos: vec![0],
    })
}
