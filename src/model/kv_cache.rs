//! The keys and values of one stage's layers, in blocks that sequences hold.

use candle_core::{DType, Device, Tensor};
use stageline_base::Fault;

/// How much a [`KvCache`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks of every layer.
    pub blocks: usize,
    /// Positions of a block.
    pub block_size: usize,
}

impl KvShape {
    /// Bytes of a cache of `layers` layers whose keys are `width` numbers.
    pub fn bytes(&self, layers: usize, width: usize) -> usize {
        2 * 4 * layers * self.blocks * self.block_size * width
    }
}

/// Keys and values, `f32`, of all layers of a stage. Its size is fixed when it is made; who holds which block is decided
/// elsewhere.
#[derive(Debug)]
pub struct KvCache {
    /// How much it holds.
    pub shape: KvShape,
    /// Keys and values of each layer: `[blocks * block_size, width]` each. Position `p` of a sequence is in row
    /// `block[p / block_size] * block_size + p % block_size`.
    pub layers: Vec<(Tensor, Tensor)>,
    /// Numbers of a position's keys.
    pub width: usize,
    /// Where it lies.
    pub device: Device,
}

impl KvCache {
    /// A cache of `layers` layers whose keys are `width` numbers.
    ///
    /// # Errors
    /// `InvalidRequest` if it would hold nothing; `DeviceFailed` if the device has not the memory.
    pub fn new(shape: KvShape, layers: usize, width: usize, device: &Device) -> Result<Self, Fault> {
        if shape.blocks == 0 || shape.block_size == 0 {
            return Err(Fault::invalid(format!(
                "a KV cache cannot be of {} blocks of {}",
                shape.blocks, shape.block_size
            )));
        }
        let slots = shape.blocks * shape.block_size;
        let table = || {
            Tensor::zeros((slots, width), DType::F32, device).map_err(|e| {
                let bytes = shape.bytes(layers, width);
                Fault::device(format!("no room for a KV cache of {bytes} bytes ({} blocks): {e}", shape.blocks))
            })
        };
        let layers = (0..layers).map(|_| Ok((table()?, table()?))).collect::<Result<_, Fault>>()?;
        Ok(Self { shape, layers, width, device: device.clone() })
    }

    /// Bytes of one block, in all layers.
    pub fn block_bytes(&self) -> usize {
        KvShape { blocks: 1, ..self.shape }.bytes(self.layers.len(), self.width)
    }

    /// Gives it another number of blocks. What they held is lost.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn resize(&mut self, blocks: usize) -> Result<(), Fault> {
        let (layers, shape) = (self.layers.len(), KvShape { blocks, ..self.shape });
        // The old one's memory first: there may not be room for both.
        self.layers.clear();
        *self = Self::new(shape, layers, self.width, &self.device)?;
        Ok(())
    }
}
