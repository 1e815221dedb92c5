//! What a device thread drives.

use stageline_base::{Fault, Tensors};
use stageline_core::{Microbatch, Output};

/// What an executor came to when it was warmed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Blocks of its KV cache.
    pub kv_blocks: u32,
    /// Steps that were to be recorded, but the driver refused: they run launch by launch.
    pub refused_recordings: u32,
}

/// Runs one stage's layers on one device.
///
/// It holds weights and KV memory and nothing about sequences: a batch carries all that it needs.
/// Writing a position's KV again is harmless, since a failed batch is run again member by member.
pub trait Executor: Send {
    /// Runs the shapes that will come, so that the first request does not pay for it, and takes the memory that it was made
    /// without. Once, before the first batch, when all that share the device are made.
    ///
    /// # Errors
    /// `DeviceFailed` if the device cannot run the stage at all, or has not the memory.
    fn warm_up(&mut self) -> Result<Ready, Fault>;

    /// Takes the memory that is left, where that is the process's own: once, after [`Executor::warm_up`], which gave `ready`,
    /// when all that share it are warmed up, so that each sees what the others have shown to need.
    ///
    /// # Errors
    /// `InvalidRequest` if that is too little to serve with, saying what to do.
    fn settle(&mut self, ready: Ready) -> Result<Ready, Fault> {
        Ok(ready)
    }

    /// Hands `batch` to a device that works by itself, while the batches started before it still run: its inputs are there
    /// when its turn comes. At most [`DEVICE_DEPTH`](stageline_core::machine::DEVICE_DEPTH) may be started and not yet run,
    /// and [`Executor::run`] follows for each of them, in the same order. Where this thread does the work there is nothing to
    /// start.
    ///
    /// # Errors
    /// As [`Executor::run`], which must then not be called for this batch.
    fn start(&mut self, _batch: &Microbatch, _inputs: &[Tensors]) -> Result<(), Fault> {
        Ok(())
    }

    /// Whether [`Executor::run`] would not have to wait for the device.
    fn is_done(&mut self) -> bool {
        true
    }

    /// Runs `batch` on `inputs`, which is what crosses in front of the stage: where that is cut by rows, the members' rows one behind the
    /// other, in pieces of any length; otherwise a set for each member. A batch that was started is waited for.
    ///
    /// # Errors
    /// `DeviceFailed` if the batch failed; the KV of its rows is then undefined, everything else is as before.
    fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault>;

    /// Whether nothing will run on this device any more, after a batch that failed: its process must be started again.
    fn is_lost(&self) -> bool {
        false
    }
}
