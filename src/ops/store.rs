//! Rows written to given places of a table, in place: how keys and values get into the cache.

use super::view::{Matrix, numbers};
use super::{Ops, Path};
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor, bail};

impl Ops {
    /// Writes row `i` of `rows`, `[rows, width]` (any columns of a tensor), to row `slots[i]` of `table`, `[slots, width]`.
    /// All are `f32` but `slots`, which is `u32`.
    ///
    /// # Errors
    /// If a slot is not in the table, the shapes do not fit, or the device fails.
    pub fn store(&self, table: &Tensor, rows: &Tensor, slots: &Tensor) -> Result<()> {
        match self.0 {
            Path::Rows(_) => table.inplace_op3(rows, slots, &Scatter),
            Path::Candle => {
                let indexes = slots.unsqueeze(1)?.broadcast_as(rows.shape())?.contiguous()?;
                table.scatter_set(&indexes, &rows.contiguous()?, 0)
            }
        }
    }
}

struct Scatter;

impl InplaceOp3 for Scatter {
    fn name(&self) -> &'static str {
        "row-scatter"
    }

    fn cpu_fwd(
        &self,
        table: &mut CpuStorage,
        tl: &Layout,
        rows: &CpuStorage,
        rl: &Layout,
        slots: &CpuStorage,
        sl: &Layout,
    ) -> Result<()> {
        let (count, width) = tl.shape().dims2()?;
        let Some((start, end)) = tl.contiguous_offsets() else { bail!("the table must be contiguous") };
        let CpuStorage::F32(table) = table else { bail!("the table must be f32") };
        let table = &mut table[start..end];
        let rows = Matrix::new(rows, rl)?;
        let slots = numbers::<u32>(slots, sl)?;
        if rows.rows != slots.len() || rows.width != width {
            bail!("{}x{} numbers do not fit {} slots of {width}", rows.rows, rows.width, slots.len())
        }
        if let Some(slot) = slots.iter().find(|slot| **slot as usize >= count) {
            bail!("a table of {count} rows has no row {slot}")
        }
        for (i, slot) in slots.iter().enumerate() {
            let at = *slot as usize * width;
            table[at..at + width].copy_from_slice(rows.row(i));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, each_path, noise};
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn rows_go_where_candle_puts_them() -> Result<()> {
        let slots = Tensor::new(&[4u32, 0, 2], &Device::Cpu)?;
        let rows = noise(&[3, 20], 1)?.narrow(1, 3, 9)?;
        let filled = |ops: Ops| {
            let table = Tensor::zeros((5, 9), DType::F32, &Device::Cpu)?;
            ops.store(&table, &rows, &slots)?;
            Ok(table)
        };
        assert_close(&each_path(filled)?, &filled(Ops::candle())?, 0.0);
        let small = Tensor::zeros((4, 9), DType::F32, &Device::Cpu)?;
        assert!(Ops::rows(super::super::Isa::available()[0]).store(&small, &rows, &slots).is_err());
        Ok(())
    }
}
