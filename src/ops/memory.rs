//! Memory that is read from end to end at every step.

use std::mem::MaybeUninit;

/// Bytes of a huge page; less than one is not worth asking for.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// Asks the system to back `memory`, which must not have been written to yet, with huge pages: a decode step reads all
/// weights once, one after the other, so small ones would cost an address lookup every 4 KiB. Where it refuses, memory is
/// as it was.
pub fn advise_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let range = memory.as_mut_ptr_range();
        let start = range.start.addr().next_multiple_of(PAGE);
        let length = range.end.addr().saturating_sub(start) / PAGE * PAGE;
        if length >= HUGE_PAGE {
            let start = range.start.with_addr(start);
            // SAFETY: the pages lie within `memory`, which is exclusively ours, and this changes no byte of it.
            unsafe { libc::madvise(start.cast(), length, libc::MADV_HUGEPAGE) };
        }
    }
}
