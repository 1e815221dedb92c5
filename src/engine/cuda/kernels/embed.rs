//! `kernels/embed.cu`: the rows of a table that ids name, widened to `f32`.

use super::Checks;
use super::launch::{DeviceSlice, Half, Kernels, LaunchFault, Traffic, launch};
use cudarc::driver::CudaStream;

const CHECKS: Checks = Checks { kernel: "embed" };
const THREADS: u32 = 256;

/// The arguments of one launch.
#[derive(Clone, Copy, Debug)]
pub struct Embed<T> {
    /// `[vocab, hidden]`.
    pub table: DeviceSlice<T>,
    /// `[rows]`. Each must be below `vocab`, which only whoever wrote them can have checked.
    pub ids: DeviceSlice<u32>,
    /// `[rows, hidden]`, written.
    pub x: DeviceSlice<f32>,
    /// Numbers in a row.
    pub hidden: usize,
}

impl<T: Half> Embed<T> {
    /// Launches it on `stream`; no rows are no launch.
    ///
    /// # Errors
    /// If a slice is not of its shape or not aligned to 16 bytes (a hidden size that is no multiple of 8 needs no
    /// alignment), or the driver refuses.
    pub fn launch(&self, kernels: &Kernels, stream: &CudaStream) -> Result<(), LaunchFault> {
        let rows = CHECKS.count("rows", self.ids.len())?;
        let hidden = CHECKS.count("numbers a row", self.hidden)?;
        if hidden == 0 {
            return Err(CHECKS.fault("rows of no numbers".into()));
        }
        CHECKS.matrix("table", self.table, &[self.table.len() / self.hidden, self.hidden])?;
        CHECKS.matrix("x", self.x, &[self.ids.len(), self.hidden])?;
        if rows == 0 {
            return Ok(());
        }
        let arguments = [self.table.into(), self.ids.into(), self.x.into(), hidden.into()];
        // SAFETY: the parameters of `embed_*`; one block a row of `ids` and `x`, which hold so many; ids are below the
        // table's rows, as the field demands.
        unsafe { launch(stream, (CHECKS.kernel, T::of(&kernels.embed)), (rows, 1, 1), THREADS, &arguments) }
    }

    /// What one launch must move, if no id comes twice.
    pub fn traffic(&self) -> Traffic {
        let (rows, hidden) = (self.ids.len() as u64, self.hidden as u64);
        Traffic { read_bytes: rows * (4 + hidden * 2), written_bytes: rows * hidden * 4 }
    }
}

/// What the kernel must compute, exactly.
pub fn oracle<T: Half>(table: &[T], ids: &[u32], hidden: usize) -> Vec<f32> {
    ids.iter().flat_map(|id| &table[*id as usize * hidden..][..hidden]).map(|v| v.to_f32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rows_are_those_that_ids_name() {
        let table: Vec<bf16> = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].map(bf16::from_f32).into();
        assert_eq!(oracle(&table, &[2, 0, 2], 2), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        assert!(oracle(&table, &[], 2).is_empty());
    }
}
