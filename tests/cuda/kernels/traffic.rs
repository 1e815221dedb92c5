//! The traffic that wrappers tell, against what a device that counts saw: every byte of the formula moves, and no other.

use super::{floats, noise};
use crate::counted::{counted_as, version};
use crate::device;
use half::{bf16, f16};
use stageline_core::Sampling;
use stageline_cuda::kernels::gemv::SumOf;
use stageline_cuda::kernels::sample::work_len;
use stageline_cuda::kernels::{AddRmsNorm, Embed, Gemv, RopeKv, Sample, SampleRow, SiluMul};
use stageline_cuda::launch::Half;

const ROWS: usize = 3;

/// Launches `$arguments`, perhaps more than once, and compares what the function `$name` moved with their traffic.
macro_rules! assert_moves {
    ($device:expr, $name:expr, $arguments:expr) => {{
        let (device, name, arguments) = ($device, $name, $arguments);
        let launch = || arguments.launch(device.kernels, &device.stream).expect("a launch");
        if let Some(counted) = counted_as(device, &name, launch) {
            assert_eq!(counted, arguments.traffic(), "{name}");
        }
    }};
}

fn rows_move_what_is_told<T: Half + SumOf<T>>(hidden: usize) {
    let device = &device();
    let halves = |count| device.array(&noise::<T>(count, 1));
    let (table, ids, x) = (halves(50 * hidden), device.array(&[3u32, 0, 49]), device.array(&floats(ROWS * hidden, 2)));
    let embed = Embed { table: table.slice(), ids: ids.slice(), x: x.slice(), hidden };
    assert_moves!(device, version::<T>("embed"), embed);

    let (delta, weight, out) = (halves(ROWS * hidden), halves(hidden), halves(ROWS * hidden));
    let take = device.array(&[2u32, 0]);
    let norm = AddRmsNorm {
        x: x.slice(),
        delta: Some(delta.slice()),
        weight: weight.slice(),
        out: out.slice(),
        take: None,
        hidden,
        eps: 1e-5,
    };
    let part = out.slice().part(0..2 * hidden).expect("a part");
    assert_moves!(device, version::<T>("add_rms_norm"), norm);
    assert_moves!(device, version::<T>("add_rms_norm"), AddRmsNorm { delta: None, ..norm });
    let taken = AddRmsNorm { take: Some(take.slice()), out: part, ..norm };
    assert_moves!(device, version::<T>("add_rms_norm"), taken);

    let (gate_up, bias) = (halves(ROWS * 2 * hidden), halves(2 * hidden));
    let silu = SiluMul { gate_up: gate_up.slice(), bias: Some(bias.slice()), out: out.slice(), width: hidden };
    assert_moves!(device, version::<T>("silu_mul"), silu);
    assert_moves!(device, version::<T>("silu_mul"), SiluMul { bias: None, ..silu });
}

#[test]
fn rows_move_what_is_told_in_both_types() {
    for hidden in [33, 64, 4096] {
        rows_move_what_is_told::<bf16>(hidden);
        rows_move_what_is_told::<f16>(hidden);
    }
}

#[test]
fn linear_layers_read_each_weight_once_for_all_rows() {
    each_weight_is_read_once_for_all_rows::<bf16>();
    each_weight_is_read_once_for_all_rows::<f16>();
}

fn each_weight_is_read_once_for_all_rows<T: Half + SumOf<T>>() {
    let device = &device();
    for (n, k) in [(33, 2304), (16, 264), (1, 1024)] {
        let (weight, bias) = (device.array(&noise::<T>(n * k, 1)), device.array(&noise::<T>(n, 2)));
        for (rows, function) in [(1, "one"), (2, "few_8"), (8, "few_8"), (9, "few_16"), (16, "few_16")] {
            let (input, out) = (device.array(&noise::<T>(rows * k, 3)), device.unset::<T>(rows * n));
            let wide = device.unset::<f32>(rows * n);
            let (weight, input) = (weight.slice(), input.slice());
            let gemv = Gemv { weight, input, bias: Some(bias.slice()), out: out.slice(), n, k };
            assert_moves!(device, format!("{}_{function}", version::<T>("gemv")), gemv);
            let gemv = Gemv { weight, input, bias: None, out: wide.slice(), n, k };
            assert_moves!(device, format!("{}_f32_{function}", version::<T>("gemv")), gemv);
        }
    }
}

#[test]
fn heads_move_what_is_told() {
    let device = &device();
    let (heads, kv_heads, block_size) = (4, 2, 16);
    for head_dim in [34, 64, 128] {
        let halves = |count| device.array(&noise::<f16>(count, 1));
        let width = (heads + 2 * kv_heads) * head_dim;
        let (qkv, bias, q_norm, k_norm) = (halves(ROWS * width), halves(width), halves(head_dim), halves(head_dim));
        let (k_cache, v_cache) =
            (halves(4 * kv_heads * block_size * head_dim), halves(4 * kv_heads * block_size * head_dim));
        let (rotations, positions) = (device.array(&floats(10 * head_dim, 2)), device.array(&[7u32, 0, 9]));
        let slots = device.array(&[63, 0, 17]);
        let rope = RopeKv {
            qkv: qkv.slice(),
            bias: Some(bias.slice()),
            q_norm: Some(q_norm.slice()),
            k_norm: Some(k_norm.slice()),
            rotations: rotations.slice(),
            positions: positions.slice(),
            slots: slots.slice(),
            k_cache: k_cache.slice(),
            v_cache: v_cache.slice(),
            heads,
            kv_heads,
            head_dim,
            block_size,
            eps: 1e-5,
        };
        assert_moves!(device, "rope_kv_f16".to_string(), rope);
        assert_moves!(device, "rope_kv_f16".to_string(), RopeKv { bias: None, q_norm: None, k_norm: None, ..rope });
    }
}

#[test]
fn sampled_rows_move_what_is_told() {
    let device = &device();
    for vocab in [1000, 1025, 5000] {
        let sampling = Sampling { temperature: 1.0, top_k: 5, top_p: 0.9, ..Sampling::GREEDY };
        let rows = device.array(&[SampleRow::new(&sampling, 0, 0..0), SampleRow::new(&Sampling::GREEDY, 0, 0..0)]);
        let (logits, tokens) = (device.array(&floats(2 * vocab, 1)), device.unset::<u32>(2));
        let (history, work) = (device.array::<u32>(&[]), device.unset(2 * work_len(vocab)));
        let sample = Sample {
            logits: logits.slice(),
            rows: rows.slice(),
            history: history.slice(),
            tokens: tokens.slice(),
            work: work.slice(),
            vocab,
            blocks: vocab.div_ceil(2048),
        };
        let launch = || sample.launch(device.kernels, &device.stream).expect("a launch");
        let told = sample.traffic(0);
        if let Some(counted) = counted_as(device, "sample_best", launch) {
            // The random bits and the scale only the other kernel reads.
            assert_eq!(counted.read_bytes + 2 * 12, told.read_bytes, "{vocab}");
        }
        if let Some(counted) = counted_as(device, "sample_draw", launch) {
            assert_eq!(counted.written_bytes, told.written_bytes, "{vocab}");
        }
    }
}
