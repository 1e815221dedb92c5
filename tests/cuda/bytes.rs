//! What a step of a model of 8 thousand million parameters moves, by the kernels' own formulas, which
//! kernels/traffic.rs holds against what the emulated device counts at small shapes.

use crate::sizes::llama_8b;
use stageline_cuda::{StepTraffic, prefill_traffic, step_traffic};

fn assert_moves(what: &str, traffic: &StepTraffic, most: f64) {
    let moved = traffic.step.read_bytes + traffic.step.written_bytes;
    let ratio = moved as f64 / traffic.least_bytes as f64;
    println!("{what}: {moved} bytes, {ratio:.4} x what none can do without");
    assert!((1.0..=most).contains(&ratio), "{what}: {ratio}");
}

#[test]
fn a_prefill_moves_what_its_rows_need_beside_the_weights() {
    // A row's own share, layer by layer: its residual stream is read and written twice, and what a kernel leaves the next
    // one reads. It is no part of the floor, so the ratio rises with the rows; 8192 bytes a layer are its hidden numbers.
    for (before, rows, most) in [(0, 64, 1.1), (0, 512, 1.5), (2048, 512, 1.5), (0, 2048, 3.0)] {
        let traffic = prefill_traffic(0, &llama_8b(), 16, (before, rows)).expect("the step is recorded");
        assert_moves(&format!("a prefill of {rows} rows behind {before}"), &traffic, most);
    }
}

#[test]
fn a_decode_step_moves_little_more_than_weights_and_keys_once() {
    for (rows, most, longest) in [(1, 1.05, 8192), (8, 1.05, 8192), (32, 1.10, 4096)] {
        for length in [128, 2048, longest] {
            let traffic = step_traffic(0, &llama_8b(), 16, &vec![length; rows]).expect("the step is recorded");
            assert_moves(&format!("a step of {rows} sequences of {length}"), &traffic, most);
        }
    }
}
