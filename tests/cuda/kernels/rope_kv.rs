//! `kernels/rope_kv.cu`.

use super::{ROWS, assert_rounded, noise};
use crate::device;
use half::{bf16, f16};
use stageline_cuda::kernels::rope_kv::{RopeKv, oracle};
use stageline_cuda::launch::Half;

const EPS: f32 = 1e-5;
const BLOCKS: usize = 4;
const POSITIONS: usize = 40;

/// Heads, key heads, numbers a head, positions a block.
type Shape = (usize, usize, usize, usize);

/// What a head's numbers may be off by, beside their rounding.
const NOISE: f64 = 4e-6;

fn turns(head_dim: usize) -> Vec<f32> {
    let pairs = (0..POSITIONS).flat_map(|p| (0..head_dim / 2).map(move |i| p as f32 / (1.0 + i as f32)));
    pairs.flat_map(|angle| [angle.cos(), angle.sin()]).collect()
}

/// Runs it on `rows` of the shape, and holds queries and caches against the oracle; nothing else may have been written.
fn check<T: Half>(rows: usize, (heads, kv_heads, head_dim, block_size): Shape, biased: bool, normed: (bool, bool)) {
    let device = device();
    let what = format!("{rows} rows, {heads}+2*{kv_heads} heads of {head_dim}, bias {biased}, norms {normed:?}");
    let width = (heads + 2 * kv_heads) * head_dim;
    let qkv = noise::<T>(rows * width, 1);
    let bias = biased.then(|| noise::<T>(width, 2));
    let q_norm = normed.0.then(|| noise::<T>(head_dim, 3));
    let k_norm = normed.1.then(|| noise::<T>(head_dim, 4));
    let rotations = turns(head_dim);
    let positions: Vec<u32> = (0..rows).map(|r| (r * 7 % POSITIONS) as u32).collect();
    // No slot is used twice; every third row is padding.
    let slots: Vec<i32> =
        (0..rows).map(|r| if r % 3 == 2 { -1 } else { (r * 7 % (BLOCKS * block_size)) as i32 }).collect();
    let cache = BLOCKS * kv_heads * block_size * head_dim;

    let there = device.array(&qkv);
    let optional = |numbers: &Option<Vec<T>>| numbers.as_ref().map(|numbers| device.array(numbers));
    let (bias_there, q_norm_there, k_norm_there) = (optional(&bias), optional(&q_norm), optional(&k_norm));
    let (rotations_there, positions_there) = (device.array(&rotations), device.array(&positions));
    let slots_there = device.array(&slots);
    let (k_cache, v_cache) = (device.array(&noise::<T>(cache, 5)), device.array(&noise::<T>(cache, 6)));
    let rope = RopeKv {
        qkv: there.slice(),
        bias: bias_there.as_ref().map(|a| a.slice()),
        q_norm: q_norm_there.as_ref().map(|a| a.slice()),
        k_norm: k_norm_there.as_ref().map(|a| a.slice()),
        rotations: rotations_there.slice(),
        positions: positions_there.slice(),
        slots: slots_there.slice(),
        k_cache: k_cache.slice(),
        v_cache: v_cache.slice(),
        heads,
        kv_heads,
        head_dim,
        block_size,
        eps: EPS,
    };
    rope.launch(device.kernels, &device.stream).expect("a launch");

    let (mut queries, mut keys, mut values) = (qkv.clone(), noise::<T>(cache, 5), noise::<T>(cache, 6));
    let (got_queries, got_keys, got_values) = (there.read(), k_cache.read(), v_cache.read());
    for r in 0..rows {
        for head in 0..heads + 2 * kv_heads {
            let (is_query, is_key) = (head < heads, (heads..heads + kv_heads).contains(&head));
            let norm = if is_query { q_norm.as_deref() } else { k_norm.as_deref().filter(|_| is_key) };
            let turns = &rotations[positions[r] as usize * head_dim..][..head_dim];
            let bias = bias.as_ref().map(|bias| &bias[head * head_dim..][..head_dim]);
            let from = r * width + head * head_dim;
            let numbers = &qkv[from..][..head_dim];
            let want = oracle(numbers, bias, norm, (is_query || is_key).then_some(turns), EPS);
            let slot = slots[r] as usize;
            let at = |kv_head| ((slot / block_size * kv_heads + kv_head) * block_size + slot % block_size) * head_dim;
            let (got, expected, at) = match head {
                _ if is_query => (&got_queries, &mut queries, from),
                _ if slots[r] < 0 => continue,
                _ if is_key => (&got_keys, &mut keys, at(head - heads)),
                _ => (&got_values, &mut values, at(head - heads - kv_heads)),
            };
            let got = &got[at..][..head_dim];
            assert_rounded(got, &want, NOISE, &format!("{what}: row {r}, head {head}"));
            // Held against the oracle: the rest must be as it was.
            expected[at..][..head_dim].copy_from_slice(got);
        }
    }
    let bits = |numbers: &[T]| numbers.iter().map(|n| n.to_f32().to_bits()).collect::<Vec<_>>();
    for (name, got, want) in [("qkv", got_queries, queries), ("keys", got_keys, keys), ("values", got_values, values)] {
        assert_eq!(bits(&got), bits(&want), "{what}: {name}");
    }
}

