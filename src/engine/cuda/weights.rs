//! A stage's weights in one arena: what is multiplied with the same input lies together, so that one product makes all.

use super::arena::{Arena, Pinned, room_bytes};
use super::device::Gpu;
use super::gemm::Element;
use super::kernels::gemv::SumOf;
use super::kernels::launch::{DeviceSlice, Half};
use cudarc::driver::{CudaEvent, result};
use half::{bf16, f16};
use safetensors::Dtype;
use stageline_base::Fault;
use stageline_model::families::llama::{EMBEDDING, HEAD, NORM};
use stageline_model::{LayerRange, LinearNeed, LlamaSpec, TensorSource};
use std::rc::Rc;

/// A 16-bit type that the engine computes in.
pub trait Compute: Half + Element + Stored + SumOf<Self> {}

impl<T: Half + Element + Stored + SumOf<T>> Compute for T {}

/// Bytes that are read from disk, and copied to the device, at once.
const BLOCK_BYTES: usize = 8 << 20;
/// Blocks in flight: one is read while others are copied.
const BLOCKS: usize = 4;

/// A linear map: `[columns, depth]`, and `[columns]` of bias if it has one.
#[derive(Clone, Copy, Debug)]
pub struct LinearWeights<T> {
    /// The matrix.
    pub weight: DeviceSlice<T>,
    /// What is added.
    pub bias: Option<DeviceSlice<T>>,
}

/// The weights of a layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerWeights<T> {
    /// `[hidden]`.
    pub attention_norm: DeviceSlice<T>,
    /// Queries, keys, values: `[(heads + 2 kv_heads) * head_dim, hidden]`.
    pub qkv: LinearWeights<T>,
    /// Of each head of queries, and of keys, `[head_dim]`.
    pub head_norms: Option<[DeviceSlice<T>; 2]>,
    /// `[hidden, heads * head_dim]`.
    pub out: LinearWeights<T>,
    /// `[hidden]`.
    pub mlp_norm: DeviceSlice<T>,
    /// Gate, up: `[2 intermediate, hidden]`.
    pub gate_up: LinearWeights<T>,
    /// `[hidden, intermediate]`.
    pub down: LinearWeights<T>,
}

/// The weights of a stage.
pub struct Weights<T> {
    /// `[vocab, hidden]`, if the stage begins the model.
    pub embedding: Option<DeviceSlice<T>>,
    /// Which layers of the model.
    pub range: LayerRange,
    /// These layers, in order.
    pub layers: Vec<LayerWeights<T>>,
    /// Norm `[hidden]` and head `[vocab, hidden]`, if the stage ends the model.
    pub head: Option<(DeviceSlice<T>, DeviceSlice<T>)>,
    /// Cosine and sine of each pair of a head at each position: `[positions, head_dim / 2, 2]`.
    pub rotations: DeviceSlice<f32>,
    /// Bytes of weights, without the table of rotations.
    pub bytes: usize,
    _arena: Arena,
}

/// A stored tensor and where it goes.
struct Piece<T> {
    name: String,
    shape: Vec<usize>,
    to: DeviceSlice<T>,
}

/// Takes ranges of an arena for tensors, or only counts them.
struct Placer<T> {
    arena: Option<Arena>,
    pieces: Vec<Piece<T>>,
    /// What the arena must hold.
    bytes: usize,
    /// What the tensors hold.
    weights_bytes: usize,
}

impl<T: Half> Placer<T> {
    fn new(arena: Option<Arena>) -> Self {
        Self { arena, pieces: Vec::new(), bytes: 0, weights_bytes: 0 }
    }

    fn take<U>(&mut self, len: usize) -> Result<DeviceSlice<U>, Fault> {
        self.bytes += room_bytes(len * size_of::<U>());
        match &mut self.arena {
            Some(arena) => arena.take(len),
            // SAFETY: only counted with: no kernel ever sees it.
            None => Ok(unsafe { DeviceSlice::new(0, len) }),
        }
    }

