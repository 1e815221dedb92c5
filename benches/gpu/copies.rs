//! What copies give: the rate that every kernel, and every decode step, is held against.

use crate::clock::{Times, queued};
use crate::device::Device;
use crate::plan::Plan;
use crate::report::{Part, Report};
use stageline_base::Fault;

const PART: Part = Part { name: "copies", says: "Four copies, one behind the other." };
/// Copies of a round.
const COPIES: usize = 4;
/// What of the free memory the two ends of a copy may take.
const SHARE: usize = 4;

/// Bytes a second that a copy from device memory to device memory reads and writes together.
pub fn measure(device: &Device, plan: &Plan, report: &mut Report) -> Result<f64, Fault> {
    let (gpu, stream) = (&device.gpu, &device.gpu.stream);
    let fault = |e| gpu.fault("copying", e);
    let bytes = plan.copy_bytes.min(gpu.memory()?.0 / SHARE);
    let from = stream.alloc_zeros::<u8>(bytes).map_err(fault)?;
    let mut to = stream.alloc_zeros::<u8>(bytes).map_err(fault)?;
    // SAFETY: all of it is written below.
    let mut pinned = unsafe { gpu.context.alloc_pinned_with_flags::<u8>(bytes, 0) }.map_err(fault)?;
    pinned.as_mut_slice().map_err(fault)?.fill(1);

    let mut line = |what: &str, times: Times, moved: usize| {
        let rate = moved as f64 / times.median;
        let rates = [("bytes", moved as f64), ("gb_per_s", rate / 1e9)];
        report.line(&PART, what, &[&times.in_us()[..], &rates].concat()).map(|()| rate)
    };
    let within = queued(device, COPIES, |_| stream.memcpy_dtod(&from, &mut to).map_err(fault))?;
    let rate = line("device to device, read and written", within, 2 * bytes)?;
    let up = queued(device, COPIES, |_| stream.memcpy_htod(&pinned, &mut to).map_err(fault))?;
    line("page-locked host to device", up, bytes)?;
    let down = queued(device, COPIES, |_| stream.memcpy_dtoh(&from, &mut pinned).map_err(fault))?;
    line("device to page-locked host", down, bytes)?;
    gpu.synchronize("copying")?;
    Ok(rate)
}
