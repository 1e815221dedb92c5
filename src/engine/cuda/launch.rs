//! Launching our kernels: typed slices of device memory, the functions of the embedded PTX, and what may go wrong.
//!
//! A wrapper of `kernels/` checks its slices against its shape and launches; it allocates nothing on the device, waits for
//! nothing and looks nothing up, so that it may be recorded into a CUDA graph.

use super::kernels::{decode_attention, gemv, prefill_attention};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, sys,
};
use cudarc::nvrtc::Ptx;
use half::{bf16, f16};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

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

/// Compute capability from which on a kernel may begin while the one before it ends: `kernels/include/chain.cuh`.
const CHAINED: (i32, i32) = (9, 0);

/// A function of a kernel.
#[derive(Debug)]
pub struct Function {
    function: CudaFunction,
    /// Whether it waits for the kernels before it by itself.
    chained: bool,
    /// Dynamic shared memory of each of its blocks.
    shared_bytes: u32,
}

/// The functions of one kernel file.
struct Module {
    name: &'static str,
    module: Arc<CudaModule>,
    chained: bool,
}

impl Module {
    /// A driver that does not take the machine code compiles the PTX, which takes it seconds. PTX of compute capability 9.0 is all
    /// there is of it, so kernels wait for those before them wherever they are launched without waiting.
    fn load(context: &Arc<CudaContext>, name: &'static str, fatbin: &[u8], ptx: &str) -> Result<Self, LaunchFault> {
        let module = context.load_module(Ptx::from_binary(fatbin.to_vec())).or_else(|refused| {
            tracing::debug!(kernel = name, %refused, "the driver does not take the kernel's machine code");
            context.load_module(Ptx::from_src(ptx))
        });
        let driver = |error| LaunchFault::Driver { kernel: name, error };
        let chained = context.compute_capability().map_err(driver)? >= CHAINED;
        Ok(Self { name, module: module.map_err(driver)?, chained })
    }

    fn function(&self, name: &str) -> Result<Function, LaunchFault> {
        let function = self.module.load_function(name);
        let function = function.map_err(|error| LaunchFault::Driver { kernel: self.name, error })?;
        Ok(Function { function, chained: self.chained, shared_bytes: 0 })
    }

    /// Gives each block of `function` so much dynamic shared memory, which a device may have only for those that ask.
    fn sharing(&self, function: Function, shared_bytes: u32) -> Result<Function, LaunchFault> {
        let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let asked = function.function.set_attribute(most, shared_bytes as i32);
        asked.map_err(|error| LaunchFault::Driver { kernel: self.name, error })?;
        Ok(Function { shared_bytes, ..function })
    }

    /// As [`Self::pairs`], of versions that take dynamic shared memory, each with its bytes.
    fn pairs_sharing(
        &self,
        name: &str,
        versions: impl Iterator<Item = (String, u32)>,
    ) -> Result<Vec<Pair<Function>>, LaunchFault> {
        let sharing = |(version, bytes)| {
            let Pair { bf16, f16 } = self.pair(&format!("{name}_{version}"))?;
            Ok(Pair { bf16: self.sharing(bf16, bytes)?, f16: self.sharing(f16, bytes)? })
        };
        versions.map(sharing).collect()
    }

    /// The pair of each of `versions`: `{name}_{version}_bf16` and so on.
    fn pairs(&self, name: &str, versions: impl Iterator<Item = String>) -> Result<Vec<Pair<Function>>, LaunchFault> {
        versions.map(|version| self.pair(&format!("{name}_{version}"))).collect()
    }

    /// `{name}_bf16` and `{name}_f16`.
    fn pair(&self, name: &str) -> Result<Pair<Function>, LaunchFault> {
        Ok(Pair { bf16: self.function(&format!("{name}_bf16"))?, f16: self.function(&format!("{name}_f16"))? })
    }

    /// `{name}_{version}` of each of `gemv::VERSIONS`.
    fn by_rows(&self, name: &str) -> Result<ByRows, LaunchFault> {
        gemv::VERSIONS.iter().map(|(_, version)| self.function(&format!("{name}_{version}"))).collect()
    }
}

