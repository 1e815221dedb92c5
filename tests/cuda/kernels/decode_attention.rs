//! `kernels/decode_attention.cu` and `kernels/combine_attention.cu`.

use super::cache::{Cache, rows, scale};
use super::{assert_rounded, floats};
use crate::counted::counted;
use crate::device;
use cudarc::driver::sys;
use half::{bf16, f16};
use stageline::base::prng::Prng;
use stageline::engine::cuda::kernels::combine_attention;
use stageline::engine::cuda::kernels::decode_attention::oracle;
use stageline::engine::cuda::kernels::{CombineAttention, DecodeAttention, Paged, PagedShape};
use stageline::engine::cuda::launch::Half;

/// What f32 arithmetic and its exponentials may be off by, beside rounding: values are 1 at most.
const NOISE: f64 = 2e-5;

/// The version of the kernel that this shape takes.
fn kernel(shape: &PagedShape) -> String {
    let group = shape.heads / shape.kv_heads;
    let width = [64, 128, 256].into_iter().find(|width| shape.head_dim <= *width).expect("a width");
    let heads = [1, 2, 4].into_iter().find(|heads| group <= *heads).unwrap_or(8);
    format!("decode_attention_{width}_{heads}")
}

/// Runs sequences of these lengths with each of `splits`, and holds each row against the oracle, and what was read and
/// written against what must be.
fn check<T: Half>(shape: PagedShape, lengths: &[usize], splits: &[usize]) {
    let device = device();
    let (seqs, width) = (lengths.len(), shape.heads * shape.head_dim);
    // What a window leaves out is NaN as well.
    let seen = |length: &usize| if *length == 0 { 0..0 } else { shape.seen(length - 1) };
    let cache = Cache::<T>::new(shape, &lengths.iter().map(seen).collect::<Vec<_>>(), 1);
    let qkv = rows::<T>(&shape, seqs, 7);
    let lengths_there = device.array(&lengths.iter().map(|length| *length as u32).collect::<Vec<_>>());
    let placed = cache.placed(&device, shape, &qkv);
    for splits in splits.iter().copied() {
        let what = format!("{shape:?}, lengths {lengths:?}, {splits} splits");
        let out = device.unset::<T>(seqs * width);
        let parts = if splits == 1 { 0 } else { splits };
        let partial = device.unset::<f32>(seqs * shape.heads * parts * (2 + shape.head_dim));
        let paged = placed.paged(&out);
        let decode = DecodeAttention { paged, lengths: lengths_there.slice(), splits, partial: partial.slice() };
        let launch = || decode.launch(device.kernels, &device.stream).unwrap_or_else(|e| panic!("{what}: {e}"));
        if let Some(counted) = counted::<T>(&device, &kernel(&shape), launch) {
            assert_eq!(counted, decode.traffic(lengths), "{what}");
        }
        if splits > 1 {
            let (heads, head_dim) = (shape.heads, shape.head_dim);
            let combine = CombineAttention { partial: partial.slice(), out: out.slice(), heads, head_dim, splits };
            let launch = || combine.launch(device.kernels, &device.stream).unwrap_or_else(|e| panic!("{what}: {e}"));
            if let Some(counted) = counted::<T>(&device, "combine_attention", launch) {
                assert_eq!(counted, combine.traffic(), "{what}");
            }
        }
        let got = out.read();
        for (s, length) in lengths.iter().enumerate() {
            let queries = &qkv[s * shape.row_width()..][..width];
            let want = oracle(&shape, queries, (&cache.keys, &cache.values), cache.table(s), *length);
            assert_rounded(&got[s * width..][..width], &want, NOISE, &format!("{what}, sequence {s}"));
        }
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, block_size: usize, window: usize) -> PagedShape {
    PagedShape { heads, kv_heads, head_dim, block_size, window, scale: scale(head_dim) }
}

/// Lengths around a block, a warp's step and a block's work.
fn lengths(block: usize) -> Vec<usize> {
    let mut all = vec![0, 1, block - 1, block, block + 1, 7, 8, 9, 31, 33, 101];
    all.sort();
    all.dedup();
    all
}

fn sequences_are_the_oracles<T: Half>() {
    for (heads, kv_heads, head_dim, block_size) in
        [(3, 3, 64, 16), (9, 3, 64, 16), (8, 2, 128, 32), (8, 1, 96, 8), (2, 1, 32, 1), (7, 1, 256, 64)]
    {
        check::<T>(shape(heads, kv_heads, head_dim, block_size, 0), &lengths(block_size), &[1, 2, 7]);
        check::<T>(shape(heads, kv_heads, head_dim, block_size, 11), &lengths(block_size), &[1, 2]);
    }
}

#[test]
fn sequences_are_the_oracles_in_both_types() {
    sequences_are_the_oracles::<bf16>();
    sequences_are_the_oracles::<f16>();
}

#[test]
fn long_sequences_are_the_oracles() {
    check::<bf16>(shape(4, 2, 128, 16, 0), &[2048, 1999], &[1, 7]);
    check::<f16>(shape(3, 1, 64, 256, 1000), &[2048, 999, 1000, 1001], &[1, 7]);
    check::<bf16>(shape(1, 1, 64, 16, 0), &[2048], &[256]);
}

/// Heads narrower than what a block is made for, and groups of more heads than it takes at a time.
#[test]
fn odd_heads_and_large_groups_are_the_oracles() {
    for head_dim in [8, 16, 24, 40, 56, 72, 80, 112, 136, 160, 248] {
        check::<bf16>(shape(2, 1, head_dim, 4, 0), &[0, 1, 21], &[1, 2]);
    }
    for group in [2, 5, 6, 9, 12, 16, 17, 71] {
        check::<f16>(shape(2 * group, 2, 64, 16, 0), &[0, 1, 21, 70], &[1, 3]);
    }
}

/// How many parts there are is recorded, how long they are is not.
#[test]
fn a_recorded_launch_serves_other_lengths() {
    let device = device();
    let (shape, splits, seqs) = (shape(4, 2, 64, 8, 0), 3, 3);
    let PagedShape { heads, head_dim, .. } = shape;
    let (cache, qkv) = (Cache::<bf16>::new(shape, &[0..40, 0..17, 0..40], 1), rows::<bf16>(&shape, seqs, 7));
    let placed = cache.placed(&device, shape, &qkv);
    let mut lengths_there = device.array(&[5u32, 0, 40]);
    let out = device.unset::<bf16>(seqs * heads * head_dim);
    let partial = device.unset::<f32>(seqs * heads * splits * (2 + head_dim));
    let paged = placed.paged(&out);
    let decode = DecodeAttention { paged, lengths: lengths_there.slice(), splits, partial: partial.slice() };
    let combine = CombineAttention { partial: partial.slice(), out: out.slice(), heads, head_dim, splits };
    device.stream.synchronize().expect("what came before has run");
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    device.stream.begin_capture(mode).expect("a capture");
    decode.launch(device.kernels, &device.stream).expect("a launch into the capture");
    combine.launch(device.kernels, &device.stream).expect("a launch into the capture");
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = device.stream.end_capture(flags).expect("a valid capture").expect("a graph");
    for lengths in [[5, 0, 40], [40, 17, 1], [0, 16, 39]] {
        lengths_there.write(&lengths.map(|length| length as u32));
        graph.launch().expect("a replay");
        for ((s, length), got) in lengths.into_iter().enumerate().zip(out.read().chunks_exact(heads * head_dim)) {
            let queries = &qkv[s * shape.row_width()..][..heads * head_dim];
            let want = oracle(&shape, queries, (&cache.keys, &cache.values), cache.table(s), length);
            assert_rounded(got, &want, NOISE, &format!("lengths {lengths:?}, sequence {s}"));
        }
    }
}

/// Shapes and lengths that nobody chose.
#[test]
fn any_sequences_are_the_oracles() {
    let mut prng = Prng::new(5);
    let mut pick = |n: usize| prng.below(n as u64) as usize;
    for _ in 0..40 {
        let (kv_heads, group, head_dim, block_size) = (1 + pick(3), 1 + pick(9), 8 * (1 + pick(32)), 1 << pick(9));
        let shape = shape(kv_heads * group, kv_heads, head_dim, block_size, pick(2) * (1 + pick(100)));
        let lengths: Vec<usize> = (0..1 + pick(4)).map(|_| pick(200)).collect();
        check::<bf16>(shape, &lengths, &[1 + pick(9)]);
    }
}

#[test]
fn parts_are_merged_as_the_oracle_merges_them() {
    const NOTHING: f32 = f32::NEG_INFINITY;
    let device = device();
    let (heads, rows) = (3, 2);
    for (head_dim, splits) in [(8, 1), (33, 2), (64, 7), (128, 33), (256, 256)] {
        let mut partial = floats(rows * heads * splits * (2 + head_dim), 3);
        for (i, part) in partial.chunks_exact_mut(2 + head_dim).enumerate() {
            // Largest scores far apart; sums that are positive, as sums of powers of 2 are.
            (part[0], part[1]) = (part[0] * 40.0, 1.0 + part[1].abs());
            // Of every third head all parts are empty, of the others every fifth.
            if i / splits % 3 == 2 || i % 5 == 1 {
                part.fill(0.0);
                part[0] = NOTHING;
            }
        }
        let there = device.array(&partial);
        let out = device.unset::<f16>(rows * heads * head_dim);
        let combine = CombineAttention { partial: there.slice(), out: out.slice(), heads, head_dim, splits };
        combine.launch(device.kernels, &device.stream).expect("a launch");
        let parts = partial.chunks_exact(splits * (2 + head_dim));
        for ((head, parts), got) in parts.enumerate().zip(out.read().chunks_exact(head_dim)) {
            let want = combine_attention::oracle(parts, head_dim);
            assert_rounded(got, &want, 1e-5, &format!("{splits} parts of {head_dim} numbers, head {head}"));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = device();
    let halves = device.unset::<bf16>(8192);
    let (tables, lengths, floats) = (device.array(&[0i32; 8]), device.array(&[0u32; 8]), device.unset::<f32>(4096));
    let half = |count| halves.slice().part(0..count).expect("a part");
    let paged = Paged {
        qkv: half(2 * 4 * 64),
        k_cache: half(3 * 4 * 64),
        v_cache: half(3 * 4 * 64),
        tables: tables.slice().part(0..6).expect("a part"),
        table_stride: 3,
        out: half(2 * 2 * 64),
        shape: shape(2, 1, 64, 4, 0),
    };
    let partial = floats.slice().part(0..2 * 2 * 2 * 66).expect("a part");
    let lengths = lengths.slice();
    let fits = DecodeAttention { paged, lengths: lengths.part(0..2).expect("a part"), splits: 2, partial };
    fits.launch(device.kernels, &device.stream).expect("what fits is launched");
    let of = |change: &dyn Fn(&mut Paged<bf16>)| {
        let mut changed = fits;
        change(&mut changed.paged);
        changed
    };
    let unfit = [
        of(&|p| p.qkv = half(2 * 4 * 64 - 1)),
        of(&|p| p.qkv = halves.slice().part(1..2 * 4 * 64 + 1).expect("a part")),
        of(&|p| p.qkv = half(3 * 4 * 64)),
        of(&|p| p.out = half(64)),
        of(&|p| p.k_cache = half(2 * 4 * 64)),
        of(&|p| p.v_cache = halves.slice().part(4..4 + 3 * 4 * 64).expect("a part")),
        of(&|p| p.table_stride = 2),
        of(&|p| p.shape.heads = 0),
        of(&|p| p.shape.kv_heads = 0),
        of(&|p| (p.shape.heads, p.shape.kv_heads) = (1, 2)),
        of(&|p| p.shape.head_dim = 0),
        of(&|p| p.shape.head_dim = 20),
        of(&|p| p.shape.head_dim = 264),
        of(&|p| p.shape.block_size = 0),
        of(&|p| p.shape.block_size = 3),
        of(&|p| p.shape.window = usize::MAX),
        DecodeAttention { lengths: lengths.part(0..3).expect("a part"), ..fits },
        DecodeAttention { splits: 0, ..fits },
        DecodeAttention { splits: 1, ..fits },
        DecodeAttention { splits: 3, ..fits },
        DecodeAttention { splits: usize::MAX, ..fits },
    ];
    for (i, decode) in unfit.iter().enumerate() {
        let refused = decode.launch(device.kernels, &device.stream);
        let refused = refused.expect_err(&format!("number {i} does not fit: {decode:?}")).to_string();
        assert!(refused.starts_with("decode_attention: "), "{refused}");
    }
    let out = half(2 * 2 * 64);
    let fits = CombineAttention { partial, out, heads: 2, head_dim: 64, splits: 2 };
    fits.launch(device.kernels, &device.stream).expect("what fits is launched");
    let unfit = [
        CombineAttention { heads: 0, ..fits },
        CombineAttention { splits: 0, ..fits },
        CombineAttention { splits: 3, ..fits },
        CombineAttention { head_dim: 0, ..fits },
        CombineAttention { head_dim: 512, ..fits },
        CombineAttention { out: half(63), ..fits },
    ];
    for combine in unfit {
        let refused = combine.launch(device.kernels, &device.stream).expect_err("what does not fit").to_string();
        assert!(refused.starts_with("combine_attention: "), "{refused}");
    }
}
