//! What the emulated driver counts and does on request (tests/cuda-emulator/emu.h). A real driver has none of it: tests that
//! ask for it are left out there by scripts/test-cuda.

use std::ffi::CStr;
use std::ptr::NonNull;

/// `struct emu_counts`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub kernel_launches: u64,
    pub graph_launches: u64,
    pub graph_kernels: u64,
    pub blas_calls: u64,
    pub allocations: u64,
    pub frees: u64,
    pub htod_copies: u64,
    pub htod_bytes: u64,
    pub dtoh_copies: u64,
    pub dtoh_bytes: u64,
    pub dtod_copies: u64,
    pub dtod_bytes: u64,
    pub memsets: u64,
    pub memset_bytes: u64,
    pub stream_synchronisations: u64,
    pub event_synchronisations: u64,
    pub context_synchronisations: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub unique_read_bytes: u64,
    pub unique_written_bytes: u64,
}

/// Where the driver's function `name` is, if it is the emulated one.
pub fn find(name: &CStr) -> Option<NonNull<libc::c_void>> {
    // SAFETY: a look-up by name.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// Whether the driver is the emulated one.
pub fn is_emulated() -> bool {
    find(c"emu_counters").is_some()
}

fn symbol(name: &CStr) -> NonNull<libc::c_void> {
    find(name).unwrap_or_else(|| panic!("{name:?} is missing: this test needs the emulated driver"))
}

/// Lets the `after`th next call of the driver function `call` fail with `code`; null takes all back.
fn fail(call: *const libc::c_char, after: i32, code: i32) {
    // SAFETY: the signature is emu.h's.
    unsafe {
        let fail: unsafe extern "C" fn(*const libc::c_char, i32, i32) = std::mem::transmute(symbol(c"emu_fail_next"));
        fail(call, after, code);
    }
}

/// What the driver did since [`reset`]. It counts for the whole process: tests that ask run one after the other.
pub fn counts() -> Counts {
    let mut counts = Counts::default();
    // SAFETY: the signature is emu.h's.
    unsafe {
        let read: unsafe extern "C" fn(*mut Counts) = std::mem::transmute(symbol(c"emu_counters"));
        read(&raw mut counts);
    }
    counts
}

/// Counts from 0 again.
pub fn reset() {
    // SAFETY: the signature is emu.h's.
    unsafe {
        let reset: unsafe extern "C" fn() = std::mem::transmute(symbol(c"emu_reset_counters"));
        reset();
    }
}

/// Lets the `after`th next call of the driver function `call` fail with `code`.
pub fn fail_next(call: &CStr, after: i32, code: i32) {
    fail(call.as_ptr(), after, code);
}

/// Has the `times` next calls of the driver function `call` do nothing, and say that all is well: as if they were forgotten.
pub fn skip(call: &CStr, times: usize) {
    const SKIPPED: i32 = -1;
    (0..times).for_each(|_| fail(call.as_ptr(), 1, SKIPPED));
}

/// Takes all failures back, and revives the context.
pub fn fail_no_more() {
    fail(std::ptr::null(), 0, 0);
}
