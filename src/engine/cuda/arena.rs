//! Device memory in one piece, cut into ranges once and for all. After warm-up nothing is allocated any more.

use super::checker::{Checker, RangeState};
use super::device::Gpu;
use super::kernels::launch::DeviceSlice;
use cudarc::driver::{result, sys::CUdeviceptr};
use stageline_base::Fault;
use std::marker::PhantomData;
use std::rc::Rc;

/// Every range begins at a multiple of this: what the driver's own allocations promise, and more than a 16-byte load needs.
const ALIGN_BYTES: usize = 256;
/// Between two ranges, never read nor written: whoever runs past a range's end runs into it.
const RED_ZONE_BYTES: usize = 256;

/// Bytes that a range of `bytes` takes of an arena.
pub fn room_bytes(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN_BYTES) + RED_ZONE_BYTES
}

/// One allocation of device memory, and how much of it is taken.
pub struct Arena {
    /// Whose memory it is: that must not go first.
    gpu: Rc<Gpu>,
    address: CUdeviceptr,
    bytes: usize,
    taken: usize,
    checker: Checker,
}

impl Arena {
    /// Allocates `bytes`, for `purpose`.
    ///
    /// # Errors
    /// `DeviceFailed` if the device has not so much left, saying how much there is.
    pub fn new(gpu: &Rc<Gpu>, bytes: usize, purpose: &str) -> Result<Self, Fault> {
        let bytes = bytes.max(ALIGN_BYTES);
        // SAFETY: the context is current on this thread, as `Gpu` demands; the memory is freed once, in `drop`.
        let address = unsafe { result::malloc_sync(bytes) };
        let address = address.map_err(|e| {
            let (free, all) = gpu.memory().unwrap_or_default();
            gpu.fault(&format!("allocating {bytes} bytes for {purpose} ({free} of {all} bytes are free)"), e)
        })?;
        gpu.taken.set(gpu.taken.get() + bytes);
        let checker = Checker::find();
        checker.declare(address, bytes, RangeState::RedZone);
        Ok(Self { gpu: gpu.clone(), address, bytes, taken: 0, checker })
    }

    /// The next `len` elements. Their content is undefined.
    ///
    /// # Errors
    /// `Internal` if the arena is too small: whoever made it has not counted this range.
    pub fn take<T>(&mut self, len: usize) -> Result<DeviceSlice<T>, Fault> {
        let bytes = len * size_of::<T>();
        if room_bytes(bytes) > self.bytes - self.taken {
            return Err(Fault::internal(format!(
                "a device arena of {} bytes, {} of them taken, has no room for {bytes} more",
                self.bytes, self.taken
            )));
        }
        let address = self.address + self.taken as u64;
        self.taken += room_bytes(bytes);
        self.checker.declare(address, bytes, RangeState::Live);
        // SAFETY: inside the allocation, behind everything taken before, aligned to `ALIGN_BYTES`. Who holds the arena drops
        // it after the last kernel: `Decoder` owns arenas and stream.
        Ok(unsafe { DeviceSlice::new(address, len) })
    }

    /// The next `len` elements, zero for all that is given to the device's stream from now on.
    ///
    /// # Errors
    /// As [`Self::take`]; `DeviceFailed` if the driver refuses.
    pub fn take_zeros<T: Plain>(&mut self, len: usize) -> Result<DeviceSlice<T>, Fault> {
        let slice = self.take(len)?;
        let bytes = len * size_of::<T>();
        // SAFETY: the range was just taken, nobody else uses it, and its arena is freed after the stream's last work.
        let done = unsafe { result::memset_d8_async(slice.address(), 0, bytes, self.gpu.stream.cu_stream()) };
        done.map_err(|e| self.gpu.fault(&format!("setting {bytes} bytes of the device to zero"), e))?;
        Ok(slice)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.checker.declare(self.address, self.bytes, RangeState::Unknown);
        self.gpu.taken.set(self.gpu.taken.get() - self.bytes);
        // SAFETY: allocated in `new`, freed nowhere else; the driver waits for work that uses it.
        // A lost device answers with its error, and its memory is gone anyway.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Page-locked host memory that the device copies from and to by itself.
pub struct Pinned<T> {
    gpu: Rc<Gpu>,
    start: *mut T,
    len: usize,
    _elements: PhantomData<T>,
}

/// Types whose every bit pattern is a value.
pub trait Plain: Copy + 'static {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for f32 {}

impl<T: Plain> Pinned<T> {
    /// Room for `len` elements, all zero.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver has none.
    pub fn new(gpu: &Rc<Gpu>, len: usize) -> Result<Self, Fault> {
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: the context is current; freed once, in `drop`.
        let start = unsafe { result::malloc_host(bytes, 0) };
        let start = start.map_err(|e| gpu.fault(&format!("allocating {bytes} bytes of page-locked memory"), e))?;
        // SAFETY: the driver gave `bytes` bytes at `start`, at a page's start.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(Self { gpu: gpu.clone(), start: start.cast(), len, _elements: PhantomData })
    }

    /// The elements. Whoever has copies under way from or to them waits for those first.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` initialised elements, which live as long as `self`; any bits are a `T`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// As [`Self::as_slice`].
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Queues a copy of as many elements as `to` has on the stream of uploads.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver refuses it.
    pub fn upload(&self, to: DeviceSlice<T>) -> Result<(), Fault> {
        let from = &self.as_slice()[..to.len()];
        // SAFETY: `to` lies in an arena that outlives the stream's work; `from` is page-locked and lives as long as `self`,
        // which its owner keeps until it has waited for the stream.
        let done = unsafe { result::memcpy_htod_async(to.address(), from, self.gpu.uploads.cu_stream()) };
        done.map_err(|e| self.gpu.fault(&format!("copying {} bytes to the device", size_of_val(from)), e))
    }

    /// Queues a copy of all of `from` to the elements from `at` on.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver refuses it.
    pub fn download(&mut self, at: usize, from: DeviceSlice<T>) -> Result<(), Fault> {
        let gpu = self.gpu.clone();
        let to = &mut self.as_mut_slice()[at..at + from.len()];
        // SAFETY: as in `upload`, the other way round.
        let done = unsafe { result::memcpy_dtoh_async(to, from.address(), gpu.stream.cu_stream()) };
        done.map_err(|e| gpu.fault(&format!("copying {} bytes from the device", from.len() * size_of::<T>()), e))
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed nowhere else. What a lost device says changes nothing.
        let _ = unsafe { result::free_host(self.start.cast()) };
    }
}
