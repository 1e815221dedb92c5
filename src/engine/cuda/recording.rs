//! What is given to a stream, kept to be given to it again.

use super::device::Gpu;
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use stageline_base::Fault;

/// Records what `queue` gives to the stream, and what it says.
///
/// # Errors
/// What `queue` says; `DeviceFailed` if the driver refuses.
pub fn record<R>(gpu: &Gpu, queue: impl FnOnce() -> Result<R, Fault>) -> Result<(CudaGraph, R), Fault> {
    let refused = |e| gpu.fault("recording a step", e);
    // What other threads do on the device is none of its business.
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    gpu.stream.begin_capture(mode).map_err(refused)?;
    let queued = queue();
    // Ended in any case: a stream that records runs nothing.
    let graph = gpu.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(refused);
    let (queued, graph) = (queued?, graph?.ok_or_else(|| Fault::device("recording a step gave nothing"))?);
    Ok((graph, queued))
}
