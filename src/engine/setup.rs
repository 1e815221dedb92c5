//! Where and how a stage is to run.

use crate::Runner;
use stageline_base::Fault;
use stageline_model::KvShape;
use stageline_ops::{Isa, Threads};

/// Oldest compute capability that the kernels run on: bf16 in `mma.sync` came with it.
const OLDEST: (i32, i32) = (8, 0);

/// Which device a stage runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU, in the given instructions.
    Cpu(Isa),
    /// A CUDA device, by its number.
    Cuda(usize),
}

/// How a stage is set up on its device.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The device.
    pub device: DeviceChoice,
    /// What runs there.
    pub runner: Runner,
    /// The process's threads; all its stages share them.
    pub threads: Threads,
    /// The KV cache; unused by encoders. It is made smaller where the device has not the memory and `least_blocks` are fewer.
    pub kv: KvShape,
    /// Blocks of it without which there is no serving.
    pub least_blocks: usize,
    /// Executors of the same device that are warmed up after this one, and need memory then.
    pub to_come: usize,
    /// Part of the device's memory that all executors of this process may take, where one takes what is free. On the CPU, of
    /// what is left to the process, and of this executor alone.
    pub share: f32,
    /// Longest sequence.
    pub max_model_len: usize,
    /// Most rows of a batch.
    pub max_rows: usize,
    /// Most sequences of a batch.
    pub max_seqs: usize,
}

impl Setup {
    /// Whether the KV cache is to be as large as there is room for on the CPU.
    pub(super) fn is_fitted(&self) -> bool {
        matches!(self.device, DeviceChoice::Cpu(_)) && self.least_blocks < self.kv.blocks
    }

    /// Does `work` with the process's threads at hand, where the device is the CPU. On a CUDA device this thread does it
    /// alone: candle gives every thread a stream of its own, and nothing orders what two of them do.
    pub(super) fn work<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self.device {
            DeviceChoice::Cpu(_) => self.threads.run(work),
            DeviceChoice::Cuda(_) => work(),
        }
    }
}

/// Whether our kernels, and candle's as we build them, run on a device of compute capability `(major, minor)`.
///
/// # Errors
/// `InvalidRequest` if they do not.
pub fn runs_on((major, minor): (i32, i32)) -> Result<(), Fault> {
    if (major, minor) >= OLDEST {
        return Ok(());
    }
    Err(Fault::invalid(format!(
        "the CUDA device has compute capability {major}.{minor}, but {}.{} or newer is needed: use --device cpu",
        OLDEST.0, OLDEST.1
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_from_compute_capability_8_on_are_taken() {
        for taken in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 1)] {
            assert!(runs_on(taken).is_ok(), "{taken:?}");
        }
        for refused in [(0, 0), (6, 1), (7, 0), (7, 5)] {
            let fault = runs_on(refused).unwrap_err();
            assert!(fault.message.contains(&format!("capability {}.{}", refused.0, refused.1)), "{fault}");
        }
    }
}
