//! What a decode step of a model of 8 thousand million parameters moves, by the kernels' own formulas, which
//! kernels/traffic.rs holds against what the emulated device counts at small shapes.

use stageline::engine::cuda::step_traffic;
use stageline::model::LlamaSpec;

/// The sizes of Llama 3.1 8B.
fn llama_8b() -> LlamaSpec {
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
        attention_bias: false,
        mlp_bias: false,
        eos: vec![128_001],
    }
}

#[test]
fn a_decode_step_moves_little_more_than_weights_and_keys_once() {
    for (rows, most) in [(1, 1.05), (8, 1.05), (32, 1.10)] {
        for length in [128, 2048] {
            let traffic = step_traffic(0, &llama_8b(), 16, &vec![length; rows]).expect("the step is recorded");
            let moved = traffic.step.read_bytes + traffic.step.written_bytes;
            let ratio = moved as f64 / traffic.least_bytes as f64;
            println!("{rows} sequences of {length}: {moved} bytes, {ratio:.4} x what no step can do without");
            assert!((1.0..=most).contains(&ratio), "{rows} sequences of {length}: {ratio}");
        }
    }
}
