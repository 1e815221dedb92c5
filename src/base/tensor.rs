//! Tensors in host memory, as they travel: an element type, a shape and shared bytes, and several of them by name.

use crate::TensorName;
use bytes::Bytes;
use std::fmt;
use std::ops::Deref;

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// Type of a tensor's elements, each little endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE single precision.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of IEEE single precision.
    Bf16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 8 bits.
    U8,
    /// One byte: 0 or 1.
    Bool,
}

impl Element {
    /// All of them, in the order of their numbers in protobuf, from 1.
    pub const ALL: [Self; 8] =
        [Self::F32, Self::U32, Self::F16, Self::Bf16, Self::I64, Self::I32, Self::U8, Self::Bool];

    /// Its number in protobuf.
    pub fn number(self) -> i32 {
        Self::ALL.iter().position(|element| *element == self).map_or(0, |index| index as i32 + 1)
    }

    /// The element type of that number in protobuf.
    pub fn of_number(number: i32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 | Self::Bool => 1,
        }
    }

    /// Its name, as in [`crate::Border`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// The element type of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.as_str() == name)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A tensor's extents, outermost first: a slice of at most [`MAX_RANK`] of them, kept in place.
#[derive(Clone, Copy, Default)]
pub struct Shape {
    rank: usize,
    extents: [usize; MAX_RANK],
}

impl Shape {
    /// Of these extents; `None` if there are more than [`MAX_RANK`].
    pub fn new(extents: &[usize]) -> Option<Self> {
        let mut shape = Self { rank: extents.len(), ..Self::default() };
        shape.extents.get_mut(..extents.len())?.copy_from_slice(extents);
        Some(shape)
    }

    /// How many elements it has; `None` beyond what a `usize` counts.
    pub fn elements(&self) -> Option<usize> {
        self.iter().try_fold(1usize, |product, extent| product.checked_mul(*extent))
    }

    /// The first extent: the rows of what is cut by rows. 1 where there is none.
    pub fn rows(&self) -> usize {
        self.first().copied().unwrap_or(1)
    }

    /// The same but for the first extent, if it has one.
    pub fn with_rows(mut self, rows: usize) -> Self {
        if self.rank > 0 {
            self.extents[0] = rows;
        }
        self
    }
}

impl<const RANK: usize> From<[usize; RANK]> for Shape {
    fn from(extents: [usize; RANK]) -> Self {
        const { assert!(RANK <= MAX_RANK, "a shape has at most MAX_RANK extents") };
        let mut shape = Self { rank: RANK, ..Self::default() };
        shape.extents[..RANK].copy_from_slice(&extents);
        shape
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.extents[..self.rank]
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Shape {}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A row-major tensor whose bytes are shared, never copied to be passed on.
///
/// The bytes need not be aligned to the element size: read them with `from_le_bytes` or copy them.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    element: Element,
    shape: Shape,
    bytes: Bytes,
}

impl HostTensor {
    /// `bytes` in `shape`; `None` if they are not as many as it has elements.
    pub fn new(element: Element, shape: impl Into<Shape>, bytes: Bytes) -> Option<Self> {
        let shape = shape.into();
        let want = shape.elements()?.checked_mul(element.bytes())?;
        (bytes.len() == want).then_some(Self { element, shape, bytes })
    }

    /// `numbers` in `shape`; `None` if they are not as many as it has elements.
    pub fn of_f32(shape: impl Into<Shape>, numbers: &[f32]) -> Option<Self> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self::new(Element::F32, shape, bytes.into())
    }

    /// All zeros.
    pub fn zeros(element: Element, shape: impl Into<Shape>) -> Option<Self> {
        let shape = shape.into();
        let bytes = vec![0; shape.elements()?.checked_mul(element.bytes())?];
        Self::new(element, shape, bytes.into())
    }

    /// Type of the elements.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The elements: as many bytes as the shape says.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The elements alone.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The first extent (1 where there is none).
    pub fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// Rows `from..from + count`, sharing the bytes. Panics if they are not all there.
    pub fn slice_rows(&self, from: usize, count: usize) -> Self {
        let row_bytes = self.bytes.len() / self.rows().max(1);
        let bytes = self.bytes.slice(from * row_bytes..(from + count) * row_bytes);
        Self { element: self.element, shape: self.shape.with_rows(count), bytes }
    }

    /// Elements of four bytes as 32-bit words: `u32` token ids, or the bits of `f32`.
    pub fn words(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word))
    }

    /// The elements as numbers, where they are `f32`; otherwise none.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.element == Element::F32).then(|| self.words().map(f32::from_bits).collect())
    }
}

