//! The executor that runs every model on the CPU or a CUDA device, and is what others are held against.

use crate::base::{Fault, HostDType, HostTensor, ReplicaId, SequenceId};
use crate::core::{BatchId, Emission, Member, Microbatch, Opening, Output, Sampling, Ticket, Work};
use crate::engine::Executor;
use crate::model::{KvShape, LayerRange, Made, ModelSpec, StageModel, TensorSource};
use crate::ops::{Isa, Ops, Threads, observe, sample};
use bytes::BytesMut;
use candle_core::{Device, Storage, Tensor};
use std::sync::Arc;

/// Spare room behind activations, for a hop's trailer: so much a row, and so much a batch.
const TRAILER_ROW_BYTES: usize = 64;
const TRAILER_BYTES: usize = 4096;

/// Which device a stage runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU, in the given instructions.
    Cpu(Isa),
    /// A CUDA device, by its number.
    Cuda(usize),
}

/// How a stage is set up on its device.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The device.
    pub device: DeviceChoice,
    /// The process's threads; all its stages share them.
    pub threads: Threads,
    /// The KV cache; unused by encoders.
    pub kv: KvShape,
    /// Most rows of a batch.
    pub max_rows: usize,
}

/// Runs one stage's layers with candle's tensors.
pub struct CandleExecutor {
    model: StageModel,
    spec: ModelSpec,
    range: LayerRange,
    device: Device,
    setup: Setup,
}

impl CandleExecutor {
    /// Loads layers `range` of the model `spec` from `source`.
    ///
    /// # Errors
    /// As [`StageModel::load`]; `InvalidRequest` if the device is not one that this build and machine have.
    pub fn load(source: &dyn TensorSource, spec: &ModelSpec, range: LayerRange, setup: Setup) -> Result<Self, Fault> {
        let (device, ops) = match setup.device {
            DeviceChoice::Cpu(isa) => (Device::Cpu, Ops::rows(isa)),
            DeviceChoice::Cuda(number) => (cuda(number)?, Ops::candle()),
        };
        let load = || StageModel::load(source, spec, range.clone(), setup.kv, (ops, &device));
        let model = setup.threads.run(load)?;
        Ok(Self { model, spec: spec.clone(), range, device, setup })
    }

    fn is_first(&self) -> bool {
        self.range.start == 0
    }

    fn is_last(&self) -> bool {
        self.range.end == self.spec.layers()
    }

