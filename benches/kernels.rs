//! The CPU maths of one decode or prefill step of SmolLM2-135M, beside candle's: time of all its matmuls, of an attention,
//! of a norm.
//!
//! `cargo bench --bench kernels`. Needs no model: what the numbers are does not matter here. Weights lie in as much memory
//! as the model's, so that they come from there and not from a cache.

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stageline_ops::{AttentionShape, Isa, Linear, Ops, Span, Threads};
use std::hint::black_box;
use std::time::Duration;

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
/// (columns, depth) of a layer's matmuls: queries, keys and values; out; gate and up; down.
const LAYER: [(usize, usize); 4] = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
const HEAD: (usize, usize) = (49_152, 576);

fn noise(shape: (usize, usize), dtype: DType) -> Tensor {
    Tensor::rand(-1f32, 1f32, shape, &Device::Cpu).and_then(|x| x.to_dtype(dtype)).expect("on the CPU")
}

/// All matrices of the model.
fn matrices(dtype: DType) -> Vec<Linear> {
    let shapes = (0..LAYERS).flat_map(|_| LAYER).chain([HEAD]);
    shapes.map(|shape| Linear { weight: noise(shape, dtype), bias: None }).collect()
}

fn matmuls(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmuls of the model");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    let inputs = |rows| [576, 1536].map(|depth| noise((rows, depth), DType::F32));
    for dtype in [DType::BF16, DType::F32] {
        let model = matrices(dtype);
        for (threads, rows) in [(2, 1), (2, 2), (2, 8), (2, 32), (2, 128), (1, 1), (1, 8)] {
            let pool = Threads::new(threads).expect("threads start");
            let inputs = inputs(rows);
            let input = |linear: &Linear| &inputs[usize::from(linear.weight.dims()[1] != HIDDEN)];
            group.throughput(Throughput::Elements(rows as u64));
            for isa in Isa::available().into_iter().filter(|isa| isa.name() != "portable") {
                let ops = Ops::rows(isa);
                let name = format!("{}, {}, {threads} threads", isa.name(), dtype.as_str());
                group.bench_function(BenchmarkId::new(name, rows), |b| {
                    b.iter(|| {
                        pool.run(|| {
                            model.iter().for_each(|m| drop(black_box(ops.linear(input(m), m).expect("fits"))));
                        });
                    });
                });
            }
        }
    }
    // candle's takes its threads from RAYON_NUM_THREADS.
    let model = matrices(DType::F32);
    for rows in [1, 2, 8, 32, 128] {
        let inputs = inputs(rows);
        let input = |linear: &Linear| &inputs[usize::from(linear.weight.dims()[1] != HIDDEN)];
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::new("candle, f32", rows), |b| {
            b.iter(|| model.iter().for_each(|m| drop(black_box(Ops::candle().linear(input(m), m).expect("fits")))));
        });
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let shape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, window: None };
    let (keys, values) = (noise((2048, 192), DType::F32), noise((2048, 192), DType::F32));
    let pool = Threads::new(2).expect("threads start");
    for (rows, seen) in [(1, 64), (1, 1024), (128, 1024)] {
        let queries = noise((rows, HIDDEN), DType::F32);
        let slots: Vec<u32> = (0..seen).collect();
        let slots = Tensor::new(slots, &Device::Cpu).expect("on the CPU");
        let spans = [Span { rows: 0..rows, slots, causal: true }];
        for (name, ops) in [("ours", Ops::rows(Isa::available()[0])), ("candle", Ops::candle())] {
            group.bench_function(format!("{name}, {rows} rows of {seen}"), |b| {
                b.iter(|| pool.run(|| ops.attention(&queries, &keys, &values, shape, &spans).expect("fits")));
            });
        }
    }
    group.finish();
}

fn small(c: &mut Criterion) {
    let mut group = c.benchmark_group("one row");
    let (x, weight, wide) =
        (noise((1, HIDDEN), DType::F32), noise((1, HIDDEN), DType::F32), noise((1, 3072), DType::F32));
    let weight = weight.flatten_all().expect("a vector");
    for (name, ops) in [("ours", Ops::rows(Isa::available()[0])), ("candle", Ops::candle())] {
        group.bench_function(format!("{name}, norm"), |b| b.iter(|| ops.rms_norm(&x, &weight, 1e-5).expect("fits")));
        group.bench_function(format!("{name}, add"), |b| b.iter(|| ops.add(&x, &x).expect("fits")));
        group.bench_function(format!("{name}, silu"), |b| b.iter(|| ops.silu_mul(&wide).expect("fits")));
    }
    group.finish();
}

criterion_group!(all, matmuls, attention, small);
criterion_main!(all);
