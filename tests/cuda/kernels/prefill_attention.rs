//! `kernels/prefill_attention.cu`.

use super::assert_rounded;
use super::cache::{Cache, NOTHING, rows, scale};
use crate::counted::counted;
use crate::device;
use half::{bf16, f16};
use stageline_base::prng::Prng;
use stageline_cuda::kernels::prefill_attention::{Plan, Tile, oracle};
use stageline_cuda::kernels::{Paged, PagedShape, PrefillAttention};
use stageline_cuda::launch::Half;

/// Rows of `qkv` at its end that no tile names.
const IDLE: usize = 3;

/// Runs, in one launch of each plan, chunks of sequences, each the position of its first row and its rows, and holds each
/// row against the oracle, and what was read and written against what must be. Rows in no tile must stay as they are.
fn check<T: Half>(shape: PagedShape, chunks: &[(usize, usize)]) {
    Plan::ALL.iter().for_each(|plan| check_plan::<T>(*plan, shape, chunks));
}

fn check_plan<T: Half>(plan: Plan, shape: PagedShape, chunks: &[(usize, usize)]) {
    let device = device();
    let what = format!("{plan:?}, {shape:?}, chunks {chunks:?}");
    let width = shape.heads * shape.head_dim;
    let count = chunks.iter().map(|(_, rows)| rows).sum::<usize>() + IDLE;
    // What a window leaves out for all rows is NaN as well.
    let held = chunks.iter().map(|&(position, rows)| shape.seen(position).start..position + rows);
    let cache = Cache::<T>::new(shape, &held.collect::<Vec<_>>(), 1);
    let qkv = rows::<T>(&shape, count, 7);
    let (mut tiles, mut first_row) = (Vec::new(), 0);
    for (member, &(position, rows)) in chunks.iter().enumerate() {
        tiles.extend(Tile::cover(member as u32, first_row, rows as u32, position as u32));
        first_row += rows as u32;
    }
    tiles.reverse();
    // A tile of no rows, whose position no table has.
    tiles.push(Tile { member: 0, first_row: 0, rows: 0, position: 1 << 20 });

    let (placed, tiles_there) = (cache.placed(&device, shape, &qkv), device.array(&tiles));
    let out = device.unset::<T>(count * width);
    let paged = placed.paged(&out);
    let prefill = PrefillAttention { paged, tiles: tiles_there.slice(), plan };
    let launch = || prefill.launch(device.kernels, &device.stream).unwrap_or_else(|e| panic!("{what}: {e}"));
    let version = format!("prefill_attention_{}_{}", shape.head_dim, plan.name());
    if let Some(counted) = counted::<T>(&device, &version, launch) {
        assert_eq!(counted, prefill.traffic(&tiles), "{what}");
    }

    let got = out.read();
    let mut row = 0;
    for (member, &(position, rows)) in chunks.iter().enumerate() {
        for position in position..position + rows {
            let queries = &qkv[row * shape.row_width()..][..width];
            let want = oracle(&shape, queries, (&cache.keys, &cache.values), &cache.table(member), position);
            // Values are 1 at most, so the rounding of weights changes no more than their own.
            let noise = f64::from(T::ROUNDING);
            let what = format!("{what}: position {position} of {member}");
            assert_rounded(&got[row * width..][..width], &want, noise, &what);
            row += 1;
        }
    }
    assert!(got[row * width..].iter().all(|n| n.to_f32().is_nan()), "{what}: a row in no tile is written");
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, block_size: usize, window: usize) -> PagedShape {
    PagedShape { heads, kv_heads, head_dim, block_size, window, scale: scale(head_dim) }
}

/// Chunks at the start of sequences and in their middle, of as many rows as a warp or a tile has, and of one more or less.
const CHUNKS: [(usize, usize); 13] = [
    (0, 1),
    (0, 15),
    (0, 16),
    (0, 17),
    (0, 63),
    (0, 64),
    (0, 65),
    (63, 1),
    (64, 17),
    (100, 64),
    (49, 16),
    (33, 32),
    (0, 0),
];

fn chunks_are_the_oracles<T: Half>() {
    for (heads, kv_heads, head_dim, block_size) in
        [(1, 1, 32, 1), (3, 1, 64, 16), (4, 1, 96, 8), (8, 1, 128, 256), (4, 2, 64, 32)]
    {
        check::<T>(shape(heads, kv_heads, head_dim, block_size, 0), &CHUNKS);
    }
}

