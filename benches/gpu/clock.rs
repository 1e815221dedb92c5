//! Times, as medians of rounds.

use crate::device::Device;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUevent_flags;
use stageline_base::Fault;
use stageline_cuda::record;
use std::time::Instant;

/// Seconds of one of whatever was repeated.
#[derive(Clone, Copy)]
pub struct Times {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Times {
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let last = rounds.len() - 1;
        Self { median: rounds[last / 2], least: rounds[0], most: rounds[last] }
    }

    /// The three of them as figures of a line, in microseconds.
    pub fn in_us(self) -> [(&'static str, f64); 3] {
        [("us", self.median * 1e6), ("least_us", self.least * 1e6), ("most_us", self.most * 1e6)]
    }
}

/// Times `count` things that `queue` gives to the stream by their number, one behind the other, on the device.
pub fn queued(
    device: &Device,
    count: usize,
    mut queue: impl FnMut(usize) -> Result<(), Fault>,
) -> Result<Times, Fault> {
    (0..count).try_for_each(&mut queue)?;
    rounds(device, count, || (0..count).try_for_each(&mut queue))
}

/// As [`queued`], recorded as one graph and launched at once.
pub fn recorded(
    device: &Device,
    count: usize,
    mut queue: impl FnMut(usize) -> Result<(), Fault>,
) -> Result<Times, Fault> {
    // Once as it is: what the first run of a shape sets up must not be part of the recording.
    (0..count).try_for_each(&mut queue)?;
    device.gpu.synchronize("running what is to be recorded")?;
    let (graph, ()) = record(&device.gpu, || (0..count).try_for_each(&mut queue))?;
    graph.upload().map_err(|e| device.fault(e))?;
    let launch = || graph.launch().map_err(|e| device.fault(e));
    launch()?;
    rounds(device, count, launch)
}

/// Seconds on the device of each of the `count` things that `queue` gives to the stream.
fn rounds(device: &Device, count: usize, mut queue: impl FnMut() -> Result<(), Fault>) -> Result<Times, Fault> {
    let fault = |e: DriverError| device.fault(e);
    let event = || device.gpu.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(fault);
    let (begin, end) = (event()?, event()?);
    let mut seconds = Vec::with_capacity(device.rounds);
    for _ in 0..device.rounds {
        device.empty_the_cache()?;
        begin.record(&device.gpu.stream).map_err(fault)?;
        queue()?;
        end.record(&device.gpu.stream).map_err(fault)?;
        let ms = begin.elapsed_ms(&end).map_err(fault)?;
        seconds.push(f64::from(ms) / 1e3 / count as f64);
    }
    Ok(Times::of(seconds))
}

/// Times `run`, which waits for the device itself, `count` times a round, by this process's clock; once before, untimed.
pub fn waited(rounds: usize, count: usize, mut run: impl FnMut() -> Result<(), Fault>) -> Result<Times, Fault> {
    run()?;
    let mut seconds = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        (0..count).try_for_each(|_| run())?;
        seconds.push(begun.elapsed().as_secs_f64() / count as f64);
    }
    Ok(Times::of(seconds))
}
