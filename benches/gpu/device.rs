//! The device that is measured: its stream, our kernels, memory full of noise, and a cache that can be emptied.

use crate::plan::Plan;
use cudarc::driver::sys::{CUdevice_attribute, cuDriverGetVersion};
use cudarc::driver::{CudaSlice, DeviceRepr, DriverError};
use half::bf16;
use stageline_base::Fault;
use stageline_base::prng::Prng;
use stageline_cuda::Gpu;
use stageline_cuda::kernels::Gemv;
use stageline_cuda::launch::{DeviceSlice, Kernels};
use std::cell::RefCell;
use std::rc::Rc;

/// Numbers of noise that memory is filled with, again and again.
const NOISE: usize = 4 << 20;
/// Numbers in a row of what is read to empty the cache.
const ROW: usize = 4096;
/// Rows that are read where the cache need not be emptied.
const FEW_ROWS: usize = 8;

/// Device 0.
pub struct Device {
    pub gpu: Rc<Gpu>,
    pub kernels: Kernels,
    /// How often everything is timed.
    pub rounds: usize,
    noise: CudaSlice<u8>,
    eviction: Gemv<bf16, bf16>,
    // Behind all that uses it.
    _evicted: Vec<CudaSlice<u8>>,
}

impl Device {
    pub fn open(plan: &Plan) -> Result<Self, Fault> {
        let gpu = Rc::new(Gpu::open(0)?);
        let kernels = Kernels::load(&gpu.context).map_err(|fault| gpu.launch_fault(fault))?;
        let fault = |e| gpu.fault("preparing the device", e);
        let numbers = if plan.evictions == 0 { NOISE / 64 } else { NOISE };
        let noise = gpu.stream.clone_htod(&noise(numbers)).map_err(fault)?;
        let rows = (plan.evictions * l2_bytes(&gpu)? / (ROW * 2)).max(FEW_ROWS);
        let kept = [rows * ROW, ROW, rows].map(|len| filled(&gpu, &noise, len * 2));
        let kept = kept.into_iter().collect::<Result<Vec<_>, _>>().map_err(fault)?;
        // SAFETY: all of it is kept as long as the device, and the engine has one stream.
        let slice = |i: usize, len: usize| unsafe { DeviceSlice::new(address(&gpu, &kept[i]), len) };
        let (weight, input, out) = (slice(0, rows * ROW), slice(1, ROW), slice(2, rows));
        let eviction = Gemv { weight, input, bias: None, out, n: rows, k: ROW };
        Ok(Self { gpu, kernels, rounds: plan.rounds, noise, eviction, _evicted: kept })
    }

    /// Queues a read of several times what the device's cache holds. Nothing to speak of is written: lines that must go
    /// back to memory would slow down what is timed next. It keeps the device busy while that is queued, so that no time of
    /// the processor's is measured.
    pub fn empty_the_cache(&self) -> Result<(), Fault> {
        self.eviction.launch(&self.kernels, &self.gpu.stream).map_err(|fault| self.gpu.launch_fault(fault))
    }

    pub fn fault(&self, error: DriverError) -> Fault {
        self.gpu.fault("measuring", error)
    }

    pub fn l2_bytes(&self) -> Result<usize, Fault> {
        l2_bytes(&self.gpu)
    }

    /// The CUDA version that the driver knows: major, minor.
    pub fn driver_version(&self) -> Result<(i32, i32), Fault> {
        let mut version = 0;
        // SAFETY: the driver writes one number.
        let done = unsafe { cuDriverGetVersion(&raw mut version) };
        done.result().map_err(|e| self.fault(e))?;
        Ok((version / 1000, version % 1000 / 10))
    }

    /// Whether the driver is the emulated one of tests/cuda-emulator.
    pub fn is_emulated(&self) -> bool {
        // SAFETY: a look-up by name, which changes nothing.
        !unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"emu_counters".as_ptr()) }.is_null()
    }
}

fn l2_bytes(gpu: &Gpu) -> Result<usize, Fault> {
    let bytes = gpu.context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
    bytes.map(|bytes| bytes.max(0) as usize).map_err(|e| gpu.fault("asking for the size of the cache", e))
}

/// `count` numbers of bf16 between -1/16 and 1/16, as bytes: two of them, taken for an f32, are such a number as well.
pub fn noise(count: usize) -> Vec<u8> {
    let mut prng = Prng::new(1);
    let number = |_| bf16::from_f32(prng.unit() as f32 / 8.0 - 1.0 / 16.0).to_le_bytes();
    (0..count).flat_map(number).collect()
}

/// Memory of `bytes` full of `noise`.
fn filled(gpu: &Gpu, noise: &CudaSlice<u8>, bytes: usize) -> Result<CudaSlice<u8>, DriverError> {
    // SAFETY: all of it is written below.
    let mut memory = unsafe { gpu.stream.alloc::<u8>(bytes.max(1)) }?;
    for first in (0..bytes).step_by(noise.len()) {
        let end = bytes.min(first + noise.len());
        gpu.stream.memcpy_dtod(&noise.slice(0..end - first), &mut memory.slice_mut(first..end))?;
    }
    Ok(memory)
}

fn address(gpu: &Gpu, memory: &CudaSlice<u8>) -> u64 {
    // SAFETY: only its address is taken.
    unsafe { DeviceSlice::all(memory, &gpu.stream) }.address()
}

/// Device memory for launches, given back when it is dropped and all of them have run.
pub struct Memory<'a> {
    device: &'a Device,
    kept: RefCell<Vec<CudaSlice<u8>>>,
}

impl<'a> Memory<'a> {
    pub fn new(device: &'a Device) -> Self {
        Self { device, kept: RefCell::default() }
    }

    /// `len` numbers of noise: of 16 or 32 bits, and floating point.
    pub fn noise<T>(&self, len: usize) -> Result<DeviceSlice<T>, Fault> {
        let bytes = len * size_of::<T>();
        let memory = filled(&self.device.gpu, &self.device.noise, bytes).map_err(|e| self.fault(bytes, e))?;
        Ok(self.keep(memory, len))
    }

    /// A copy of `numbers`.
    pub fn copy<T: DeviceRepr>(&self, numbers: &[T]) -> Result<DeviceSlice<T>, Fault> {
        // SAFETY: what goes to a device is numbers without padding, so any of its bytes may be read.
        let bytes = unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), size_of_val(numbers)) };
        let memory = self.device.gpu.stream.clone_htod(bytes).map_err(|e| self.fault(bytes.len(), e))?;
        Ok(self.keep(memory, numbers.len()))
    }

    fn keep<T>(&self, memory: CudaSlice<u8>, len: usize) -> DeviceSlice<T> {
        // SAFETY: `len` numbers lie there, which are given back only after the stream's work: see `drop`.
        let slice = unsafe { DeviceSlice::new(address(&self.device.gpu, &memory), len) };
        self.kept.borrow_mut().push(memory);
        slice
    }

    fn fault(&self, bytes: usize, error: DriverError) -> Fault {
        self.device.gpu.fault(&format!("taking {bytes} bytes of device memory"), error)
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.kept.borrow_mut().clear();
        // They are given back in the stream's order; whoever asks next how much is free must find them.
        let _ = self.device.gpu.synchronize("giving memory back");
    }
}
