//! What a program that a test starts gets of the test's own environment: nothing that sets anything, but what it cannot start
//! without. On the emulated CUDA driver, that is where its libraries are, and how much memory the device has.

use std::ffi::OsString;

const KEPT: [&str; 4] = ["HOME", "PATH", "LD_LIBRARY_PATH", "EMU_MEM"];

pub fn kept() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| KEPT.iter().any(|kept| name == kept))
}
