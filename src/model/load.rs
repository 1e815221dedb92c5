//! Weights from wherever they are stored into the device's memory.

use super::tensors::LinearNeed;
use bytes::Bytes;
use candle_core::{Device, Tensor, WithDType};
use half::{bf16, f16};
use safetensors::Dtype;
use stageline_base::Fault;
use stageline_ops::{Linear, advise_huge_pages};
use stageline_shard::header::TensorShape;

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

/// Whether weights may be stored in elements of `dtype`.
pub(super) fn is_weight(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Where weights come from: a shard, a model's folder.
pub trait TensorSource: Sync {
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
pub struct Loader<'a> {
    /// Where they are stored.
    pub source: &'a dyn TensorSource,
    /// Where they are to lie.
    pub device: &'a Device,
}

impl Loader<'_> {
    /// A matrix `[rows, width]` in the type that it is stored in.
    ///
    /// # Errors
    /// Whatever the source says; `InvalidRequest` if the tensor is of another shape or no weight; `DeviceFailed` if the device
    /// has not the memory.
    pub fn matrix(&self, name: &str, rows: usize, width: usize) -> Result<Tensor, Fault> {
        self.stacked(&[(name.to_owned(), rows)], width)
    }

    /// `count` numbers as `f32`.
    ///
    /// # Errors
    /// As [`Loader::matrix`].
    pub fn vector(&self, name: &str, count: usize) -> Result<Tensor, Fault> {
        self.joined(&[(name.to_owned(), count)])
    }

    /// Linear maps of the same input, as one.
    ///
    /// # Errors
    /// As [`Loader::matrix`].
    pub fn linear(&self, LinearNeed { parts, depth, bias }: &LinearNeed) -> Result<Linear, Fault> {
        let named = |end: &str| parts.iter().map(|(name, n)| (format!("{name}.{end}"), *n)).collect::<Vec<_>>();
        let bias = if *bias { Some(self.joined(&named("bias"))?) } else { None };
        Ok(Linear { weight: self.stacked(&named("weight"), *depth)?, bias })
    }

    /// Matrices of `width`, one above the other: in the type that all are stored in on the CPU, whose matmul widens them
    /// on its way; as f32 where they differ, which changes no bit, and on other devices, where each product would widen
    /// them anew.
    fn stacked(&self, parts: &[(String, usize)], width: usize) -> Result<Tensor, Fault> {
        let raw = self.read(parts, |rows| vec![rows, width])?;
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let shape = [rows, width];
        let is_one = raw.iter().all(|one| one.dtype == raw[0].dtype);
        match raw[0].dtype {
            Dtype::BF16 if is_one && self.device.is_cpu() => self.place(&raw, &shape, bf16::from_le_bytes),
            Dtype::F16 if is_one && self.device.is_cpu() => self.place(&raw, &shape, f16::from_le_bytes),
            _ => self.widened(&raw, &shape),
        }
    }

    /// Vectors, one after the other, as `f32`.
    fn joined(&self, parts: &[(String, usize)]) -> Result<Tensor, Fault> {
        let raw = self.read(parts, |count| vec![count])?;
        self.widened(&raw, &[parts.iter().map(|(_, count)| count).sum()])
    }

    /// Reads tensors that must have the shapes that the model's configuration asks for.
    fn read(&self, parts: &[(String, usize)], shape: impl Fn(usize) -> Vec<usize>) -> Result<Vec<RawTensor>, Fault> {
        let mut all: Vec<RawTensor> = Vec::with_capacity(parts.len());
        for (name, size) in parts {
            let raw = self.source.tensor(name)?;
            let want = shape(*size);
            if raw.shape != want {
                let message = format!("tensor {name} has shape {:?}, but config.json asks for {want:?}", raw.shape);
                return Err(Fault::invalid(message));
            }
            if !is_weight(raw.dtype) {
                let accepted = "weights must be F32, F16, BF16 or F64";
                return Err(Fault::invalid(format!("tensor {name} is stored as {:?}; {accepted}", raw.dtype)));
            }
            if raw.bytes.len() != want.iter().product::<usize>() * (raw.dtype.bitsize() / 8) {
                let message = format!("tensor {name} has {} bytes, which do not fit its shape", raw.bytes.len());
                return Err(Fault::invalid(message));
            }
            all.push(raw);
        }
        Ok(all)
    }

    /// Decodes tensors of one type into one, on the device.
    fn place<T: WithDType, const N: usize>(
        &self,
        raw: &[RawTensor],
        shape: &[usize],
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Tensor, Fault> {
        let mut elements = room(shape);
        for raw in raw {
            elements.extend(raw.bytes.as_chunks::<N>().0.iter().map(|bytes| decode(*bytes)));
        }
        self.send(elements, shape)
    }

    /// Decodes tensors of any types into one of `f32`, on the device. Only F64 is rounded.
    fn widened(&self, raw: &[RawTensor], shape: &[usize]) -> Result<Tensor, Fault> {
        let mut elements = room(shape);
        for RawTensor { dtype, bytes, .. } in raw {
            match dtype {
                Dtype::F64 => elements.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
                Dtype::F32 => elements.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
                Dtype::BF16 => elements.extend(bytes.as_chunks().0.iter().map(|b| f32::from(bf16::from_le_bytes(*b)))),
                _ => elements.extend(bytes.as_chunks().0.iter().map(|b| f32::from(f16::from_le_bytes(*b)))),
            }
        }
        self.send(elements, shape)
    }

    fn send<T: WithDType>(&self, elements: Vec<T>, shape: &[usize]) -> Result<Tensor, Fault> {
        Tensor::from_vec(elements, shape, self.device)
            .map_err(|e| Fault::device(format!("cannot place a tensor of shape {shape:?} on the device: {e}")))
    }
}

/// Room for the elements of a tensor.
fn room<T>(shape: &[usize]) -> Vec<T> {
    let mut elements = Vec::with_capacity(shape.iter().product());
    advise_huge_pages(elements.spare_capacity_mut());
    elements
}
