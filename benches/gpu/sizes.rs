//! The sizes of real models.

use stageline_model::LlamaSpec;

/// The sizes of Llama 3.2 1B, for contexts of up to 8192 positions.
pub fn llama_1b() -> LlamaSpec {
    LlamaSpec { layers: 16, hidden: 2048, intermediate: 8192, head_dim: 64, tied: true, ..llama_8b() }
}

/// The sizes of Llama 3.1 8B, for contexts of up to 8192 positions.
pub fn llama_8b() -> LlamaSpec {
    LlamaSpec {
        layers: 32,
        hidden: 4096,
        intermediate: 14336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
        max_positions: 8192,
        norm_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: None,
        tied: false,
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        head_norms: false,
        sliding: None,
        eos: vec![128_001],
    }
}
