//! `kernels/silu_mul.cu`.

use super::{ROWS, WIDTHS, assert_rounded, floats};
use crate::device;
use half::{bf16, f16};
use stageline_cuda::kernels::silu_mul::{SiluMul, oracle};
use stageline_cuda::launch::Half;

fn check<T: Half>(rows: usize, width: usize, biased: bool) {
    let device = device();
    let halves = |count, seed, scale: f32| -> Vec<T> {
        floats(count, seed).into_iter().map(|n| T::from_f32(n * scale)).collect()
    };
    // Gates from where the exponential overflows to where it vanishes.
    let gate_up = halves(rows * 2 * width, 1, 120.0);
    let bias = biased.then(|| halves(2 * width, 2, 1.0));
    let (there, out) = (device.array(&gate_up), device.unset::<T>(rows * width));
    let bias_there = bias.as_ref().map(|bias| device.array(bias));
    let silu =
        SiluMul { gate_up: there.slice(), bias: bias_there.as_ref().map(|bias| bias.slice()), out: out.slice(), width };
    silu.launch(device.kernels, &device.stream).expect("a launch");
    let what = format!("{rows} rows of {width}, bias {biased}");
    assert_rounded(&out.read(), &oracle(&gate_up, bias.as_deref(), width), 4e-6, &what);
}

#[test]
fn activations_are_the_oracles_in_both_types() {
    for width in WIDTHS {
        for rows in ROWS {
            check::<bf16>(rows, width, rows % 2 == 0);
            check::<f16>(rows, width, rows % 2 == 1);
        }
    }
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let device = device();
    let (half, out) = (device.unset::<f16>(64), device.unset::<f16>(17));
    let part = |range| half.slice().part(range).expect("a part");
    let out = |range| out.slice().part(range).expect("a part");
    let fits = SiluMul { gate_up: part(0..32), bias: Some(part(32..48)), out: out(0..16), width: 8 };
    let launch = |silu: SiluMul<f16>| silu.launch(device.kernels, &device.stream);
    launch(fits).expect("what fits is launched");
    let unfit = [
        SiluMul { width: 0, ..fits },
        SiluMul { width: 16, ..fits },
        SiluMul { gate_up: part(0..31), ..fits },
        SiluMul { gate_up: part(1..33), ..fits },
        SiluMul { bias: Some(part(0..8)), ..fits },
        SiluMul { out: out(1..17), ..fits },
        SiluMul { out: out(0..17), ..fits },
    ];
    for silu in unfit {
        let refused = launch(silu).expect_err("what does not fit is refused").to_string();
        assert!(refused.starts_with("silu_mul: "), "{refused}");
    }
}
