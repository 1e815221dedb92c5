//! Weights from wherever they are stored into the device's memory.

use super::tensors::LinearNeed;
use crate::base::Fault;
use crate::ops::{Linear, advise_huge_pages};
use crate::shard::header::TensorShape;
use bytes::Bytes;
use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use safetensors::Dtype;

/// A tensor as it is stored: row-major, little endian.
#[derive(Clone, Debug)]
pub struct RawTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Its sizes, the slowest first.
    pub shape: Vec<usize>,
    /// The elements. They need not be aligned.
    pub bytes: Bytes,
}

/// Where weights come from: a shard, a model's folder.
pub trait TensorSource: Sync {
    /// Whether there is a tensor called `name`.
    fn contains(&self, name: &str) -> bool;

    /// The tensor called `name`.
    ///
    /// # Errors
    /// If there is none, or it cannot be read: the message says which and where.
    fn tensor(&self, name: &str) -> Result<RawTensor, Fault>;

    /// Type and sizes of the tensor called `name`.
    ///
    /// # Errors
    /// If there is none.
    fn stored(&self, name: &str) -> Result<TensorShape, Fault> {
        let RawTensor { dtype, shape, .. } = self.tensor(name)?;
        Ok(TensorShape { dtype, shape })
    }

    /// Fills `out` with the tensor's bytes from `at` on, for whoever has memory of its own for them.
    ///
    /// # Errors
    /// If there is no such tensor, it is shorter, or it cannot be read.
    fn read(&self, name: &str, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        let bytes = self.tensor(name)?.bytes;
        let part = bytes.get(at..).and_then(|rest| rest.get(..out.len()));
        let part = part.ok_or_else(|| Fault::invalid(format!("tensor {name:?} is shorter than its shape")))?;
        out.copy_from_slice(part);
        Ok(())
    }
}

/// Loads the tensors of one stage to one device.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a> {
    pub source: &'a dyn TensorSource,
    pub device: &'a Device,
    /// What stands before every name.
    pub prefix: &'a str,
}

impl Loader<'_> {
    /// A matrix `[rows, width]` in the type that it is stored in.
    pub fn matrix(&self, name: &str, rows: usize, width: usize) -> Result<Tensor, Fault> {
        self.stacked(&[(name.to_owned(), rows)], width)
    }

    /// `count` numbers as `f32`.
    pub fn vector(&self, name: &str, count: usize) -> Result<Tensor, Fault> {
        self.joined(&[(name.to_owned(), count)])
    }

    /// Linear maps of the same input, as one.
    pub fn linear(&self, LinearNeed { parts, depth, bias }: &LinearNeed) -> Result<Linear, Fault> {
        let named = |end: &str| parts.iter().map(|(name, n)| (format!("{name}.{end}"), *n)).collect::<Vec<_>>();
        let bias = if *bias { Some(self.joined(&named("bias"))?) } else { None };
        Ok(Linear { weight: self.stacked(&named("weight"), *depth)?, bias })
    }

    /// Matrices of `width`, one above the other: in the type that they are stored in on the CPU, whose matmul widens them
    /// on its way; as f32 elsewhere, where each product would widen them anew.
    fn stacked(&self, parts: &[(String, usize)], width: usize) -> Result<Tensor, Fault> {
        let raw = self.read(parts, |rows| vec![rows, width])?;
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let shape = [rows, width];
        let widen = !self.device.is_cpu();
        match raw[0].dtype {
            Dtype::F32 => self.place(&raw, &shape, f32::from_le_bytes),
            Dtype::BF16 if widen => self.place(&raw, &shape, |bytes| f32::from(bf16::from_le_bytes(bytes))),
            Dtype::F16 if widen => self.place(&raw, &shape, |bytes| f32::from(f16::from_le_bytes(bytes))),
            Dtype::BF16 => self.place(&raw, &shape, bf16::from_le_bytes),
            _ => self.place(&raw, &shape, f16::from_le_bytes),
        }
    }

    /// Vectors, one after the other, as `f32`.
    fn joined(&self, parts: &[(String, usize)]) -> Result<Tensor, Fault> {
        let raw = self.read(parts, |count| vec![count])?;
        let shape = [parts.iter().map(|(_, count)| count).sum()];
        let stored = match raw[0].dtype {
            Dtype::F32 => self.place(&raw, &shape, f32::from_le_bytes),
            Dtype::BF16 => self.place(&raw, &shape, bf16::from_le_bytes),
            _ => self.place(&raw, &shape, f16::from_le_bytes),
        };
        stored?.to_dtype(DType::F32).map_err(|e| Fault::device(format!("cannot widen {}: {e}", parts[0].0)))
    }

    /// Reads tensors that must have one type and the shapes that the model's configuration asks for.
    fn read(&self, parts: &[(String, usize)], shape: impl Fn(usize) -> Vec<usize>) -> Result<Vec<RawTensor>, Fault> {
        let mut all: Vec<RawTensor> = Vec::with_capacity(parts.len());
        for (name, size) in parts {
            let name = format!("{}{name}", self.prefix);
            let raw = self.source.tensor(&name)?;
            let want = shape(*size);
            if raw.shape != want {
                let message = format!("tensor {name} has shape {:?}, but config.json asks for {want:?}", raw.shape);
                return Err(Fault::invalid(message));
            }
            let element_bytes = match raw.dtype {
                Dtype::F32 => 4,
                Dtype::BF16 | Dtype::F16 => 2,
                other => {
                    let message = format!("tensor {name} is stored as {other:?}; weights must be F32, F16 or BF16");
                    return Err(Fault::invalid(message));
                }
            };
            if raw.bytes.len() != want.iter().product::<usize>() * element_bytes {
                let message = format!("tensor {name} has {} bytes, which do not fit its shape", raw.bytes.len());
                return Err(Fault::invalid(message));
            }
            if all.first().is_some_and(|first| first.dtype != raw.dtype) {
                let message = format!("tensor {name} is stored in another type than {}", parts[0].0);
                return Err(Fault::invalid(message));
            }
            all.push(raw);
        }
        Ok(all)
    }

    /// Decodes tensors into one, on the device.
    fn place<T: WithDType, const N: usize>(
        &self,
        raw: &[RawTensor],
        shape: &[usize],
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Tensor, Fault> {
        let mut elements = Vec::with_capacity(shape.iter().product());
        advise_huge_pages(elements.spare_capacity_mut());
        for raw in raw {
            elements.extend(raw.bytes.as_chunks::<N>().0.iter().map(|bytes| decode(*bytes)));
        }
        Tensor::from_vec(elements, shape, self.device)
            .map_err(|e| Fault::device(format!("cannot place a tensor of shape {shape:?} on the device: {e}")))
    }
}
