//! Our kernels, each at the shapes of a model, with the bytes that its own formula says it must move.

mod attention;
mod rows;

use crate::clock::recorded;
use crate::device::{Device, Memory};
use crate::plan::Plan;
use crate::report::{Part, Report};
use cudarc::driver::CudaStream;
use stageline_base::Fault;
use stageline_cuda::launch::{Kernels, LaunchFault, Traffic};

pub const PART: Part = Part {
    name: "kernels",
    says: "Recorded as one graph, each launch on memory of its own, the cache emptied before. bytes: what the kernel's formula \
           says it must move; of_copy: gb_per_s over that of copies within the device.",
};

/// Gives launches to a stream.
type Queue = dyn Fn(&Kernels, &CudaStream) -> Result<(), LaunchFault>;

/// What goes to the stream, and how much of memory it must move.
struct Launch {
    traffic: Traffic,
    queue: Box<Queue>,
}

impl Launch {
    fn new(
        traffic: Traffic,
        queue: impl Fn(&Kernels, &CudaStream) -> Result<(), LaunchFault> + 'static,
    ) -> Result<Self, Fault> {
        Ok(Self { traffic, queue: Box::new(queue) })
    }

    fn bytes(&self) -> u64 {
        self.traffic.read_bytes + self.traffic.written_bytes
    }
}

/// Where kernels are measured, and against what.
struct Bench<'a> {
    device: &'a Device,
    plan: &'a Plan,
    copy_rate: f64,
    report: &'a mut Report,
}

impl Bench<'_> {
    /// A line of launches that `make` makes, each on memory of its own.
    fn line(&mut self, what: &str, make: impl Fn(&Memory) -> Result<Launch, Fault>) {
        let measured = self.measured(what, make);
        self.report.note(&PART, what, measured);
    }

    fn measured(&mut self, what: &str, make: impl Fn(&Memory) -> Result<Launch, Fault>) -> Result<(), Fault> {
        let device = self.device;
        let memory = Memory::new(device);
        let mut launches = vec![make(&memory)?];
        let bytes = launches[0].bytes();
        for _ in 1..self.plan.launches(bytes) {
            launches.push(make(&memory)?);
        }
        let queue = |i: usize| {
            let queued = (launches[i].queue)(&device.kernels, &device.gpu.stream);
            queued.map_err(|fault| device.gpu.launch_fault(fault))
        };
        let times = recorded(device, launches.len(), queue)?;
        let rate = bytes as f64 / times.median;
        let rates = [("bytes", bytes as f64), ("gb_per_s", rate / 1e9), ("of_copy", rate / self.copy_rate)];
        self.report.line(&PART, what, &[&times.in_us()[..], &rates].concat())
    }
}

/// Measures all of them against `copy_rate`, in bytes a second.
pub fn measure(device: &Device, plan: &Plan, copy_rate: f64, report: &mut Report) -> Result<(), Fault> {
    let Some(model) = plan.models.last() else { return Ok(()) };
    let mut bench = Bench { device, plan, copy_rate, report };
    rows::measure(&mut bench, model)?;
    attention::measure(&mut bench, model);
    Ok(())
}

/// `count` of what is called `name`.
fn plural(count: usize, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}
