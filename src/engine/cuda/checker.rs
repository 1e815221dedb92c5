//! Tells a memory checker which parts of an allocation are in use.
//!
//! An arena looks to the driver like one big allocation, so that a write past a range's end lands in the next one unseen.
//! A driver that checks (the emulated one of tests/cuda-emulator) offers the function `emu_declare`; where there is none,
//! as in every real driver, this does nothing.

use cudarc::driver::sys::CUdeviceptr;

/// `emu_declare(address, bytes, state)`.
type Declare = unsafe extern "C" fn(u64, u64, i32) -> i32;

/// What may be done with a part of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum RangeState {
    /// Nothing is known: as the driver allocated it.
    Unknown = 0,
    /// In use.
    Live = 1,
    /// Between ranges: neither read nor written, ever.
    RedZone = 3,
}

/// The checker, if there is one.
#[derive(Clone, Copy)]
pub struct Checker(Option<Declare>);

impl Checker {
    /// Looks for one among what the process has loaded.
    pub fn find() -> Self {
        // SAFETY: a look-up by name, which changes nothing.
        let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"emu_declare".as_ptr()) };
        // SAFETY: only the emulated driver defines that name, with this signature.
        Self((!symbol.is_null()).then(|| unsafe { std::mem::transmute::<*mut libc::c_void, Declare>(symbol) }))
    }

    /// Says what may be done with `bytes` from `address` on.
    pub fn declare(self, address: CUdeviceptr, bytes: usize, state: RangeState) {
        if let (Self(Some(declare)), true) = (self, bytes > 0) {
            // SAFETY: the checker only notes the numbers.
            let refused = unsafe { declare(address, bytes as u64, state as i32) };
            assert_eq!(refused, 0, "a range outside of an allocation");
        }
    }
}
