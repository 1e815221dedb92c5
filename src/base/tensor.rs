//! Tensors in host memory, as they travel: a shape and shared bytes.

use bytes::Bytes;

/// Element type of a [`HostTensor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostDType {
    /// IEEE single precision, little endian.
    F32,
    /// Unsigned 32-bit integers, little endian: token ids.
    U32,
}

/// A row-major tensor whose bytes are shared, never copied to be passed on.
///
/// The bytes need not be aligned to the element size: read them with `from_le_bytes` or copy them.
#[derive(Clone, Debug)]
pub struct HostTensor {
    /// Element type.
    pub dtype: HostDType,
    /// Rows, then columns: `[rows, hidden]` for activations, `[rows, 1]` for token ids.
    pub shape: [usize; 2],
    /// `rows * columns * 4` bytes.
    pub bytes: Bytes,
}

impl HostTensor {
    /// Activations `[rows, hidden]`; `None` if the bytes do not fit the shape.
    pub fn activations(rows: usize, hidden: usize, bytes: Bytes) -> Option<Self> {
        let want = rows.checked_mul(hidden)?.checked_mul(4)?;
        (bytes.len() == want).then_some(Self { dtype: HostDType::F32, shape: [rows, hidden], bytes })
    }

    /// Token ids `[rows, 1]`.
    pub fn tokens(ids: &[u32]) -> Self {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        Self { dtype: HostDType::U32, shape: [ids.len(), 1], bytes: bytes.into() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Rows `from..from + count`, sharing the bytes. Panics if they are not all there.
    pub fn slice_rows(&self, from: usize, count: usize) -> Self {
        let row_bytes = self.shape[1] * 4;
        let bytes = self.bytes.slice(from * row_bytes..(from + count) * row_bytes);
        Self { dtype: self.dtype, shape: [count, self.shape[1]], bytes }
    }

    /// The elements as 32-bit words, decoded: `u32` token ids, or the bits of `f32`.
    pub fn words(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}
