//! `kernels/add_rms_norm.cu`.

use super::{ROWS, WIDTHS, assert_rounded, floats, noise};
use crate::device;
use half::{bf16, f16};
use stageline_cuda::kernels::add_rms_norm::{AddRmsNorm, oracle};
use stageline_cuda::launch::Half;

const EPS: f32 = 1e-5;

/// `rows` of `hidden`, with or without a delta, all or only those that `take` names.
fn check<T: Half>(rows: usize, hidden: usize, adds: bool, take: Option<&[u32]>) {
    let device = device();
    let what = format!("{rows} rows of {hidden}, delta {adds}, take {take:?}");
    let (x, weight) = (floats(rows * hidden, 1), noise::<T>(hidden, 2));
    let delta = adds.then(|| noise::<T>(rows * hidden, 3));
    let emitted = take.map_or(rows, <[u32]>::len);
    let (x_there, weight_there) = (device.array(&x), device.array(&weight));
    let delta_there = delta.as_ref().map(|delta| device.array(delta));
    let take_there = take.map(|take| device.array(take));
    let out = device.unset::<T>(emitted * hidden);
    let norm = AddRmsNorm {
        x: x_there.slice(),
        delta: delta_there.as_ref().map(|delta| delta.slice()),
        weight: weight_there.slice(),
        out: out.slice(),
        take: take_there.as_ref().map(|take| take.slice()),
        hidden,
        eps: EPS,
    };
    norm.launch(device.kernels, &device.stream).expect("a launch");
    let (sums, norms) = oracle(&x, delta.as_deref(), &weight, take, EPS);
    assert_eq!(x_there.read(), sums, "{what}");
    assert_rounded(&out.read(), &norms, 4e-6, &what);
}

fn norms_are_the_oracles<T: Half>() {
    for hidden in WIDTHS.into_iter().chain([16_384]) {
        for rows in ROWS {
            check::<T>(rows, hidden, true, None);
        }
        check::<T>(3, hidden, false, None);
        check::<T>(5, hidden, true, Some(&[4, 0, 3]));
        check::<T>(5, hidden, false, Some(&[]));
    }
}

#[test]
fn norms_are_the_oracles_in_both_types() {
    norms_are_the_oracles::<bf16>();
    norms_are_the_oracles::<f16>();
}

#[test]
fn eps_keeps_a_row_of_nothing_from_dividing_by_it() {
    let device = device();
    let (x, weight) = (device.array(&[0f32; 8]), device.array(&[bf16::ONE; 8]));
    let out = device.unset::<bf16>(8);
    let norm = AddRmsNorm {
        x: x.slice(),
        delta: None,
        weight: weight.slice(),
        out: out.slice(),
        take: None,
        hidden: 8,
        eps: EPS,
    };
    norm.launch(device.kernels, &device.stream).expect("a launch");
    assert_eq!(out.read(), [bf16::ZERO; 8]);
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let device = device();
    let (x, half) = (device.unset::<f32>(24), device.unset::<f16>(40));
    let take = device.array(&[0u32]);
    let part = |range| half.slice().part(range).expect("a part");
    let fits = AddRmsNorm {
        x: x.slice().part(0..16).expect("a part"),
        delta: Some(part(0..16)),
        weight: part(16..24),
        out: part(24..40),
        take: None,
        hidden: 8,
        eps: EPS,
    };
    let launch = |norm: AddRmsNorm<f16>| norm.launch(device.kernels, &device.stream);
    launch(fits).expect("what fits is launched");
    let unfit = [
        AddRmsNorm { hidden: 0, ..fits },
        AddRmsNorm { hidden: 4, ..fits },
        AddRmsNorm { delta: Some(part(0..8)), ..fits },
        AddRmsNorm { delta: Some(part(1..17)), ..fits },
        AddRmsNorm { weight: part(0..9), ..fits },
        AddRmsNorm { out: part(0..8), ..fits },
        AddRmsNorm { take: Some(take.slice()), ..fits },
        AddRmsNorm { x: x.slice().part(1..17).expect("a part"), ..fits },
        AddRmsNorm { hidden: 16_385, ..fits },
    ];
    for norm in unfit {
        let refused = launch(norm).expect_err("what does not fit is refused").to_string();
        assert!(refused.starts_with("add_rms_norm: "), "{refused}");
    }
}
