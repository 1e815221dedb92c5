//! `kernels/decode_attention.cu`.

use super::assert_rounded;
use super::cache::{Cache, rows, scale};
use crate::counted::counted;
use crate::device;
use cudarc::driver::sys;
use half::{bf16, f16};
use stageline_base::prng::Prng;
use stageline_cuda::kernels::decode_attention::{Blocks, oracle};
use stageline_cuda::kernels::{DecodeAttention, Paged, PagedShape};
use stageline_cuda::launch::Half;

/// The version of the kernel that this shape takes.
fn kernel(shape: &PagedShape) -> String {
    let width = [64, 128, 256].into_iter().find(|width| shape.head_dim <= *width).expect("a width");
    format!("decode_attention_{width}")
}

/// Runs sequences of these lengths with each number of `blocks`, and holds each row against the oracle, and what was read
/// and written against what must be.
fn check<T: Half>(shape: PagedShape, lengths: &[usize], blocks: &[usize]) {
    let device = device();
    let (seqs, width) = (lengths.len(), shape.heads * shape.head_dim);
    // What a window leaves out is NaN as well.
    let seen = |length: &usize| if *length == 0 { 0..0 } else { shape.seen(length - 1) };
    let cache = Cache::<T>::new(shape, &lengths.iter().map(seen).collect::<Vec<_>>(), 1);
    let qkv = rows::<T>(&shape, seqs, 7);
    let want = |s: usize| {
        let queries = &qkv[s * shape.row_width()..][..width];
        oracle(&shape, queries, (&cache.keys, &cache.values), &cache.table(s), lengths[s])
    };
    let want: Vec<Vec<f64>> = (0..seqs).map(want).collect();
    let lengths_there = device.array(&lengths.iter().map(|length| *length as u32).collect::<Vec<_>>());
    let placed = cache.placed(&device, shape, &qkv);
    for count in blocks.iter().copied() {
        let what = format!("{shape:?}, lengths {lengths:?}, {count} blocks");
        let blocks = Blocks::of(&shape, count);
        let out = device.unset::<T>(seqs * width);
        let partial = device.unset::<f32>(blocks.partial_len());
        let turns = device.array(&vec![0u32; count]);
        let (paged, lengths_there) = (placed.paged(&out), lengths_there.slice());
        let decode =
            DecodeAttention { paged, lengths: lengths_there, blocks, partial: partial.slice(), turns: turns.slice() };
        let launch = || decode.launch(device.kernels, &device.stream).unwrap_or_else(|e| panic!("{what}: {e}"));
        if seqs == 0 {
            launch();
        } else if let Some(counted) = counted::<T>(&device, &kernel(&shape), launch) {
            assert_eq!(counted, decode.traffic(lengths), "{what}");
        }
        assert!(turns.read().iter().all(|turn| *turn == 0), "{what}: a later launch would find turns");
        for ((s, want), got) in want.iter().enumerate().zip(out.read().chunks_exact(width)) {
            // Values are 1 at most, so the rounding of weights changes no more than their own.
            assert_rounded(got, want, f64::from(T::ROUNDING), &format!("{what}, sequence {s}"));
        }
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, block_size: usize, window: usize) -> PagedShape {
    PagedShape { heads, kv_heads, head_dim, block_size, window, scale: scale(head_dim) }
}

/// Lengths around a block, a warp's step and a unit of work.
fn lengths(block: usize) -> Vec<usize> {
    let mut all = vec![0, 1, block - 1, block, block + 1, 15, 16, 17, 63, 64, 65, 130];
    all.sort();
    all.dedup();
    all
}

fn sequences_are_the_oracles<T: Half>() {
    for (heads, kv_heads, head_dim, block_size) in
        [(3, 3, 64, 16), (9, 3, 64, 16), (8, 2, 128, 32), (8, 1, 96, 8), (2, 1, 32, 1), (7, 1, 256, 64)]
    {
        check::<T>(shape(heads, kv_heads, head_dim, block_size, 0), &lengths(block_size), &[1, 7, 100]);
        check::<T>(shape(heads, kv_heads, head_dim, block_size, 40), &lengths(block_size), &[5, 100]);
    }
}

#[test]
fn sequences_are_the_oracles_in_both_types() {
    sequences_are_the_oracles::<bf16>();
    sequences_are_the_oracles::<f16>();
}

/// More parts than a block merges at once; more steps than a warp has on their way.
#[test]
fn long_sequences_are_the_oracles() {
    check::<bf16>(shape(4, 2, 128, 16, 0), &[2048, 1999], &[1, 7, 64]);
    check::<f16>(shape(3, 1, 64, 256, 1000), &[2048, 999, 1000, 1001], &[1, 7, 64]);
    check::<bf16>(shape(1, 1, 256, 16, 0), &[2048], &[1, 17, 256]);
    check::<f16>(shape(1, 1, 32, 16, 0), &[20_000, 0], &[132]);
    check::<bf16>(shape(1, 1, 64, 16, 0), &[], &[1]);
}

/// More sequences than a warp has lanes, of all lengths: where a block's share begins is found among them.
#[test]
fn many_sequences_are_shared_out() {
    let mut prng = Prng::new(9);
    let lengths: Vec<usize> = (0..70).map(|_| prng.below(200) as usize).collect();
    check::<bf16>(shape(2, 2, 64, 16, 0), &lengths, &[1, 23, 140, 1000]);
    check::<f16>(shape(2, 1, 64, 16, 0), &[1; 65], &[64, 65, 66]);
}

/// Heads narrower than what a lane takes, and groups of more heads than a product has columns.
#[test]
fn odd_heads_and_large_groups_are_the_oracles() {
    for head_dim in [8, 16, 24, 40, 56, 72, 80, 112, 136, 160, 248] {
        check::<bf16>(shape(2, 1, head_dim, 4, 0), &[0, 1, 21, 70], &[1, 3]);
    }
    for group in [2, 5, 6, 9, 12, 16, 17, 71] {
        check::<f16>(shape(2 * group, 2, 64, 16, 0), &[0, 1, 21, 70], &[1, 3, 100]);
    }
}

/// How many blocks there are is recorded, what they do is not.
#[test]
fn a_recorded_launch_serves_other_lengths() {
    let device = device();
    let (shape, seqs) = (shape(4, 2, 64, 8, 0), 3);
    let PagedShape { heads, head_dim, .. } = shape;
    let blocks = Blocks::of(&shape, 5);
    let (cache, qkv) = (Cache::<bf16>::new(shape, &[0..200, 0..17, 0..40], 1), rows::<bf16>(&shape, seqs, 7));
    let placed = cache.placed(&device, shape, &qkv);
    let mut lengths_there = device.array(&[5u32, 0, 40]);
    let out = device.unset::<bf16>(seqs * heads * head_dim);
    let (partial, turns) = (device.unset::<f32>(blocks.partial_len()), device.array(&[0u32; 5]));
    let paged = placed.paged(&out);
    let lengths = lengths_there.slice();
    let decode = DecodeAttention { paged, lengths, blocks, partial: partial.slice(), turns: turns.slice() };
    device.stream.synchronize().expect("what came before has run");
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    device.stream.begin_capture(mode).expect("a capture");
    decode.launch(device.kernels, &device.stream).expect("a launch into the capture");
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = device.stream.end_capture(flags).expect("a valid capture").expect("a graph");
    for lengths in [[5, 0, 40], [200, 17, 1], [200, 16, 39], [0, 0, 0], [129, 17, 40]] {
        lengths_there.write(&lengths.map(|length| length as u32));
        graph.launch().expect("a replay");
        for ((s, length), got) in lengths.into_iter().enumerate().zip(out.read().chunks_exact(heads * head_dim)) {
            let queries = &qkv[s * shape.row_width()..][..heads * head_dim];
            let want = oracle(&shape, queries, (&cache.keys, &cache.values), &cache.table(s), length);
            let noise = f64::from(bf16::ROUNDING);
            assert_rounded(got, &want, noise, &format!("lengths {lengths:?}, sequence {s}"));
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
        check::<bf16>(shape, &lengths, &[1 + pick(20)]);
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
    let blocks = Blocks::of(&paged.shape, 2);
    let part = |count| floats.slice().part(0..count).expect("a part");
    let words = |count| lengths.slice().part(0..count).expect("a part");
    let fits =
        DecodeAttention { paged, lengths: words(2), blocks, partial: part(blocks.partial_len()), turns: words(2) };
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
        of(&|p| p.table_stride = 1),
        of(&|p| p.table_stride = 4),
        of(&|p| p.table_stride = 0),
        of(&|p| p.shape.heads = 0),
        of(&|p| p.shape.kv_heads = 0),
        of(&|p| (p.shape.heads, p.shape.kv_heads) = (1, 2)),
        of(&|p| p.shape.head_dim = 0),
        of(&|p| p.shape.head_dim = 20),
        of(&|p| p.shape.head_dim = 264),
        of(&|p| p.shape.block_size = 0),
        of(&|p| p.shape.block_size = 3),
        of(&|p| p.shape.window = usize::MAX),
        DecodeAttention { lengths: words(3), ..fits },
        DecodeAttention { turns: words(1), ..fits },
        DecodeAttention { blocks: Blocks::of(&paged.shape, 0), turns: words(0), partial: part(0), ..fits },
        DecodeAttention { blocks: Blocks::of(&paged.shape, 3), ..fits },
        DecodeAttention { blocks: Blocks::of(&shape(3, 1, 64, 4, 0), 2), ..fits },
        DecodeAttention { partial: part(blocks.partial_len() - 1), ..fits },
        DecodeAttention { partial: floats.slice().part(2..2 + blocks.partial_len()).expect("a part"), ..fits },
    ];
    for (i, decode) in unfit.iter().enumerate() {
        let refused = decode.launch(device.kernels, &device.stream);
        let refused = refused.expect_err(&format!("number {i} does not fit: {decode:?}")).to_string();
        assert!(refused.starts_with("decode_attention: "), "{refused}");
    }
}
