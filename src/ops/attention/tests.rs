use super::*;
use crate::tests::{assert_close, bits, each_path, noise};
use candle_core::{DType, Device};

fn slots(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Device::Cpu).expect("on the CPU")
}

#[test]
fn attention_is_candles_in_every_shape() -> Result<()> {
    let shapes = [(9, 3, 64), (4, 4, 32), (6, 2, 40), (2, 1, 150)];
    for ((heads, kv_heads, head_dim), window) in shapes.into_iter().zip([None, Some(1), Some(17), Some(49)]) {
        let shape = AttentionShape { heads, kv_heads, head_dim, window };
        let keys = noise(&[64, kv_heads * head_dim + 7], 2)?.narrow(1, 3, kv_heads * head_dim)?;
        let values = noise(&[64, kv_heads * head_dim], 3)?;
        let queries = noise(&[26, heads * head_dim], 1)?.affine(3.0, 0.0)?;
        let all: Vec<u32> = (0..50).map(|i| i * 7 % 64).collect();
        let spans = [
            Span { rows: 0..1, slots: slots(&all), causal: true },
            Span { rows: 1..18, slots: slots(&all[..17]), causal: true },
            Span { rows: 18..23, slots: slots(&all[9..46]), causal: true },
            Span { rows: 23..26, slots: slots(&all[..16]), causal: false },
        ];
        let run = |ops: Ops| ops.attention(&queries, &keys, &values, shape, &spans);
        assert_close(&each_path(run)?, &run(Ops::candle())?, 1e-5);
    }
    Ok(())
}

#[test]
fn a_row_alone_has_the_bits_that_it_has_in_a_chunk() -> Result<()> {
    for window in [None, Some(19)] {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 48, window };
        let (keys, values) = (noise(&[40, 96], 2)?, noise(&[40, 96], 3)?);
        let queries = noise(&[40, 192], 1)?;
        let all: Vec<u32> = (0..40).rev().collect();
        let ops = Ops::rows(Isa::available()[0]);
        let whole = [Span { rows: 0..40, slots: slots(&all), causal: true }];
        let whole = ops.attention(&queries, &keys, &values, shape, &whole)?;
        for row in 0..40 {
            let alone = [Span { rows: 0..1, slots: slots(&all[..=row]), causal: true }];
            let alone = ops.attention(&queries.narrow(0, row, 1)?, &keys, &values, shape, &alone)?;
            assert_eq!(bits(&alone)?, bits(&whole.narrow(0, row, 1)?)?, "row {row}, window {window:?}");
        }
    }
    Ok(())
}

#[test]
fn a_row_sees_as_many_positions_as_its_window_has() -> Result<()> {
    // Equal scores, and values that say where they are: the mean is that of the positions seen.
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 1, window: Some(3) };
    let (ones, places) = (Tensor::ones((6, 1), DType::F32, &Device::Cpu)?, Tensor::arange(0f32, 6.0, &Device::Cpu)?);
    let spans = [Span { rows: 0..6, slots: slots(&[0, 1, 2, 3, 4, 5]), causal: true }];
    for ops in [Ops::candle(), Ops::rows(Isa::available()[0])] {
        let means = ops.attention(&ones, &ones, &places.unsqueeze(1)?, shape, &spans)?;
        assert_close(&means.flatten_all()?, &Tensor::new(&[0f32, 0.5, 1.0, 2.0, 3.0, 4.0], &Device::Cpu)?, 1e-6);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 16, window: None };
    let x = noise(&[4, 16], 1)?;
    let ops = Ops::rows(Isa::available()[0]);
    for (rows, ids) in
        [(0..3, &[0, 1, 2][..]), (0..4, &[0, 1, 4, 2]), (0..4, &[0, 1]), (1..4, &[0, 1, 2]), (0..5, &[0; 5])]
    {
        let spans = [Span { rows: rows.clone(), slots: slots(ids), causal: true }];
        assert!(ops.attention(&x, &x, &x, shape, &spans).is_err(), "{rows:?} {ids:?}");
    }
    Ok(())
}