#[test]
fn chunks_are_the_oracles_in_bf16() {
    chunks_are_the_oracles::<bf16>();
}

#[test]
fn chunks_are_the_oracles_in_f16() {
    chunks_are_the_oracles::<f16>();
}

/// Windows smaller than a warp's rows, around a step of keys, and larger than the sequence.
#[test]
fn windows_are_the_oracles() {
    for window in [1, 5, 16, 63, 64, 65, 81, 1000] {
        let chunks = [(0, 70), (50, 64), (200, 33), (131, 1)];
        check::<f16>(shape(8, 1, 32, 16, window), &chunks);
        check::<bf16>(shape(1, 1, 64, 4, window), &chunks);
    }
}

/// Shapes and chunks that nobody chose.
#[test]
fn any_chunks_are_the_oracles() {
    let mut prng = Prng::new(5);
    let mut pick = |n: usize| prng.below(n as u64) as usize;
    for _ in 0..20 {
        let (kv_heads, group, head_dim, block_size) = (1 + pick(2), 1 + pick(4), 32 * (1 + pick(4)), 1 << pick(9));
        let shape = shape(kv_heads * group, kv_heads, head_dim, block_size, pick(2) * (1 + pick(150)));
        let chunks: Vec<(usize, usize)> = (0..1 + pick(3)).map(|_| (pick(2) * pick(150), pick(100))).collect();
        check::<f16>(shape, &chunks);
    }
}

/// Scores so far apart that some step's largest is much above that of the steps before, and others' by little.
#[test]
fn scores_that_rise_are_the_oracles() {
    for head_dim in [32, 128] {
        let shape = shape(3, 1, head_dim, 16, 0);
        let chunks = [(0, 70), (300, 20)];
        check::<bf16>(PagedShape { scale: 4.0 * shape.scale, ..shape }, &chunks);
        check::<f16>(PagedShape { scale: 32.0 * shape.scale, window: 150, ..shape }, &chunks);
    }
}

#[test]
fn long_sequences_are_the_oracles() {
    check::<bf16>(shape(1, 1, 64, 16, 0), &[(1999, 49)]);
    check::<f16>(shape(1, 1, 32, 16, 700), &[(1984, 64)]);
    check::<f16>(shape(1, 1, 128, 16, 0), &[(0, 200)]);
    check::<bf16>(shape(1, 1, 32, 16, 0), &[(9990, 33)]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = device();
    let halves = device.unset::<bf16>(8192);
    let tables = device.array(&[0i32; 6]);
    let tiles = device.array(&[Tile { member: 0, first_row: 0, rows: 0, position: 0 }; 2]);
    let half = |count| halves.slice().part(0..count).expect("a part");
    let paged = Paged {
        qkv: half(2 * 4 * 64),
        k_cache: half(3 * 4 * 64),
        v_cache: half(3 * 4 * 64),
        tables: tables.slice(),
        table_stride: 3,
        out: half(2 * 2 * 64),
        shape: shape(2, 1, 64, 4, 0),
    };
    let fits = PrefillAttention { paged, tiles: tiles.slice(), plan: Plan::Wide };
    fits.launch(device.kernels, &device.stream).expect("what fits is launched");
    assert!(halves.read().iter().all(|n| n.to_f32().is_nan()), "tiles of no rows write {NOTHING}");
    let of = |change: &dyn Fn(&mut Paged<bf16>)| {
        let mut changed = fits;
        change(&mut changed.paged);
        changed
    };
    let unfit = [
        of(&|p| p.qkv = half(2 * 4 * 64 - 1)),
        of(&|p| p.out = half(64)),
        of(&|p| p.k_cache = half(2 * 4 * 64)),
        of(&|p| p.table_stride = 4),
        of(&|p| p.table_stride = 0),
        of(&|p| p.shape.head_dim = 8),
        of(&|p| p.shape.block_size = 6),
        of(&|p| p.shape.window = usize::MAX),
        of(&|p| p.shape.scale = 0.0),
        of(&|p| p.shape.scale = f32::NAN),
    ];
    for (i, prefill) in unfit.iter().enumerate() {
        let refused = prefill.launch(device.kernels, &device.stream);
        let refused = refused.expect_err(&format!("number {i} does not fit: {prefill:?}")).to_string();
        assert!(refused.starts_with("prefill_attention: "), "{refused}");
    }
}
