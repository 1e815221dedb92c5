//! One kernel a file: its typed arguments, their checks, its launch, the bytes it must move, and an oracle in plain loops.
//! What each computes, and how, is told at the head of its `kernels/*.cu`.

pub mod add_rms_norm;
pub mod decode_attention;
pub mod embed;
mod functions;
pub mod gemv;
pub mod launch;
pub mod paged;
pub mod prefill_attention;
pub mod rope_kv;
pub mod sample;
pub mod silu_mul;

pub use add_rms_norm::AddRmsNorm;
pub use decode_attention::DecodeAttention;
pub use embed::Embed;
pub use gemv::Gemv;
pub use paged::{Paged, PagedShape};
pub use prefill_attention::PrefillAttention;
pub use rope_kv::RopeKv;
pub use sample::{Sample, SampleRow};
pub use silu_mul::SiluMul;

use launch::{DeviceSlice, LaunchFault};

/// Numbers that one 16-byte load brings: of rows so wide, every one begins at a multiple of 16 bytes.
const WIDE: usize = 8;

/// The checks of one kernel's arguments.
#[derive(Clone, Copy)]
struct Checks {
    kernel: &'static str,
}

impl Checks {
    fn fault(self, what: String) -> LaunchFault {
        LaunchFault::Unfit { kernel: self.kernel, what }
    }

    /// That `slice` is of the shape `shape`, to the number.
    fn shape<T>(self, name: &str, slice: DeviceSlice<T>, shape: &[usize]) -> Result<(), LaunchFault> {
        let count = shape.iter().try_fold(1usize, |count, n| count.checked_mul(*n));
        if count != Some(slice.len()) {
            return Err(self.fault(format!("`{name}` has {} numbers, but its shape is {shape:?}", slice.len())));
        }
        Ok(())
    }

    /// That `slice` begins where a 16-byte load may.
    fn aligned<T>(self, name: &str, slice: DeviceSlice<T>) -> Result<(), LaunchFault> {
        if !slice.address().is_multiple_of(16) {
            let address = slice.address();
            return Err(self.fault(format!("`{name}` begins at {address:#x}, which is no multiple of 16 bytes")));
        }
        Ok(())
    }

    /// That `slice` is of the shape `shape`, and aligned if rows so wide are read with 16-byte loads.
    fn matrix<T>(self, name: &str, slice: DeviceSlice<T>, shape: &[usize]) -> Result<(), LaunchFault> {
        self.shape(name, slice, shape)?;
        let wide = shape.last().is_some_and(|width| width.is_multiple_of(WIDE));
        if wide { self.aligned(name, slice) } else { Ok(()) }
    }

    /// `count` as a kernel takes it.
    fn count(self, name: &str, count: usize) -> Result<u32, LaunchFault> {
        u32::try_from(count)
            .ok()
            .filter(|count| *count <= i32::MAX as u32)
            .ok_or_else(|| self.fault(format!("{count} {name} are more than a kernel counts")))
    }
}
