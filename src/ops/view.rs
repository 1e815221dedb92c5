//! How CPU ops see a tensor's memory.

use candle_core::{CpuStorage, Layout, Result, WithDType, bail};

/// The numbers of a contiguous tensor.
pub(super) fn numbers<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("a contiguous tensor is needed, not one of layout {layout:?}"),
    }
}

/// A matrix whose rows are contiguous and equally spaced: a whole tensor, or some columns of one.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    numbers: &'a [f32],
    stride: usize,
    /// Numbers of a row.
    pub width: usize,
    /// How many rows.
    pub rows: usize,
}

impl<'a> Matrix<'a> {
    /// The two-dimensional `f32` tensor that lies in `storage`.
    pub fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (rows, width) = layout.shape().dims2()?;
        let &[stride, 1] = layout.stride() else {
            bail!("rows of neighbouring numbers are needed, not a tensor of layout {layout:?}")
        };
        let numbers = &storage.as_slice::<f32>()?[layout.start_offset()..];
        if rows > 0 && numbers.len() < (rows - 1) * stride + width {
            bail!("a tensor of layout {layout:?} ends before its last row")
        }
        Ok(Self { numbers, stride, width, rows })
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.numbers[i * self.stride..i * self.stride + self.width]
    }
}