    /// Tensors of the given names and sizes, one behind the other.
    fn stacked(&mut self, parts: &[(String, Vec<usize>)]) -> Result<DeviceSlice<T>, Fault> {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let all = self.take(parts.iter().map(|(_, shape)| count(shape)).sum())?;
        self.weights_bytes += all.len() * size_of::<T>();
        let mut at = 0;
        for (name, shape) in parts {
            let end = at + count(shape);
            let to = all.part(at..end).ok_or_else(|| Fault::internal(format!("no place for {name}")))?;
            self.pieces.push(Piece { name: name.clone(), shape: shape.clone(), to });
            at = end;
        }
        Ok(all)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<DeviceSlice<T>, Fault> {
        self.stacked(&[(name.to_owned(), vec![len])])
    }

    /// Linear maps of the same input, as one.
    fn linear(&mut self, LinearNeed { parts, depth, bias }: &LinearNeed) -> Result<LinearWeights<T>, Fault> {
        let weights: Vec<_> = parts.iter().map(|(name, n)| (format!("{name}.weight"), vec![*n, *depth])).collect();
        let weight = self.stacked(&weights)?;
        let biases: Vec<_> = parts.iter().map(|(name, n)| (format!("{name}.bias"), vec![*n])).collect();
        let bias = if *bias { Some(self.stacked(&biases)?) } else { None };
        Ok(LinearWeights { weight, bias })
    }

    fn layer(&mut self, spec: &LlamaSpec, number: usize) -> Result<LayerWeights<T>, Fault> {
        let needs = spec.layer_needs(number);
        Ok(LayerWeights {
            attention_norm: self.vector(&needs.attention_norm, spec.hidden)?,
            qkv: self.linear(&needs.qkv)?,
            head_norms: match &needs.head_norms {
                Some([q, k]) => Some([self.vector(q, spec.head_dim)?, self.vector(k, spec.head_dim)?]),
                None => None,
            },
            out: self.linear(&needs.out)?,
            mlp_norm: self.vector(&needs.mlp_norm, spec.hidden)?,
            gate_up: self.linear(&needs.gate_up)?,
            down: self.linear(&needs.down)?,
        })
    }

    /// Everything that a stage of layers `range` needs for sequences of up to `positions`.
    fn stage(&mut self, spec: &LlamaSpec, range: &LayerRange, positions: usize) -> Result<Parts<T>, Fault> {
        let (first, last) = (range.start == 0, range.end == spec.layers);
        let table = |name: &str| [(name.to_owned(), vec![spec.vocab, spec.hidden])];
        let embedded = first || last && spec.tied;
        let embedding = if embedded { Some(self.stacked(&table(EMBEDDING))?) } else { None };
        let layers = range.clone().map(|number| self.layer(spec, number)).collect::<Result<_, _>>()?;
        let head = if last {
            let norm = self.vector(NORM, spec.hidden)?;
            let matrix = match embedding.filter(|_| spec.tied) {
                Some(tied) => tied,
                None => self.stacked(&table(HEAD))?,
            };
            Some((norm, matrix))
        } else {
            None
        };
        let rotations = self.take(positions * spec.head_dim)?;
        Ok(Parts { embedding: embedding.filter(|_| first), layers, head, rotations })
    }
}

/// The ranges of a stage.
struct Parts<T> {
    embedding: Option<DeviceSlice<T>>,
    layers: Vec<LayerWeights<T>>,
    head: Option<(DeviceSlice<T>, DeviceSlice<T>)>,
    rotations: DeviceSlice<f32>,
}

impl<T: Half> Weights<T> {
    /// Room for the weights of layers `range` of `spec`, with nothing in it: what a step of a model moves can be told, and
    /// how long it takes be measured, without the model.
    ///
    /// # Errors
    /// `DeviceFailed` if the device has not the memory.
    pub fn blank(gpu: &Rc<Gpu>, spec: &LlamaSpec, range: &LayerRange, positions: usize) -> Result<Self, Fault> {
        Self::placed(gpu, spec, range, positions).map(|(weights, _)| weights)
    }

    /// The arena's ranges, and what is to be copied to them.
    fn placed(
        gpu: &Rc<Gpu>,
        spec: &LlamaSpec,
        range: &LayerRange,
        positions: usize,
    ) -> Result<(Self, Vec<Piece<T>>), Fault> {
        let mut counted = Placer::<T>::new(None);
        counted.stage(spec, range, positions)?;
        let arena = Arena::new(gpu, counted.bytes, &format!("the weights of layers {range:?}"))?;
        let mut placer = Placer::<T>::new(Some(arena));
        let Parts { embedding, layers, head, rotations } = placer.stage(spec, range, positions)?;
        let arena = placer.arena.ok_or_else(|| Fault::internal("weights without an arena"))?;
        let range = range.clone();
        let weights = Self { embedding, range, layers, head, rotations, bytes: placer.weights_bytes, _arena: arena };
        Ok((weights, placer.pieces))
    }
}

impl<T: Half + Stored> Weights<T> {
    /// Loads layers `range` of `spec`, for sequences of up to `positions`, from `source`: read in blocks into page-locked
    /// memory, copied from there while the next block is read. `progress` is told how many bytes have been read so far.
    ///
    /// # Errors
    /// Whatever `source` says; `InvalidRequest` if a tensor is not what `spec` asks for; `DeviceFailed` if the device has
    /// not the memory.
    pub fn load(
        gpu: &Rc<Gpu>,
        source: &dyn TensorSource,
        spec: &LlamaSpec,
        (range, positions): (&LayerRange, usize),
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, Fault> {
        let (weights, pieces) = Self::placed(gpu, spec, range, positions)?;
        let mut ring = Ring::new(gpu)?;
        let mut done = 0;
        for piece in &pieces {
            let stored = source.stored(&piece.name)?;
            if stored.shape != piece.shape {
                let (have, want) = (stored.shape, &piece.shape);
                let message = format!("tensor {} has shape {have:?}, but config.json asks for {want:?}", piece.name);
                return Err(Fault::invalid(message));
            }
            ring.fill(source, piece, stored.dtype, &mut |bytes| {
                done += bytes;
                progress(done);
            })?;
        }
        ring.fill_rotations(spec, (positions, weights.rotations))?;
        gpu.synchronize("copying weights")?;
        Ok(weights)
    }
}

/// Decoding of what files hold.
pub trait Stored {
    /// This type in a file's header.
    const DTYPE: Dtype;
    /// As files hold it.
    fn stored(self) -> [u8; 2];
}

impl Stored for bf16 {
    const DTYPE: Dtype = Dtype::BF16;

