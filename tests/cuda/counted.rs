//! What an emulated device that counts saw of a kernel's accesses to memory. Other devices say nothing.

use crate::Device;
use crate::emulator::find;
use stageline_cuda::launch::{Half, Pair, Traffic};
use std::ffi::{CStr, CString, c_char};

/// As `emu_traffic` of tests/cuda-emulator/emu.h. Unique: each byte once a launch.
#[derive(Default)]
#[repr(C)]
struct Counts {
    launches: u64,
    read_bytes: u64,
    written_bytes: u64,
    unique_read_bytes: u64,
    unique_written_bytes: u64,
}

type TrafficOf = unsafe extern "C" fn(*const c_char, *mut Counts);
const TRAFFIC_OF: &CStr = c"emu_traffic_of";
type Launches = unsafe extern "C" fn(*const c_char) -> u64;
const LAUNCHES: &CStr = c"emu_launches";

/// How often to try to be the only one who launches a kernel.
const TRIES: usize = 1000;

/// The name of the version of `kernel` for `T`.
pub fn version<T: Half>(kernel: &str) -> String {
    format!("{kernel}_{}", T::of(&Pair { bf16: "bf16", f16: "f16" }))
}

/// The bytes that one launch of `kernel`, of its version for `T`, reads and writes, each once.
pub fn counted<T: Half>(device: &Device, kernel: &str, launch: impl Fn()) -> Option<Traffic> {
    counted_as(device, &version::<T>(kernel), launch)
}

/// The bytes that one launch of the function `kernel` reads and writes, each once. Launches once or more often. An emulated
/// device that does not count says nothing, but whatever the device, the function must be the one that is launched.
pub fn counted_as(device: &Device, kernel: &str, launch: impl Fn()) -> Option<Traffic> {
    let name = CString::new(kernel).expect("a name");
    let (Some(traffic_of), Some(launches)) = (find(TRAFFIC_OF), find(LAUNCHES)) else {
        launch();
        return None;
    };
    // SAFETY: the emulated driver exports it with this type.
    let traffic_of: TrafficOf = unsafe { std::mem::transmute(traffic_of) };
    // SAFETY: and this one with this.
    let launches: Launches = unsafe { std::mem::transmute(launches) };
    // SAFETY: a name that ends with 0.
    let launched = || unsafe { launches(name.as_ptr()) };
    let counts = || {
        device.stream.synchronize().expect("all that was launched has run");
        let mut counts = Counts::default();
        // SAFETY: a name that ends with 0, and room for what is written.
        unsafe { traffic_of(name.as_ptr(), &mut counts) };
        counts
    };
    for _ in 0..TRIES {
        let (before, others) = (counts(), launched());
        launch();
        assert!(launched() > others, "no {kernel} was launched: the function has another name");
        let after = counts();
        match after.launches - before.launches {
            0 => return None,
            1 => {
                return Some(Traffic {
                    read_bytes: after.unique_read_bytes - before.unique_read_bytes,
                    written_bytes: after.unique_written_bytes - before.unique_written_bytes,
                });
            }
            // Another test launches the same kernel.
            _ => {}
        }
    }
    panic!("{kernel} was never launched alone in {TRIES} tries");
}
