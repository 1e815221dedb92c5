//! Where the words of a step and what it leaves are between the host and the device. There are as many as steps may be under
//! way: while one step runs, the next one's words go up on a stream of their own.

use super::arena::Pinned;
use super::device::Gpu;
use super::kernels::launch::DeviceSlice;
use cudarc::driver::{CudaEvent, DriverError, result};
use stageline_base::Fault;
use std::rc::Rc;

/// The buffers of one step. Whoever begins a step in them has waited for the step that was in them before.
pub struct StepBuffers {
    /// What goes up.
    pub up: Pinned<u32>,
    /// What has come down.
    pub down: Pinned<f32>,
    /// Where words wait on the device until the steps before theirs are done with [`Self::send`]'s target.
    waiting: DeviceSlice<u32>,
    /// They have come up.
    sent: CudaEvent,
    /// The step has run and what it leaves has come down.
    done: CudaEvent,
    gpu: Rc<Gpu>,
}

impl StepBuffers {
    /// For steps of as many words as `waiting` holds, that leave at most `down` numbers.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver has no memory for them.
    pub fn new(gpu: &Rc<Gpu>, waiting: DeviceSlice<u32>, down: usize) -> Result<Self, Fault> {
        let event = || gpu.context.new_event(None).map_err(|e| gpu.fault("making an event", e));
        Ok(Self {
            up: Pinned::new(gpu, waiting.len())?,
            down: Pinned::new(gpu, down)?,
            waiting,
            sent: event()?,
            done: event()?,
            gpu: gpu.clone(),
        })
    }

    /// Queues the way of the first words of [`Self::up`] to `words`, where the step reads them: up at once, and into place
    /// when the steps before it have run.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver refuses; `Internal` if there are more words than there is room for.
    pub fn send(&self, words: DeviceSlice<u32>) -> Result<(), Fault> {
        let Some(waiting) = self.waiting.part(0..words.len()) else {
            return Err(Fault::internal(format!(
                "{} words where there is room for {}",
                words.len(),
                self.waiting.len()
            )));
        };
        self.up.upload(waiting)?;
        let refused = |e: DriverError| self.gpu.fault("ordering a step behind its inputs", e);
        self.sent.record(&self.gpu.uploads).map_err(refused)?;
        self.gpu.stream.wait(&self.sent).map_err(refused)?;
        let (bytes, stream) = (4 * words.len(), self.gpu.stream.cu_stream());
        // SAFETY: two ranges of the step's arena, which outlives the stream's work, of `words.len()` words each.
        let done = unsafe { result::memcpy_dtod_async(words.address(), waiting.address(), bytes, stream) };
        done.map_err(|e| self.gpu.fault(&format!("copying {bytes} bytes on the device"), e))
    }

    /// Marks the end of the step and of its downloads.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver refuses.
    pub fn end(&self) -> Result<(), Fault> {
        self.done.record(&self.gpu.stream).map_err(|e| self.gpu.fault("marking the end of a step", e))
    }

    /// Whether [`Self::wait`] would not wait.
    pub fn is_done(&self) -> bool {
        // A fault is for `wait` to tell.
        self.done.try_is_complete().unwrap_or(true)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// `DeviceFailed` if the step failed.
    pub fn wait(&self) -> Result<(), Fault> {
        self.done.synchronize().map_err(|e| self.gpu.fault("running a step", e))
    }
}