    fn stored(self) -> [u8; 2] {
        self.to_le_bytes()
    }
}

impl Stored for f16 {
    const DTYPE: Dtype = Dtype::F16;

    fn stored(self) -> [u8; 2] {
        self.to_le_bytes()
    }
}

/// Blocks of page-locked memory on their way to the device.
struct Ring {
    gpu: Rc<Gpu>,
    /// Each with the event behind its last copy.
    blocks: Vec<(Pinned<u8>, CudaEvent)>,
    next: usize,
    /// Where what is stored in another type is read to.
    raw: Vec<u8>,
}

impl Ring {
    fn new(gpu: &Rc<Gpu>) -> Result<Self, Fault> {
        let block = || {
            let event = gpu.context.new_event(None).map_err(|e| gpu.fault("making an event", e))?;
            Ok((Pinned::new(gpu, BLOCK_BYTES)?, event))
        };
        let blocks = (0..BLOCKS).map(|_| block()).collect::<Result<_, Fault>>()?;
        Ok(Self { gpu: gpu.clone(), blocks, next: 0, raw: Vec::new() })
    }

    /// Has `write` fill the next `bytes` of page-locked memory and queues their copy to `address`.
    fn send(
        &mut self,
        address: u64,
        bytes: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let gpu = &self.gpu;
        let (block, event) = &mut self.blocks[self.next];
        self.next = (self.next + 1) % BLOCKS;
        // Before the block is written anew, its last copy must have read it.
        event.synchronize().map_err(|e| gpu.fault("waiting for a copy of weights", e))?;
        let memory = &mut block.as_mut_slice()[..bytes];
        write(memory)?;
        // SAFETY: the range lies in the weights' arena; the block is not written before the event.
        unsafe { result::memcpy_htod_async(address, memory, gpu.stream.cu_stream()) }
            .and_then(|()| event.record(&gpu.stream))
            .map_err(|e| gpu.fault("copying weights", e))
    }

    /// Copies a tensor, block by block, converted if it is stored in another type.
    fn fill<T: Half + Stored>(
        &mut self,
        source: &dyn TensorSource,
        piece: &Piece<T>,
        dtype: Dtype,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        let decode: Option<fn(&[u8]) -> f32> = match dtype {
            same if same == T::DTYPE => None,
            Dtype::F64 => Some(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32),
            Dtype::F32 => Some(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Dtype::BF16 => Some(|b| f32::from(bf16::from_le_bytes([b[0], b[1]]))),
            Dtype::F16 => Some(|b| f32::from(f16::from_le_bytes([b[0], b[1]]))),
            other => {
                let message =
                    format!("tensor {} is stored as {other:?}; weights must be F32, F16, BF16 or F64", piece.name);
                return Err(Fault::invalid(message));
            }
        };
        let stored_bytes = dtype.bitsize() / 8;
        let mut raw = std::mem::take(&mut self.raw);
        let most = BLOCK_BYTES / size_of::<T>();
        for first in (0..piece.to.len()).step_by(most) {
            let count = most.min(piece.to.len() - first);
            let (at, bytes) = (first * stored_bytes, count * size_of::<T>());
            self.send(piece.to.address() + (first * size_of::<T>()) as u64, bytes, |memory| match decode {
                None => source.read(&piece.name, at, memory),
                Some(decode) => {
                    raw.resize(count * stored_bytes, 0);
                    source.read(&piece.name, at, &mut raw)?;
                    for (to, from) in memory.chunks_exact_mut(2).zip(raw.chunks_exact(stored_bytes)) {
                        to.copy_from_slice(&T::from_f32(decode(from)).stored());
                    }
                    Ok(())
                }
            })?;
            progress((count * stored_bytes) as u64);
        }
        self.raw = raw;
        Ok(())
    }

    /// Computes the table of rotations and copies it.
    fn fill_rotations(&mut self, spec: &LlamaSpec, (positions, to): (usize, DeviceSlice<f32>)) -> Result<(), Fault> {
        let frequencies = spec.frequencies();
        let row_bytes = spec.head_dim * size_of::<f32>();
        let most = (BLOCK_BYTES / row_bytes).max(1);
        for first in (0..positions).step_by(most) {
            let count = most.min(positions - first);
            let address = to.address() + (first * row_bytes) as u64;
            self.send(address, count * row_bytes, |memory| {
                for (position, row) in memory.chunks_exact_mut(row_bytes).enumerate() {
                    let turns = frequencies.turns((first + position) as u32);
                    for (pair, (cos, sin)) in row.chunks_exact_mut(8).zip(turns) {
                        pair[..4].copy_from_slice(&cos.to_le_bytes());
                        pair[4..].copy_from_slice(&sin.to_le_bytes());
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