/// A tensor and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its name, as the border says it that it crosses.
    pub name: TensorName,
    /// The tensor.
    pub tensor: HostTensor,
}

/// Tensors that travel together, in the order of the border that they cross.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors(Vec<NamedTensor>);

impl Tensors {
    /// One tensor.
    pub fn one(name: impl Into<TensorName>, tensor: HostTensor) -> Self {
        Self(vec![NamedTensor { name: name.into(), tensor }])
    }

    /// None yet, with room for so many.
    pub fn with_capacity(tensors: usize) -> Self {
        Self(Vec::with_capacity(tensors))
    }

    /// Adds one behind the others.
    pub fn push(&mut self, name: TensorName, tensor: HostTensor) {
        self.0.push(NamedTensor { name, tensor });
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|named| named.tensor.bytes.len() as u64).sum()
    }

    /// Rows `from..from + count` of each. Panics if one has not all of them.
    pub fn slice_rows(&self, from: usize, count: usize) -> Self {
        self.0.iter().map(|NamedTensor { name, tensor }| (name.clone(), tensor.slice_rows(from, count))).collect()
    }

    /// The rows of all `pieces`, which are cut out of the same tensors, one after the other; without a copy where there is one.
    pub fn joined(pieces: Vec<Self>) -> Self {
        if pieces.len() == 1 {
            return pieces.into_iter().next().unwrap_or_default();
        }
        let first = pieces.first().cloned().unwrap_or_default();
        let joined = first.into_iter().enumerate().map(|(at, NamedTensor { name, tensor })| {
            let parts = || pieces.iter().filter_map(|piece| piece.get(at)).map(|named| &named.tensor);
            let rows = parts().map(HostTensor::rows).sum();
            let bytes: Vec<u8> = parts().flat_map(|part| part.bytes.iter().copied()).collect();
            (name, HostTensor { element: tensor.element, shape: tensor.shape.with_rows(rows), bytes: bytes.into() })
        });
        joined.collect()
    }

    /// The tensor of that name.
    pub fn by_name(&self, name: &str) -> Option<&HostTensor> {
        self.0.iter().find(|named| *named.name == *name).map(|named| &named.tensor)
    }
}

impl Deref for Tensors {
    type Target = [NamedTensor];

    fn deref(&self) -> &[NamedTensor] {
        &self.0
    }
}

impl FromIterator<(TensorName, HostTensor)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (TensorName, HostTensor)>>(tensors: I) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| NamedTensor { name, tensor }).collect())
    }
}

impl IntoIterator for Tensors {
    type Item = NamedTensor;
    type IntoIter = std::vec::IntoIter<NamedTensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_fill_the_shape_are_no_tensor() {
        for (shape, bytes) in [([2, 3], 23), ([2, 3], 25), ([usize::MAX, 2], 0), ([usize::MAX / 2, 1], 8)] {
            assert_eq!(HostTensor::new(Element::F32, shape, vec![0; bytes].into()), None, "{shape:?}");
        }
        for element in Element::ALL {
            let tensor = HostTensor::zeros(element, [2, 3]).unwrap();
            assert_eq!(tensor.bytes().len(), 6 * element.bytes());
            assert_eq!(Element::parse(element.as_str()), Some(element));
            assert_eq!(Element::of_number(element.number()), Some(element));
        }
        let scalar = HostTensor::new(Element::I64, [], vec![1; 8].into()).unwrap();
        assert_eq!((scalar.rows(), scalar.shape().len()), (1, 0));
        assert_eq!(Shape::new(&[1; MAX_RANK + 1]), None);
    }

    #[test]
    fn rows_are_cut_out_of_any_rank() {
        let bytes: Vec<u8> = (0..24).collect();
        let tensor = HostTensor::new(Element::U8, [4, 3, 2], bytes.into()).unwrap();
        let part = tensor.slice_rows(1, 2);
        assert_eq!((&*part.shape(), &part.bytes()[..]), (&[2, 3, 2][..], &(6..18).collect::<Vec<u8>>()[..]));
        let tokens = Tensors::tokens(&[5, 6, 7]);
        assert_eq!(tokens[0].tensor.slice_rows(2, 1).words().collect::<Vec<_>>(), [7]);
        let pieces = [(0, 1), (1, 2)].map(|(from, count)| tokens.slice_rows(from, count));
        assert_eq!(Tensors::joined(pieces.into()), tokens);
    }
}
