//! What a device thread drives.

use crate::base::{Fault, HostTensor};
use crate::core::{Microbatch, Output};

/// Runs one stage's layers on one device.
///
/// It holds weights and KV memory and nothing about sequences: a batch carries all that it needs.
/// Writing a position's KV again is harmless, since a failed batch is run again member by member.
pub trait Executor: Send {
    /// Runs the shapes that will come, so that the first request does not pay for it.
    ///
    /// # Errors
    /// `DeviceFailed` if the device cannot run the stage at all.
    fn warm_up(&mut self) -> Result<(), Fault>;

    /// Runs `batch` on `inputs`, one tensor a member: token ids `[rows, 1]` at stage 0, activations `[rows, hidden]`
    /// after it.
    ///
    /// # Errors
    /// `DeviceFailed` if the batch failed; the KV of its rows is then undefined, everything else is as before.
    fn run(&mut self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Output, Fault>;

    /// Whether nothing will run on this device any more, after a batch that failed: its process must be started again.
    fn is_lost(&self) -> bool {
        false
    }
}
