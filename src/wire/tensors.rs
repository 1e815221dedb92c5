//! What a header says of tensors whose bytes are in the payload.

use super::fields::{Fields, Value, varint};
use super::{Checked, WireError, at_most, check, text};
use bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use stageline_base::border::{MAX_TENSORS, is_name};
use stageline_base::tensor::MAX_RANK;
use stageline_base::{Element, HostTensor, NamedTensor, Shape, Tensors};

/// `TensorHead`'s fields.
const NAME: u32 = 1;
const ELEMENT: u32 = 2;
const SHAPE: u32 = 3;

/// The `TensorHead` of this tensor.
pub(super) fn head(NamedTensor { name, tensor }: &NamedTensor) -> Vec<u8> {
    let shape = tensor.shape();
    let mut head = Vec::with_capacity(name.len() + 8 + 10 * shape.len());
    put_bytes(NAME, name.as_bytes(), &mut head);
    encode_key(ELEMENT, WireType::Varint, &mut head);
    encode_varint(tensor.element().number() as u64, &mut head);
    put_packed(SHAPE, shape.iter().map(|extent| *extent as u64), &mut head);
    head
}

/// Appends a field that says its own length.
pub(super) fn put_bytes(field: u32, bytes: &[u8], message: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, message);
    encode_varint(bytes.len() as u64, message);
    message.put_slice(bytes);
}

/// Appends a list of base-128 numbers; nothing if it is empty.
pub(super) fn put_packed(field: u32, numbers: impl ExactSizeIterator<Item = u64> + Clone, message: &mut Vec<u8>) {
    if numbers.len() == 0 {
        return;
    }
    encode_key(field, WireType::LengthDelimited, message);
    let bytes = numbers.clone().map(encoded_len_varint).sum::<usize>();
    encode_varint(bytes as u64, message);
    if bytes == numbers.len() {
        // Each is below 128, as most are, and so its own encoding.
        message.extend(numbers.map(|number| number as u8));
    } else {
        numbers.for_each(|number| encode_varint(number, message));
    }
}

/// What is left of a parcel's payload: its tensors are cut off its front one after the other.
pub(super) struct Payload(pub Bytes);

impl Payload {
    /// The tensors that these heads speak of.
    pub(super) fn tensors(&mut self, heads: &[Bytes]) -> Checked<Tensors> {
        at_most(heads.len(), MAX_TENSORS, "the list of tensors")?;
        let mut tensors = Tensors::with_capacity(heads.len());
        heads.iter().try_for_each(|head| self.cut(head, &mut tensors))?;
        Ok(tensors)
    }

    /// Adds the tensor that `head` speaks of.
    pub(super) fn cut(&mut self, head: &[u8], tensors: &mut Tensors) -> Checked<()> {
        at_most(tensors.len() + 1, MAX_TENSORS, "the list of tensors")?;
        let (mut name, mut element, mut shape) = ("", None, Shape::default());
        for field in Fields(head) {
            match field? {
                (NAME, Value::Bytes(bytes)) => name = text(bytes)?,
                (ELEMENT, Value::Number(number)) => element = i32::try_from(number).ok().and_then(Element::of_number),
                (SHAPE, Value::Bytes(extents)) => shape = shape_of(extents)?,
                _ => {}
            }
        }
        check(is_name(name), "a tensor's name is malformed")?;
        let element = element.ok_or(WireError::Illegal("a tensor's element type is unknown"))?;
        let bytes = shape.elements().and_then(|elements| elements.checked_mul(element.bytes()));
        let bytes = bytes.filter(|bytes| *bytes <= self.0.len());
        let tensor = bytes.and_then(|bytes| HostTensor::new(element, shape, self.0.split_to(bytes)));
        tensors.push(name.into(), tensor.ok_or(WireError::Illegal("the payload is shorter than what is said of it"))?);
        Ok(())
    }
}

fn shape_of(mut packed: &[u8]) -> Checked<Shape> {
    let too_large = WireError::Illegal("a tensor has too many dimensions, or too large ones");
    let (mut extents, mut rank) = ([0; MAX_RANK], 0);
    while !packed.is_empty() {
        let (extent, rest) = varint(packed).ok_or(WireError::Illegal("a message is malformed"))?;
        let (Some(place), Ok(extent)) = (extents.get_mut(rank), usize::try_from(extent)) else { return Err(too_large) };
        *place = extent;
        (packed, rank) = (rest, rank + 1);
    }
    Shape::new(&extents[..rank]).ok_or(too_large)
}
