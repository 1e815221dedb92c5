//! Tensors on their way between host memory and candle's devices.

use crate::part::packed;
use bytes::{BufMut, BytesMut};
use candle_core::{DType, Device, Result as CandleResult, Storage, Tensor, WithDType};
use stageline_base::{Border, Element, Fault, HostTensor, Shape, TensorSpec, Tensors};
use stageline_core::batch::trailer_room;
use stageline_model::Given;

/// What the members of a batch bring, as a model is given it; it is what crosses `takes`.
pub(crate) fn given(takes: &Border, inputs: &[Tensors], device: &Device) -> Result<Given, Fault> {
    let failed = |e| Fault::device(format!("cannot place {} inputs on the device: {e}", inputs.len()));
    let sets = || inputs.iter().map(|set| set.iter().map(|named| on_device(&[&named.tensor], device)).collect());
    let stacked = |at: usize| {
        let parts: Vec<&HostTensor> = inputs.iter().filter_map(|set| set.get(at)).map(|named| &named.tensor).collect();
        on_device(&parts, device)
    };
    if takes.is_by_rows() {
        (0..takes.tensors().len()).map(stacked).collect::<CandleResult<_>>().map(Given::Rows).map_err(failed)
    } else {
        sets().collect::<CandleResult<_>>().map(Given::Sets).map_err(failed)
    }
}

/// `parts`, of one element type and of shapes that differ in their rows alone, one below the other.
fn on_device(parts: &[&HostTensor], device: &Device) -> CandleResult<Tensor> {
    let Some(first) = parts.first() else { candle_core::bail!("a batch without members") };
    let rows = parts.iter().map(|part| part.rows()).sum();
    let shape: &[usize] = &first.shape().with_rows(rows);
    let words = || parts.iter().flat_map(|part| part.words());
    match first.element() {
        Element::F32 => Tensor::from_vec(collected(words().map(f32::from_bits), shape), shape, device),
        Element::U32 => Tensor::from_vec(collected(words(), shape), shape, device),
        element => {
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes().iter().copied()).collect();
            Tensor::from_raw_buffer(&bytes, dtype(element), shape, device)
        }
    }
}

fn collected<T>(elements: impl Iterator<Item = T>, shape: &[usize]) -> Vec<T> {
    let mut all = Vec::with_capacity(shape.iter().product());
    all.extend(elements);
    all
}

/// candle's type for elements of this one: a bool is a byte.
fn dtype(element: Element) -> DType {
    match element {
        Element::F32 => DType::F32,
        Element::F16 => DType::F16,
        Element::Bf16 => DType::BF16,
        Element::I64 => DType::I64,
        Element::I32 => DType::I32,
        Element::U32 => DType::U32,
        Element::U8 | Element::Bool => DType::U8,
    }
}

/// A tensor's elements as they travel, with room behind them for the trailer of a frame of `members` members.
pub(crate) fn elements(x: &Tensor, members: usize) -> CandleResult<BytesMut> {
    let (storage, layout) = x.storage_and_layout();
    if let (Storage::Cpu(storage), DType::F32, Some((start, end))) = (&*storage, x.dtype(), layout.contiguous_offsets())
    {
        return Ok(packed(&storage.as_slice::<f32>()?[start..end], members));
    }
    drop(storage);
    let x = x.flatten_all()?;
    match x.dtype() {
        DType::F32 => Ok(packed(&x.to_vec1()?, members)),
        DType::F16 => bytes(&x, members, BytesMut::put_u16_le, half::f16::to_bits),
        DType::BF16 => bytes(&x, members, BytesMut::put_u16_le, half::bf16::to_bits),
        DType::I64 => bytes(&x, members, BytesMut::put_i64_le, |number| number),
        DType::I32 => bytes(&x, members, BytesMut::put_i32_le, |number| number),
        DType::U32 => bytes(&x, members, BytesMut::put_u32_le, |number| number),
        DType::U8 => bytes(&x, members, BytesMut::put_u8, |number| number),
        other => candle_core::bail!("elements of type {other:?} do not travel"),
    }
}

fn bytes<T: WithDType, U>(
    x: &Tensor,
    members: usize,
    put: impl Fn(&mut BytesMut, U),
    of: impl Fn(T) -> U,
) -> CandleResult<BytesMut> {
    let mut bytes = BytesMut::with_capacity(x.elem_count() * size_of::<T>() + trailer_room(members));
    for number in x.to_vec1::<T>()? {
        put(&mut bytes, of(number));
    }
    Ok(bytes)
}

/// What a model made of one member, as what crosses `gives`.
///
/// # Errors
/// `DeviceFailed` if it cannot be fetched; `Internal` if the model made something else.
pub(crate) fn set(gives: &Border, rows: u32, made: &[Tensor]) -> Result<Tensors, Fault> {
    let other = || Fault::internal(format!("the model made {made:?} where {gives} was due"));
    let fetch = |(spec, x): (&TensorSpec, &Tensor)| {
        let bytes = elements(x, 0).map_err(|e| Fault::device(format!("cannot fetch {}: {e}", spec.name)))?;
        let fits = x.dtype() == dtype(spec.element);
        let tensor = Shape::new(x.dims())
            .filter(|_| fits)
            .and_then(|shape| HostTensor::new(spec.element, shape, bytes.freeze()));
        tensor.map(|tensor| (spec.name.clone(), tensor)).ok_or_else(other)
    };
    let tensors: Tensors = gives.tensors().iter().zip(made).map(fetch).collect::<Result<_, _>>()?;
    if gives.admits(rows.into(), &tensors) { Ok(tensors) } else { Err(other()) }
}
