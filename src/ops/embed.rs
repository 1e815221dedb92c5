//! Rows of a table, looked up by their numbers.

use super::view::numbers;
use super::{Ops, Path};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use half::{bf16, f16};

impl Ops {
    /// The rows of `table`, `[count, width]` in `f32`, `bf16` or `f16`, that `ids` (`u32`, `[rows]`) name: `[rows, width]`
    /// in `f32`.
    ///
    /// # Errors
    /// If an id is not below the table's count, or the device fails.
    pub fn embed(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        match self.0 {
            Path::Rows(_) => table.apply_op2_no_bwd(ids, &Gather),
            Path::Candle => table.index_select(ids, 0)?.to_dtype(DType::F32),
        }
    }
}

struct Gather;

impl CustomOp2 for Gather {
    fn name(&self) -> &'static str {
        "row-gather"
    }

    fn cpu_fwd(&self, table: &CpuStorage, tl: &Layout, ids: &CpuStorage, il: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, width) = tl.shape().dims2()?;
        let ids = numbers::<u32>(ids, il)?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= count) {
            bail!("a table of {count} rows has no row {id}")
        }
        let mut out = Vec::with_capacity(ids.len() * width);
        match table {
            CpuStorage::F32(_) => gather(numbers::<f32>(table, tl)?, width, ids, &mut out, |v| v),
            CpuStorage::BF16(_) => gather(numbers::<bf16>(table, tl)?, width, ids, &mut out, bf16::to_f32),
            CpuStorage::F16(_) => gather(numbers::<f16>(table, tl)?, width, ids, &mut out, f16::to_f32),
            _ => bail!("tables are f32, bf16 or f16"),
        }
        Ok((CpuStorage::F32(out), (ids.len(), width).into()))
    }
}

fn gather<T: Copy>(table: &[T], width: usize, ids: &[u32], out: &mut Vec<f32>, widen: impl Fn(T) -> f32) {
    for id in ids {
        let row = *id as usize * width;
        out.extend(table[row..row + width].iter().map(|v| widen(*v)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, each_path, noise};
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_are_candles_in_every_type() -> Result<()> {
        let ids = Tensor::new(&[3u32, 0, 3], &Device::Cpu)?;
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let table = noise(&[4, 33], 1)?.to_dtype(dtype)?;
            let got = each_path(|ops| ops.embed(&table, &ids))?;
            assert_close(&got, &Ops::candle().embed(&table, &ids)?, 0.0);
            assert!(each_path(|ops| ops.embed(&table.narrow(0, 0, 3)?, &ids)).is_err(), "row 3 of 3 must be refused");
        }
        Ok(())
    }
}