const SHAPES: [Shape; 8] = [
    (1, 1, 2, 16),
    (4, 4, 16, 16),
    (3, 1, 34, 8),
    (9, 3, 64, 16),
    (8, 2, 96, 32),
    (32, 8, 128, 16),
    (2, 1, 40, 5),
    (2, 1, 512, 16),
];

fn heads_are_the_oracles<T: Half>() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for rows in ROWS {
            check::<T>(rows.min(BLOCKS * shape.3), shape, (rows + i) % 2 == 0, (false, false));
        }
        check::<T>(2, shape, true, (true, true));
        check::<T>(7, shape, false, (true, false));
        check::<T>(7, shape, false, (false, true));
    }
}

#[test]
fn heads_are_the_oracles_in_both_types() {
    heads_are_the_oracles::<bf16>();
    heads_are_the_oracles::<f16>();
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let device = device();
    let (half, cache, turns) = (device.unset::<f16>(208), device.unset::<f16>(264), device.array(&[1f32; 16]));
    let (positions, slots) = (device.array(&[0u32, 0]), device.array(&[1i32, 2]));
    let part = |range| half.slice().part(range).expect("a part");
    let cached = |range| cache.slice().part(range).expect("a part");
    // Two rows of 2 + 2 heads of 16, one norm, caches of two blocks of 4.
    let fits = RopeKv {
        qkv: part(0..128),
        bias: Some(part(128..192)),
        q_norm: Some(part(192..208)),
        k_norm: Some(part(192..208)),
        rotations: turns.slice(),
        positions: positions.slice(),
        slots: slots.slice(),
        k_cache: cached(0..128),
        v_cache: cached(128..256),
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        block_size: 4,
        eps: EPS,
    };
    let launch = |rope: RopeKv<f16>| rope.launch(device.kernels, &device.stream);
    launch(fits).expect("what fits is launched");
    let unfit = [
        RopeKv { qkv: part(0..127), ..fits },
        RopeKv { qkv: part(1..129), ..fits },
        RopeKv { bias: Some(part(0..16)), ..fits },
        RopeKv { q_norm: Some(part(0..8)), ..fits },
        RopeKv { k_norm: Some(part(0..64)), ..fits },
        RopeKv { rotations: turns.slice().part(0..15).expect("a part"), ..fits },
        RopeKv { slots: slots.slice().part(0..1).expect("a part"), ..fits },
        RopeKv { k_cache: cached(0..120), ..fits },
        RopeKv { v_cache: cached(64..256), ..fits },
        RopeKv { v_cache: cached(129..257), ..fits },
        RopeKv { heads: 0, ..fits },
        RopeKv { kv_heads: 0, ..fits },
        RopeKv { block_size: 0, ..fits },
        RopeKv { head_dim: 17, ..fits },
        RopeKv { head_dim: 1024, ..fits },
    ];
    for rope in unfit {
        let refused = launch(rope).expect_err("what does not fit is refused").to_string();
        assert!(refused.starts_with("rope_kv: "), "{refused}");
    }
}