    fn run_here(&self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Output, Fault> {
        let rows = batch.rows();
        if rows == 0 || rows > self.setup.max_rows {
            let message = format!("a batch of {rows} rows came, but this stage runs 1 to {}", self.setup.max_rows);
            return Err(Fault::internal(message));
        }
        let input = self.input(batch, inputs)?;
        let step = self.model.step(&batch.members, self.spec.max_positions(), &self.device)?;
        let failed = |e| Fault::device(format!("layers {:?} failed at {rows} rows: {e}", self.range));
        match self.model.run(&input, &step, self.is_last()).map_err(failed)? {
            Made::Activations(x) => activations(&x).map_err(failed),
            Made::Logits(logits) => emissions(batch, logits, token).map_err(failed),
            Made::Vectors(vectors) => emissions(batch, vectors, |_, v| Emission::Vector(v.to_vec())).map_err(failed),
        }
    }

    /// The members' inputs, one below the other, on the device.
    fn input(&self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Tensor, Fault> {
        let (dtype, width) = if self.is_first() { (HostDType::U32, 1) } else { (HostDType::F32, self.spec.hidden()) };
        if inputs.len() != batch.members.len() {
            return Err(Fault::internal(format!("{} inputs for {} members", inputs.len(), batch.members.len())));
        }
        for (member, input) in batch.members.iter().zip(inputs) {
            let fits = match self.spec {
                ModelSpec::Llama(_) => matches!(member.opening.work, Work::Generate(_)),
                ModelSpec::Bert(_) => matches!(member.opening.work, Work::Embed),
            };
            if !fits {
                let message = format!("sequence {} asks for what this kind of model does not do", member.sequence);
                return Err(Fault::invalid(message));
            }
            let shape = [member.rows as usize, width];
            if input.dtype != dtype || input.shape != shape || input.bytes.len() != shape[0] * width * 4 {
                let message = format!("an input of {:?} {:?} came for {dtype:?} {shape:?}", input.dtype, input.shape);
                return Err(Fault::internal(message));
            }
        }
        let rows = batch.rows();
        let words = inputs.iter().flat_map(HostTensor::words);
        let tensor = if self.is_first() {
            let mut ids = Vec::with_capacity(rows);
            ids.extend(words);
            if let Some(id) = ids.iter().find(|id| **id as usize >= self.spec.vocab()) {
                return Err(Fault::invalid(format!("the model of {} tokens has no token {id}", self.spec.vocab())));
            }
            Tensor::from_vec(ids, rows, &self.device)
        } else {
            let mut numbers = Vec::with_capacity(rows * width);
            for input in inputs {
                numbers.extend(input.words().map(f32::from_bits));
            }
            Tensor::from_vec(numbers, (rows, width), &self.device)
        };
        tensor.map_err(|e| Fault::device(format!("cannot place {rows} rows on the device: {e}")))
    }

    /// A batch of one sequence of `rows` rows in the first blocks, to run before any sequence lives there.
    fn warm_up_batch(&self, rows: usize) -> (Microbatch, HostTensor) {
        let input = if self.is_first() {
            HostTensor::tokens(&vec![0; rows])
        } else {
            let shape = [rows, self.spec.hidden()];
            HostTensor { dtype: HostDType::F32, shape, bytes: vec![0; shape[0] * shape[1] * 4].into() }
        };
        let (work, blocks) = match self.spec {
            ModelSpec::Llama(_) => (Work::Generate(Sampling::GREEDY), rows.div_ceil(self.setup.kv.block_size)),
            ModelSpec::Bert(_) => (Work::Embed, 0),
        };
        let sequence = SequenceId { boot: 0, counter: 0 };
        let opening = Opening {
            sequence,
            attempt: 0,
            door: ReplicaId::new("warm-up", 0),
            path: Vec::new(),
            call_id: String::new(),
            work,
            known: Vec::new(),
            capacity_tokens: rows as u32,
        };
        let member = Member {
            sequence,
            attempt: 0,
            start: 0,
            rows: rows as u32,
            emit: true,
            ticket: Ticket(0),
            ticket_row: 0,
            opening: Arc::new(opening),
            blocks: (0..blocks as u32).collect(),
            history: None,
        };
        (Microbatch { id: BatchId(0), members: vec![member] }, input)
    }
}

impl Executor for CandleExecutor {
    fn warm_up(&mut self) -> Result<(), Fault> {
        let room = match self.spec {
            ModelSpec::Llama(_) => self.setup.kv.blocks * self.setup.kv.block_size,
            ModelSpec::Bert(_) => usize::MAX,
        };
        let most = self.setup.max_rows.min(room).min(self.spec.max_positions());
        for rows in [1, most] {
            let (batch, input) = self.warm_up_batch(rows);
            self.run(&batch, &[input])?;
        }
        Ok(())
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Output, Fault> {
        match self.setup.device {
            DeviceChoice::Cpu(_) => self.setup.threads.run(|| self.run_here(batch, inputs)),
            // A CUDA stream belongs to the thread that uses the device.
            DeviceChoice::Cuda(_) => self.run_here(batch, inputs),
        }
    }
}

/// The activations as they travel.
fn activations(x: &Tensor) -> Result<Output, candle_core::Error> {
    let (rows, width) = x.dims2()?;
    let mut bytes = BytesMut::with_capacity(rows * (width * 4 + TRAILER_ROW_BYTES) + TRAILER_BYTES);
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => put(&storage.as_slice::<f32>()?[start..end], &mut bytes),
        _ => put(&x.flatten_all()?.to_vec1::<f32>()?, &mut bytes),
    }
    Ok(Output::Activations(bytes))
}

fn put(numbers: &[f32], bytes: &mut BytesMut) {
    bytes.resize(numbers.len() * 4, 0);
    for (bytes, number) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
        *bytes = number.to_le_bytes();
    }
}

/// What `make` makes of each emitting member's row of `rows`, in the members' order.
fn emissions(
    batch: &Microbatch,
    rows: Option<Tensor>,
    make: impl Fn(&Member, &mut [f32]) -> Emission,
) -> Result<Output, candle_core::Error> {
    let mut numbers = Vec::new();
    let mut width = 1;
    if let Some(rows) = rows {
        width = rows.dim(1)?;
        numbers = rows.flatten_all()?.to_vec1::<f32>()?;
    }
    let mut rows = numbers.chunks_exact_mut(width);
    let one = |member: &Member| if member.emit { rows.next().map(|row| make(member, row)) } else { None };
    Ok(Output::Emissions(batch.members.iter().map(one).collect()))
}

fn token(member: &Member, logits: &mut [f32]) -> Emission {
    let sampling = match &member.opening.work {
        Work::Generate(sampling) => sampling,
        Work::Embed => &Sampling::GREEDY,
    };
    let observed = observe(logits, sampling.top_logits);
    let position = member.start + member.rows;
    Emission::Token { id: sample(logits, sampling, position, member.history.as_deref()), observed }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device, Fault> {
    Device::new_cuda(number).map_err(|e| Fault::invalid(format!("cannot use CUDA device {number}: {e}")))
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Device, Fault> {
    Err(Fault::invalid(format!(
        "cannot use CUDA device {number}: this binary was built without CUDA; build it with --features cuda"
    )))
}
