//! Our CUDA kernels against their oracles, through the real driver API: on a device, or on the emulated one.
#![cfg(feature = "cuda")]

mod ahead;
mod bytes;
mod counted;
mod counts;
#[path = "../model/decoders.rs"]
mod decoders;
mod emulator;
mod engine;
#[path = "../support/environment.rs"]
mod environment;
mod families;
mod faults;
#[path = "../model/files.rs"]
mod files;
mod golden;
mod kernels;
mod loading;
#[path = "../server/looking.rs"]
mod looking;
mod memory;
#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "no broker dies here: tests/net does that")]
mod nats;
mod padding;
#[path = "../support/patience.rs"]
mod patience;
mod penalties;
#[path = "../model/pipeline.rs"]
mod pipeline;
#[path = "../server/pipelines.rs"]
#[allow(dead_code, reason = "tests/server does more with them")]
mod pipelines;
#[path = "../server/places.rs"]
#[allow(dead_code, reason = "tests/server looks at more of them")]
mod places;
mod planted;
mod processes;
mod program;
#[path = "../server/programs.rs"]
#[allow(dead_code, reason = "tests/server does more to them")]
mod programs;
#[path = "../model/random.rs"]
mod random;
#[path = "../support/real_models.rs"]
#[allow(dead_code, reason = "the full matrix is the CPU's")]
mod real_models;
mod simulation;
#[path = "../../benches/gpu/sizes.rs"]
#[allow(dead_code, reason = "benches/gpu measures the smaller one, too")]
mod sizes;
mod table;
#[path = "../split/tiny.rs"]
#[allow(dead_code, reason = "only real models are served here")]
mod tiny;
mod toy;
#[path = "../sim/world/mod.rs"]
#[allow(dead_code, reason = "the hash chain is the CPU's")]
mod world;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr};
use stageline_cuda::launch::{DeviceSlice, Kernels};
use stageline_server::load_executor;
use std::sync::{Arc, LazyLock};

/// Device 0 with its kernels, and a stream of the test's own. It fails where there is none.
struct Device {
    kernels: &'static Kernels,
    stream: Arc<CudaStream>,
}

fn device() -> Device {
    static OPENED: LazyLock<(Arc<CudaContext>, Kernels)> = LazyLock::new(|| {
        let context = CudaContext::new(0).expect("CUDA device 0");
        // SAFETY: a test's memory is used on its own stream only, whose order is enough. cudarc's events would end a capture.
        unsafe { context.disable_event_tracking() };
        let kernels = Kernels::load(&context).expect("the device takes the kernels");
        (context, kernels)
    });
    let (context, kernels) = &*OPENED;
    Device { kernels, stream: context.new_stream().expect("a stream") }
}

impl Device {
    /// Numbers on the device, a copy of these.
    fn array<T: DeviceRepr + Clone>(&self, numbers: &[T]) -> Array<T> {
        // The driver allocates no empty memory: one number stands for it, and `slice` leaves it out.
        let least = if numbers.is_empty() { vec![unset(); 1] } else { numbers.to_vec() };
        let memory = self.stream.clone_htod(&least).expect("memory on the device");
        Array { memory, length: numbers.len(), stream: self.stream.clone() }
    }

    /// `length` numbers that are all NaN until a kernel writes them.
    fn unset<T: DeviceRepr + Clone>(&self, length: usize) -> Array<T> {
        self.array(&vec![unset(); length])
    }
}

/// A value of nothing but ones: NaN of every floating point type, the largest of every unsigned one.
fn unset<T: DeviceRepr>() -> T {
    // SAFETY: `DeviceRepr` types used here are numbers, of which any bits are a value.
    unsafe {
        let mut value = std::mem::MaybeUninit::<T>::uninit();
        value.as_mut_ptr().write_bytes(0xff, 1);
        value.assume_init()
    }
}

/// Device memory that a test owns.
struct Array<T> {
    memory: CudaSlice<T>,
    length: usize,
    stream: Arc<CudaStream>,
}

impl<T: DeviceRepr + Clone> Array<T> {
    fn slice(&self) -> DeviceSlice<T> {
        // SAFETY: the array lives to the end of its test, which reads it back (and so waits) after the last kernel.
        let all = unsafe { DeviceSlice::all(&self.memory, &self.stream) };
        all.part(0..self.length).expect("an array holds its numbers")
    }

    /// Has it hold these numbers, of the same count, before the next kernel runs.
    fn write(&mut self, numbers: &[T]) {
        assert_eq!(numbers.len(), self.length);
        self.stream.memcpy_htod(numbers, &mut self.memory).expect("a copy to the device");
    }

    /// What it holds now, once all kernels have run.
    fn read(&self) -> Vec<T> {
        let mut numbers = self.stream.clone_dtoh(&self.memory).expect("a copy from the device");
        numbers.truncate(self.length);
        numbers
    }
}
