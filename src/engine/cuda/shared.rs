//! What all stages of a process have in common on a device: its context and streams, our kernels, cuBLASLt and its scratch space.

use super::device::Gpu;
use super::gemm::Gemm;
use super::kernels::launch::Kernels;
use stageline_base::Fault;
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// An open device. One thread runs all its stages, one after the other, so they can share all of it.
pub struct Shared {
    /// Our kernels, loaded.
    pub kernels: Kernels,
    /// Their products use one scratch space, in the order of the stream.
    pub gemm: RefCell<Gemm>,
    // Behind what lies in its memory.
    pub gpu: Rc<Gpu>,
}

thread_local! {
    /// The devices that this thread's stages hold, by number.
    static HELD: RefCell<Vec<(usize, Weak<Shared>)>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    /// The device of this number: what this thread's other stages have, or a newly opened one.
    ///
    /// # Errors
    /// As [`Gpu::open`]; `DeviceFailed` if the driver does not take the kernels or there is no memory for the scratch space.
    pub fn open(number: usize) -> Result<Rc<Self>, Fault> {
        HELD.with_borrow_mut(|held| {
            held.retain(|(_, shared)| shared.strong_count() > 0);
            let ours = held.iter().find(|(of, _)| *of == number).and_then(|(_, shared)| shared.upgrade());
            if let Some(shared) = ours {
                return Ok(shared);
            }
            let gpu = Rc::new(Gpu::open(number)?);
            let kernels = Kernels::load(&gpu.context).map_err(|fault| gpu.launch_fault(fault))?;
            let gemm = RefCell::new(Gemm::new(&gpu)?);
            let shared = Rc::new(Self { kernels, gemm, gpu });
            held.push((number, Rc::downgrade(&shared)));
            Ok(shared)
        })
    }
}
