//! The functions of our kernels, of the machine code and the PTX that `kernels/build.rs` makes.

use super::launch::{LaunchFault, Pair};
use super::{decode_attention, gemv, prefill_attention};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// Major compute capability of devices on which a kernel begins while the one before it ends: `kernels/include/chain.cuh`.
/// Later ones could, too, but run what their driver makes of PTX: it takes a kernel's inputs for constant and may load them
/// before the wait, and only of the machine code for this one does scripts/kernel-report see that nothing does.
const CHAINED: i32 = 9;

/// A function of a kernel.
#[derive(Debug)]
pub struct Function {
    pub(super) function: CudaFunction,
    /// Whether it waits for the kernels before it by itself.
    pub(super) chained: bool,
    /// Dynamic shared memory of each of its blocks.
    pub(super) shared_bytes: u32,
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
        let chained = context.compute_capability().map_err(driver)?.0 == CHAINED;
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

/// `kernels/$name.cu`, compiled by `kernels/build.rs`.
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
