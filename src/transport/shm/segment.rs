//! A piece of memory in an anonymous file, which another process can map too.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The file's length cannot be changed once these are set, so a mapping of it stays whole.
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

/// A mapped file. Its memory is shared with whoever else maps it, so it is only reached through atomics and copies, and by
/// [`Segment::bytes`].
#[derive(Debug)]
pub(crate) struct Segment {
    start: NonNull<u8>,
    length: usize,
    file: File,
}

// SAFETY: the mapping is of no thread, lives until the drop, and is reached by shared reference only through atomics and
// through copies whose ends the protocol of the ring keeps apart.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new one of `length` zero bytes.
    pub(crate) fn create(length: usize) -> Result<Self> {
        // SAFETY: the name is a string that ends in 0; the call makes a file and returns its number.
        let number = unsafe { libc::memfd_create(c"stageline".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if number < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the number was returned just now and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(number) };
        file.set_len(length as u64)?;
        // SAFETY: fcntl(2) with this command takes numbers only.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS | libc::F_SEAL_SEAL) } != 0 {
            return Err(Error::last_os_error());
        }
        Self::map(file, length)
    }

    /// The one that process `pid` has open as `number`, if it is `length` long and stays so.
    pub(crate) fn open(pid: u32, number: u32, length: usize) -> Result<Self> {
        // Whatever is there under that number: opening it must not wait, and make nothing ours.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        let path = format!("/proc/{pid}/fd/{number}");
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        // SAFETY: fcntl(2) with this command takes numbers only.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & SEALS != SEALS {
            return Err(Error::other("the file is not sealed: it is none of stageline's"));
        }
        if file.metadata()?.len() != length as u64 {
            return Err(Error::other("the file has another length than was said"));
        }
        Self::map(file, length)
    }

    fn map(file: File, length: usize) -> Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a mapping at a place of the system's choice, of a file that is open, touches no memory that is in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| Error::other("mapped at address 0"))?;
        Ok(Self { start, length, file })
    }

    /// The number under which this process has the file open.
    pub(crate) fn number(&self) -> u32 {
        self.file.as_raw_fd() as u32
    }

    /// The 32-bit word at `at`, which is a multiple of 4.
    pub(super) fn word(&self, at: usize) -> &AtomicU32 {
        let start = self.place(at, 4);
        assert_eq!(at % 4, 0, "a word of the layout is aligned");
        // SAFETY: within the mapping and aligned, since a mapping begins at a page; it lives as long as `self`, and
        // everyone else reaches these bytes by atomics too.
        unsafe { AtomicU32::from_ptr(start.cast()) }
    }

    /// The 64-bit number at the beginning.
    pub(super) fn nonce(&self) -> &AtomicU64 {
        // SAFETY: as for `word`.
        unsafe { AtomicU64::from_ptr(self.place(0, 8).cast()) }
    }

    /// Copies `bytes` to `at`. What is there is in nobody's use: the ring's protocol sees to it.
    pub(super) fn copy_in(&self, at: usize, bytes: &[u8]) {
        // SAFETY: the place is within the mapping, and `bytes` is not part of it: it is memory that Rust knows of.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.place(at, bytes.len()), bytes.len()) };
    }

    /// A copy of the bytes at `at`. A peer that changes them meanwhile makes the copy a mixture, which is then judged.
    pub(super) fn copy_out(&self, at: usize, length: usize) -> Vec<u8> {
        let mut copy = Vec::with_capacity(length);
        // SAFETY: the place is within the mapping; the copy has room for `length` bytes, which are there afterwards.
        unsafe {
            std::ptr::copy_nonoverlapping(self.place(at, length), copy.as_mut_ptr(), length);
            copy.set_len(length);
        }
        copy
    }

    /// The bytes at `at`, which the ring's protocol has handed to the caller. A peer that breaks the protocol can change
    /// them: what they are used for must bear any bits at any time.
    pub(super) fn bytes(&self, at: usize, length: usize) -> &[u8] {
        // SAFETY: the place is within the mapping, which lives as long as `self`. This process does not write there while
        // the caller holds it; that no other does is the peer's part, of the same user, which could as well write to any
        // of our memory.
        unsafe { std::slice::from_raw_parts(self.place(at, length), length) }
    }

    /// Where `length` bytes at `at` begin. Panics if they are not all within: the caller has checked what came from outside.
    fn place(&self, at: usize, length: usize) -> *mut u8 {
        assert!(at.checked_add(length).is_some_and(|end| end <= self.length), "beyond the end of a shared segment");
        // SAFETY: within the mapping, or at its end.
        unsafe { self.start.as_ptr().add(at) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: this mapping was made in `map` and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn both_ends_see_the_same_memory_and_neither_can_change_its_length() {
        let one = Segment::create(8192).unwrap();
        let two = Segment::open(std::process::id(), one.number(), 8192).unwrap();
        one.copy_in(100, b"hello");
        one.word(64).store(7, Relaxed);
        assert_eq!((two.copy_out(100, 5), two.word(64).load(Relaxed)), (b"hello".to_vec(), 7));
        assert_eq!(one.file.set_len(1).unwrap_err().kind(), ErrorKind::PermissionDenied);
        drop(one);
        assert_eq!(two.bytes(100, 5), b"hello", "the memory outlives its maker");
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let me = std::process::id();
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        assert!(Segment::open(me, file.as_raw_fd() as u32, 8192).is_err(), "not sealed");
        let one = Segment::create(8192).unwrap();
        assert!(Segment::open(me, one.number(), 4096).is_err(), "another length");
        assert!(Segment::open(u32::MAX, one.number(), 8192).is_err(), "no such process");
        assert!(Segment::open(me, u32::MAX, 8192).is_err(), "no such file");
    }

    #[test]
    #[should_panic(expected = "beyond the end")]
    fn nothing_beyond_the_end_is_reached() {
        Segment::create(4096).unwrap().bytes(4090, 7);
    }
}
