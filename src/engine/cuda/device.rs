//! A CUDA device as the engine uses it: one context, one stream, and what is known of the chip.

use super::kernels::launch::LaunchFault;
use cudarc::cublaslt::result::CublasError;
use cudarc::driver::sys::{CUdevice_attribute as Attribute, cudaError_enum as Code};
use cudarc::driver::{CudaContext, CudaStream, DriverError};
use stageline_base::Fault;
use stageline_engine::setup::runs_on;
use std::cell::Cell;
use std::sync::Arc;

/// An open device. It belongs to the thread that opened it.
pub struct Gpu {
    /// The device's primary context.
    pub context: Arc<CudaContext>,
    /// Where all work of the engine goes, in order.
    pub stream: Arc<CudaStream>,
    /// Where a step's inputs go up while another step runs. Nothing but [`StepBuffers`](super::buffers::StepBuffers) uses it.
    pub uploads: Arc<CudaStream>,
    /// How many blocks run at once, at least.
    pub multiprocessors: u32,
    /// Shared memory of each multiprocessor, in bytes.
    pub shared_bytes: usize,
    /// Bytes of the arenas that there are.
    pub taken: Cell<usize>,
    lost: Cell<bool>,
}

impl Gpu {
    /// Opens the device of this number.
    ///
    /// # Errors
    /// `InvalidRequest` if there is no such device or it is too old; `DeviceFailed` if it does not work.
    pub fn open(number: usize) -> Result<Self, Fault> {
        let cannot = |e: DriverError| Fault::invalid(format!("cannot use CUDA device {number}: {}", words(e)));
        let context = CudaContext::new(number).map_err(cannot)?;
        runs_on(context.compute_capability().map_err(cannot)?)?;
        // SAFETY: events would order the use of `CudaSlice`s on several streams; this engine has none of them, and orders its
        // two streams itself.
        // They must be off, since waiting on one breaks the capture of a graph.
        unsafe { context.disable_event_tracking() };
        let (stream, uploads) = (context.new_stream().map_err(cannot)?, context.new_stream().map_err(cannot)?);
        let count = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_err(cannot)?;
        let multiprocessors = u32::try_from(count).unwrap_or(1).max(1);
        let shared = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
        let shared_bytes = usize::try_from(shared.map_err(cannot)?).unwrap_or(0);
        let (taken, lost) = (Cell::new(0), Cell::new(false));
        Ok(Self { context, stream, uploads, multiprocessors, shared_bytes, taken, lost })
    }

    /// What the chip has, as plans take it: multiprocessors, and the shared memory of each.
    pub fn chip(&self) -> (usize, usize) {
        (self.multiprocessors as usize, self.shared_bytes)
    }

    /// The fault for a refused or failed driver call: `what` was being done.
    pub fn fault(&self, what: &str, error: DriverError) -> Fault {
        self.lost.set(self.lost.get() || is_lost(error.0));
        Fault::device(format!("{what}: {}", words(error)))
    }

    /// The fault for a kernel that was not launched.
    pub fn launch_fault(&self, fault: LaunchFault) -> Fault {
        match fault {
            LaunchFault::Unfit { .. } => Fault::internal(fault.to_string()),
            LaunchFault::Driver { kernel, error } => self.fault(&format!("launching {kernel}"), error),
        }
    }

    /// The fault for a failed call of cuBLASLt.
    pub fn blas_fault(&self, what: &str, error: CublasError) -> Fault {
        Fault::device(format!("{what}: cuBLASLt says {error}"))
    }

    /// Whether a call has said that nothing will run on this context any more.
    pub fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Waits until all that was given to both streams is done.
    ///
    /// # Errors
    /// `DeviceFailed` if any of it failed.
    pub fn synchronize(&self, what: &str) -> Result<(), Fault> {
        let both = [&self.uploads, &self.stream].map(|stream| stream.synchronize().map_err(|e| self.fault(what, e)));
        both.into_iter().collect()
    }

    /// Bytes of device memory that are free now, and in all.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver does not say.
    pub fn memory(&self) -> Result<(usize, usize), Fault> {
        self.context.mem_get_info().map_err(|e| self.fault("asking for the free device memory", e))
    }
}

/// Whether the driver answers every later call of the context with this error, too: those of which cuda.h says that the process
/// must be "terminated and relaunched", those of a device or context that is gone, and the one that says nothing. Any other
/// leaves the device as it was: only the batch failed.
fn is_lost(code: Code) -> bool {
    matches!(
        code,
        Code::CUDA_ERROR_ECC_UNCORRECTABLE
            | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | Code::CUDA_ERROR_CONTAINED
            | Code::CUDA_ERROR_DEINITIALIZED
            | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | Code::CUDA_ERROR_ILLEGAL_ADDRESS
            | Code::CUDA_ERROR_LAUNCH_TIMEOUT
            | Code::CUDA_ERROR_ASSERT
            | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Code::CUDA_ERROR_MISALIGNED_ADDRESS
            | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | Code::CUDA_ERROR_INVALID_PC
            | Code::CUDA_ERROR_LAUNCH_FAILED
            | Code::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | Code::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | Code::CUDA_ERROR_EXTERNAL_DEVICE
            | Code::CUDA_ERROR_UNKNOWN
            | Code::CUDA_ERROR_DEVICE_UNAVAILABLE
            | Code::CUDA_ERROR_SYSTEM_NOT_READY
    )
}

/// The driver's name of an error and its explanation.
fn words(error: DriverError) -> String {
    let text = |said: Result<&std::ffi::CStr, _>| said.map_or("?".into(), |said| said.to_string_lossy().into_owned());
    format!("{} ({})", text(error.error_name()), text(error.error_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_context_is_told_from_what_fails_a_batch() {
        for lost in
            [Code::CUDA_ERROR_ILLEGAL_ADDRESS, Code::CUDA_ERROR_LAUNCH_FAILED, Code::CUDA_ERROR_ECC_UNCORRECTABLE]
        {
            assert!(is_lost(lost), "{lost:?}");
        }
        for batch in
            [Code::CUDA_ERROR_OUT_OF_MEMORY, Code::CUDA_ERROR_INVALID_VALUE, Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES]
        {
            assert!(!is_lost(batch), "{batch:?}");
        }
    }
}
