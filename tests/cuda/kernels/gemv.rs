//! `kernels/gemv.cu`.

use super::noise;
use crate::{Array, device};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};
use stageline_cuda::kernels::gemv::{Gemv, MOST_ROWS, SumOf, oracle};
use stageline_cuda::launch::Half;

/// What a sum may be off by, relatively to its terms' magnitudes.
const NOISE: f64 = 8e-6;

/// Outputs and inputs: on both sides of a block's outputs, fewer and more inputs than a warp and a block take at a time.
const SHAPES: [(usize, usize); 9] =
    [(1, 8), (4, 16), (7, 256), (8, 264), (15, 1016), (17, 1024), (33, 1032), (65, 2304), (576, 576)];
/// On both sides of what each version takes.
const ROWS: [usize; 8] = [0, 1, 2, 7, 8, 9, 15, MOST_ROWS];

struct Layer<T> {
    weight: Vec<T>,
    bias: Option<Vec<T>>,
    shape: (usize, usize),
}

impl<T: Half> Layer<T> {
    fn new((n, k): (usize, usize), biased: bool) -> Self {
        Self { weight: noise(n * k, 1), bias: biased.then(|| noise(n, 2)), shape: (n, k) }
    }

    /// What the kernel makes of `input`.
    fn run<O: SumOf<T> + DeviceRepr + Clone>(&self, input: &[T]) -> Vec<O> {
        let device = device();
        let (n, k) = self.shape;
        let (weight, input) = (device.array(&self.weight), device.array(input));
        let bias = self.bias.as_ref().map(|bias| device.array(bias));
        let out: Array<O> = device.unset(input.length / k * n);
        let gemv = Gemv {
            weight: weight.slice(),
            input: input.slice(),
            bias: bias.as_ref().map(|bias| bias.slice()),
            out: out.slice(),
            n,
            k,
        };
        gemv.launch(device.kernels, &device.stream).expect("a launch");
        out.read()
    }

    /// Holds `rows` rows, in `T` and in `f32`, against the oracle.
    fn check(&self, rows: usize)
    where
        T: SumOf<T>,
    {
        let (n, k) = self.shape;
        let input = noise::<T>(rows * k, 3);
        let want = oracle(&self.weight, &input, self.bias.as_deref(), k);
        let halves: Vec<f32> = self.run::<T>(&input).into_iter().map(Half::to_f32).collect();
        for (got, rounding) in [(halves, f64::from(T::ROUNDING)), (self.run::<f32>(&input), 0.0)] {
            assert_eq!(got.len(), want.len());
            for (i, (got, (want, size))) in got.into_iter().zip(&want).enumerate() {
                let close = (f64::from(got) - want).abs() <= want.abs() * rounding + size * NOISE;
                assert!(close, "{rows} rows of {k} to {n}: number {i} is {got}, not {want}");
            }
        }
    }
}

fn sums_are_the_oracles<T: Half + SumOf<T>>() {
    for shape in SHAPES {
        for rows in ROWS {
            Layer::<T>::new(shape, rows % 2 == 0).check(rows);
        }
    }
    // The deepest product of 8 thousand million parameters.
    for rows in [1, 2, MOST_ROWS] {
        Layer::<T>::new((24, 14_336), true).check(rows);
    }
}

#[test]
fn sums_are_the_oracles_in_both_types() {
    sums_are_the_oracles::<bf16>();
    sums_are_the_oracles::<f16>();
}

#[test]
fn as_many_outputs_as_a_large_vocabulary_are_the_oracles() {
    Layer::<bf16>::new((128_256, 8), false).check(2);
}

#[test]
fn from_two_rows_on_a_rows_bits_do_not_depend_on_the_rows_beside_it() {
    let (n, k) = (33, 1032);
    let layer = Layer::<bf16>::new((n, k), true);
    let input = noise::<bf16>(MOST_ROWS * k, 3);
    let all = layer.run::<f32>(&input);
    for rows in 2..MOST_ROWS {
        let some = layer.run::<f32>(&input[..rows * k]);
        assert!(some.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()), "{rows} rows");
    }
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let device = device();
    let (half, out) = (device.unset::<f16>(272), device.unset::<f32>(51));
    let part = |range| half.slice().part(range).expect("a part");
    let out = |range| out.slice().part(range).expect("a part");
    let fits = Gemv { weight: part(0..48), input: part(48..64), bias: Some(part(64..67)), out: out(0..3), n: 3, k: 16 };
    let launch = |gemv: Gemv<f16, f32>| gemv.launch(device.kernels, &device.stream);
    launch(fits).expect("what fits is launched");
    launch(Gemv { input: part(0..32), out: out(0..6), ..fits }).expect("two rows fit");
    let unfit = [
        Gemv { weight: part(0..47), ..fits },
        Gemv { weight: part(1..49), ..fits },
        Gemv { input: part(49..65), ..fits },
        Gemv { input: part(0..24), ..fits },
        Gemv { input: part(0..272), out: out(0..51), ..fits },
        Gemv { bias: Some(part(0..2)), ..fits },
        Gemv { out: out(0..5), ..fits },
        Gemv { n: 0, ..fits },
        Gemv { k: 0, ..fits },
        Gemv { weight: part(0..36), input: part(48..60), k: 12, ..fits },
    ];
    for gemv in unfit {
        let refused = launch(gemv).expect_err("what does not fit is refused").to_string();
        assert!(refused.starts_with("gemv: "), "{refused}");
    }
}