/// `kernels/$name.cu`, compiled by build.rs.
macro_rules! module {
    ($context:expr, $name:literal) => {
        Module::load(
            $context,
            $name,
            include_bytes!(concat!(env!("OUT_DIR"), "/kernels/", $name, ".fatbin")),
            include_str!(concat!(env!("OUT_DIR"), "/kernels/", $name, ".ptx")),
        )
    };
}

/// A function for each of `gemv::VERSIONS`.
pub type ByRows = Vec<Function>;

/// Every function of every kernel, on one device. Wrappers of `kernels/` take theirs.
#[derive(Debug)]
pub struct Kernels {
    pub(super) add_rms_norm: Pair<Function>,
    /// Of each of `decode_attention::versions`.
    pub(super) decode_attention: Vec<Pair<Function>>,
    pub(super) embed: Pair<Function>,
    pub(super) gemv: Pair<ByRows>,
    /// As `gemv`, to `f32`.
    pub(super) gemv_f32: Pair<ByRows>,
    /// Of each of `prefill_attention::versions`.
    pub(super) prefill_attention: Vec<Pair<Function>>,
    pub(super) rope_kv: Pair<Function>,
    pub(super) sample_best: Function,
    pub(super) sample_draw: Function,
    pub(super) silu_mul: Pair<Function>,
}

impl Kernels {
    /// Has the driver compile the kernels for the device of `context`, and looks all of them up.
    ///
    /// # Errors
    /// If the driver refuses the PTX: it is older than CUDA 13.0, or the device than compute capability 8.0.
    pub fn load(context: &Arc<CudaContext>) -> Result<Self, LaunchFault> {
        let (gemv_module, sample) = (module!(context, "gemv")?, module!(context, "sample")?);
        let gemv = |name| gemv_module.by_rows(name);
        Ok(Self {
            add_rms_norm: module!(context, "add_rms_norm")?.pair("add_rms_norm")?,
            decode_attention: module!(context, "decode_attention")?
                .pairs("decode_attention", decode_attention::versions())?,
            embed: module!(context, "embed")?.pair("embed")?,
            gemv: Pair { bf16: gemv("gemv_bf16")?, f16: gemv("gemv_f16")? },
            gemv_f32: Pair { bf16: gemv("gemv_bf16_f32")?, f16: gemv("gemv_f16_f32")? },
            prefill_attention: module!(context, "prefill_attention")?
                .pairs_sharing("prefill_attention", prefill_attention::versions())?,
            rope_kv: module!(context, "rope_kv")?.pair("rope_kv")?,
            sample_best: sample.function("sample_best")?,
            sample_draw: sample.function("sample_draw")?,
            silu_mul: module!(context, "silu_mul")?.pair("silu_mul")?,
        })
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Kind (1: PTX, 2: machine code) and compute capability of each part of a fat binary, as nvcc 13.0 was seen to write
    /// them: a header of 16 bytes with the length of the parts, and before each part its own, which says both lengths.
    fn parts(fatbin: &[u8]) -> Vec<(u16, u32)> {
        let u32_at = |at: usize| u32::from_le_bytes(fatbin[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!(u32_at(0), 0xba55_ed50, "no fat binary");
        let (mut at, mut parts) = (16, Vec::new());
        while at < fatbin.len() {
            parts.push((u32_at(at) as u16, u32_at(at + 28)));
            at += (u32_at(at + 4) + u32_at(at + 8)) as usize;
        }
        parts
    }

    #[test]
    fn every_kernel_has_machine_code_for_both_architectures_and_ptx_for_later_ones() {
        let folder = Path::new(env!("OUT_DIR")).join("kernels");
        let entries =
            std::fs::read_dir(folder).expect("the build's kernels").map(|entry| entry.expect("an entry").path());
        let fatbins: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "fatbin")).collect();
        assert!(!fatbins.is_empty());
        for path in fatbins {
            let mut parts = parts(&std::fs::read(&path).expect("a fat binary"));
            parts.sort_unstable();
            assert_eq!(parts, [(1, 90), (2, 80), (2, 90)], "{}", path.display());
        }
    }
}
