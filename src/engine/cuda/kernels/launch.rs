//! Launching our kernels: typed slices of device memory, and what may go wrong. `functions` has what is launched.
//!
//! A wrapper of `kernels/` checks its slices against its shape and launches; it allocates nothing on the device, waits for
//! nothing and looks nothing up, so that it may be recorded into a CUDA graph.

pub use super::functions::{ByRows, Function, Kernels};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, sys};
use half::{bf16, f16};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;

/// Why a kernel was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFault {
    /// Arguments that do not fit each other: a defect of the caller. Nothing was launched.
    #[error("{kernel}: {what}")]
    Unfit {
        /// The kernel.
        kernel: &'static str,
        /// What does not fit.
        what: String,
    },
    /// The driver's word.
    #[error("{kernel}: the CUDA driver says: {error}")]
    Driver {
        /// The kernel.
        kernel: &'static str,
        /// What it says.
        error: DriverError,
    },
}

/// A 16-bit floating point type that weights and activations are stored in.
pub trait Half: DeviceRepr + Copy + Default + Send + Sync + 'static {
    /// Half the distance from 1 to the next number: what rounding to it may change, relatively.
    const ROUNDING: f32;
    /// Rounds to nearest even.
    fn from_f32(value: f32) -> Self;
    /// Exact.
    fn to_f32(self) -> f32;
    /// The one for this type.
    fn of<F>(pair: &Pair<F>) -> &F;
}

impl Half for bf16 {
    const ROUNDING: f32 = 1.0 / 256.0;

    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }

    fn of<F>(pair: &Pair<F>) -> &F {
        &pair.bf16
    }
}

impl Half for f16 {
    const ROUNDING: f32 = 1.0 / 2048.0;

    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    fn of<F>(pair: &Pair<F>) -> &F {
        &pair.f16
    }
}

/// `length` numbers in device memory. It does not own them.
#[derive(Debug)]
pub struct DeviceSlice<T> {
    address: u64,
    length: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for DeviceSlice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DeviceSlice<T> {}

impl<T> DeviceSlice<T> {
    /// The numbers at `address`.
    ///
    /// # Safety
    /// `length` numbers lie there, in memory of the device, aligned to their size. They must stay allocated until the last
    /// kernel that is given this slice, a copy or a part of it has run, and nobody else writes them meanwhile.
    pub unsafe fn new(address: u64, length: usize) -> Self {
        Self { address, length, of: PhantomData }
    }

    /// All of `slice`, for kernels on `stream`.
    ///
    /// # Safety
    /// As [`DeviceSlice::new`]: `slice` must outlive the kernels, and they run on `stream`.
    pub unsafe fn all(slice: &CudaSlice<T>, stream: &CudaStream) -> Self {
        let (address, _recorded_when_dropped) = slice.device_ptr(stream);
        // SAFETY: cudarc allocated `slice.len()` numbers there; the caller answers for their life.
        unsafe { Self::new(address, slice.len()) }
    }

    /// How many numbers there are.
    pub fn len(self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Where they begin.
    pub fn address(self) -> u64 {
        self.address
    }

    /// Those of `range`, if there are so many.
    pub fn part(self, range: Range<usize>) -> Option<Self> {
        let fits = range.start <= range.end && range.end <= self.length;
        fits.then(|| Self {
            address: self.address + (range.start * size_of::<T>()) as u64,
            length: range.end - range.start,
            of: PhantomData,
        })
    }
}

/// How many bytes a kernel has to move: what its time is measured against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that must be read from device memory at least once.
    pub read_bytes: u64,
    /// Bytes that must be written to it.
    pub written_bytes: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
    }
}

/// One of each [`Half`].
#[derive(Debug)]
pub struct Pair<F> {
    /// The one for `bf16`.
    pub bf16: F,
    /// The one for `f16`.
    pub f16: F,
}

/// An argument of a kernel, as wide as the parameter that takes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    /// A pointer; 0 is null.
    Address(u64),
    /// `u32`.
    Count(u32),
    /// `float`.
    Number(f32),
}

impl<T> From<DeviceSlice<T>> for Argument {
    fn from(slice: DeviceSlice<T>) -> Self {
        Argument::Address(slice.address)
    }
}

impl<T> From<Option<DeviceSlice<T>>> for Argument {
    fn from(slice: Option<DeviceSlice<T>>) -> Self {
        Argument::Address(slice.map_or(0, |slice| slice.address))
    }
}

impl From<u32> for Argument {
    fn from(count: u32) -> Self {
        Argument::Count(count)
    }
}

impl From<f32> for Argument {
    fn from(number: f32) -> Self {
        Argument::Number(number)
    }
}

impl Argument {
    /// Where it is, for the driver to copy.
    fn pointer(&self) -> *mut c_void {
        match self {
            Self::Address(address) => std::ptr::from_ref(address).cast_mut().cast(),
            Self::Count(count) => std::ptr::from_ref(count).cast_mut().cast(),
            Self::Number(number) => std::ptr::from_ref(number).cast_mut().cast(),
        }
    }
}

/// Launches `function` of `kernel` on `stream`, in `grid` blocks of `threads`. A chained function may begin before the kernels
/// before it on the stream have ended, and waits for them itself.
///
/// # Safety
/// `arguments` are the kernel's parameters, in its order and types, and with them it stays inside the slices they came
/// from.
pub(super) unsafe fn launch(
    stream: &CudaStream,
    (kernel, function): (&'static str, &Function),
    grid: (u32, u32, u32),
    threads: u32,
    arguments: &[Argument],
) -> Result<(), LaunchFault> {
    let driver = |error| LaunchFault::Driver { kernel, error };
    stream.context().bind_to_thread().map_err(driver)?;
    let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
    // SAFETY: plain numbers and unions of them, for which zeros stand; what is read of them is set below.
    let mut chain: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    chain.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    chain.value.programmaticStreamSerializationAllowed = 1;
    let config = sys::CUlaunchConfig {
        gridDimX: grid.0,
        gridDimY: grid.1,
        gridDimZ: grid.2,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: function.shared_bytes,
        hStream: stream.cu_stream(),
        attrs: &raw mut chain,
        numAttrs: u32::from(function.chained),
    };
    let function = function.function.cu_function();
    // SAFETY: the driver copies configuration, attribute and arguments before it returns; the caller answers for the arguments.
    let queued = unsafe { sys::cuLaunchKernelEx(&config, function, pointers.as_mut_ptr(), std::ptr::null_mut()) };
    queued.result().map_err(driver)
}
