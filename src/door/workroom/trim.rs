//! Memory that long texts leave behind, given back to the system.

/// Has the allocator give back what is free. glibc keeps freed memory, a text's many times over, in the arena of the thread
/// that had it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn trim() {
    // SAFETY: malloc_trim(3) takes a number, locks what it looks at, and gives back pages that nobody holds.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give memory back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn trim() {}
