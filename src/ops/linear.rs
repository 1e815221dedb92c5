//! A linear map: `y = x W^T + b`.

use super::matmul::{Operands, matmul};
use super::simd::Isa;
use super::stored::Stored;
use super::view::numbers;
use super::{Ops, Path};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

/// The weights of a linear map.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[columns, depth]`, in the type that it is stored in: `f32`, `bf16` or `f16`.
    pub weight: Tensor,
    /// `[columns]`, `f32`.
    pub bias: Option<Tensor>,
}

impl Ops {
    /// `x W^T + b` of `x`, `[rows, depth]`: `[rows, columns]`.
    ///
    /// # Errors
    /// If the shapes do not fit, or the device fails.
    pub fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        let Linear { weight, bias } = linear;
        match (self.0, bias) {
            (Path::Rows(isa), None) => x.apply_op2_no_bwd(weight, &RowMatmul(isa)),
            (Path::Rows(isa), Some(bias)) => x.apply_op3_no_bwd(weight, bias, &RowMatmul(isa)),
            // Widened at every use: twice the work, but memory holds the weights as they are stored.
            (Path::Candle, None) => x.matmul(&weight.to_dtype(DType::F32)?.t()?),
            (Path::Candle, Some(bias)) => x.matmul(&weight.to_dtype(DType::F32)?.t()?)?.broadcast_add(bias),
        }
    }
}

struct RowMatmul(Isa);

impl RowMatmul {
    fn run(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, depth) = x.1.shape().dims2()?;
        let (columns, weight_depth) = weight.1.shape().dims2()?;
        if depth != weight_depth || bias.is_some_and(|bias| bias.len() != columns) {
            bail!("rows of {depth} numbers do not fit weights {:?}, or these their bias", weight.1.shape())
        }
        let x = numbers::<f32>(x.0, x.1)?;
        let mut y = vec![0f32; rows * columns];
        match weight.0 {
            CpuStorage::F32(_) => self.multiply(x, numbers::<f32>(weight.0, weight.1)?, bias, &mut y, depth),
            CpuStorage::BF16(_) => self.multiply(x, numbers::<half::bf16>(weight.0, weight.1)?, bias, &mut y, depth),
            CpuStorage::F16(_) => self.multiply(x, numbers::<half::f16>(weight.0, weight.1)?, bias, &mut y, depth),
            _ => bail!("weights are f32, bf16 or f16"),
        }
        Ok((CpuStorage::F32(y), (rows, columns).into()))
    }

    fn multiply<T: Stored>(&self, x: &[f32], w: &[T], bias: Option<&[f32]>, y: &mut [f32], depth: usize) {
        matmul(self.0, &Operands { x, w, bias, depth }, y);
    }
}

impl CustomOp2 for RowMatmul {
    fn name(&self) -> &'static str {
        "row-matmul"
    }
    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run((x, xl), (w, wl), None)
    }
}

impl CustomOp3 for RowMatmul {
    fn name(&self) -> &'static str {
        "row-matmul"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run((x, xl), (w, wl), Some(numbers(b, bl)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, bits, each_path, noise};
    use super::*;

    #[test]
    fn a_linear_map_is_candles_in_every_type_and_size() -> Result<()> {
        for (rows, depth, columns) in [(1, 576, 70), (2, 64, 33), (13, 100, 35), (150, 32, 96), (7, 5, 3)] {
            let x = noise(&[rows, depth], 1)?;
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let weight = noise(&[columns, depth], 2)?.to_dtype(dtype)?;
                for bias in [None, Some(noise(&[columns], 3)?)] {
                    let linear = Linear { weight: weight.clone(), bias };
                    let got = each_path(|ops| ops.linear(&x, &linear))?;
                    assert_close(&got, &Ops::candle().linear(&x, &linear)?, 1e-5);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_row_alone_has_the_bits_that_it_has_among_others() -> Result<()> {
        let (x, weight) = (noise(&[143, 100], 1)?, noise(&[75, 100], 2)?.to_dtype(DType::BF16)?);
        let linear = Linear { weight, bias: Some(noise(&[75], 3)?) };
        let all = each_path(|ops| ops.linear(&x, &linear))?;
        for count in [1, 2, 3, 5, 8] {
            for first in (0..143 - count).step_by(17) {
                let some = each_path(|ops| ops.linear(&x.narrow(0, first, count)?, &linear))?;
                assert_eq!(bits(&some)?, bits(&all.narrow(0, first, count)?)?, "rows {first}, {count} of them");
            }
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let ops = Ops::rows(Isa::available()[0]);
        let x = noise(&[2, 8], 1)?;
        let narrow = Linear { weight: noise(&[3, 7], 1)?, bias: None };
        let biased = Linear { weight: noise(&[3, 8], 1)?, bias: Some(noise(&[4], 1)?) };
        let double = Linear { weight: noise(&[3, 8], 1)?.to_dtype(DType::F64)?, bias: None };
        assert!(
            ops.linear(&x, &narrow).is_err() && ops.linear(&x, &biased).is_err() && ops.linear(&x, &double).is_err()
        );
        Ok(())
    }
}
