//! The executor that runs every model on the CPU or a CUDA device, and is what others are held against.

use crate::given::{elements, given, set};
use crate::kv_room::Wish;
use crate::memory_left::MemoryLeft;
use crate::part::{StagePart, token, vector};
use crate::setup::{DeviceChoice, Setup};
use crate::{Executor, Ready};
use candle_core::{Device, Tensor};
use stageline_base::{Border, Fault, Tensors};
use stageline_core::{Emission, Member, Microbatch, Output};
use stageline_model::{KvShape, LayerRange, Made, ModelSpec, StageModel, TensorSource};
use stageline_ops::Ops;
use std::path::Path;

/// Runs one stage's layers with candle's tensors.
pub struct CandleExecutor {
    model: Box<dyn StageModel>,
    spec: ModelSpec,
    range: LayerRange,
    /// What crosses in front of them, and behind them: at the last stage, the answer.
    takes: Border,
    gives: Border,
    device: Device,
    setup: Setup,
}

impl CandleExecutor {
    /// Loads layers `range` of the model `spec` from `source`.
    ///
    /// # Errors
    /// As [`ModelSpec::load`]; `InvalidRequest` if the device is not one that this build and machine have.
    pub fn load(source: &dyn TensorSource, spec: &ModelSpec, range: LayerRange, setup: Setup) -> Result<Self, Fault> {
        let (device, ops) = match setup.device {
            DeviceChoice::Cpu(isa) => (Device::Cpu, Ops::rows(isa)),
            DeviceChoice::Cuda(number) => (cuda(number)?, Ops::candle()),
        };
        // Room to warm up with, until it is known what there is.
        let few = setup.least_blocks.min(setup.max_rows.div_ceil(setup.kv.block_size));
        let blocks = if setup.is_fitted() { few } else { setup.kv.blocks };
        let kv = KvShape { blocks, ..setup.kv };
        let load = || spec.load(source, range.clone(), kv, (ops, &device));
        let model = setup.work(load)?;
        let takes = spec.border(range.start);
        let gives = if range.end == spec.layers() { spec.answer() } else { spec.border(range.end) };
        Ok(Self { model, spec: spec.clone(), range, takes, gives, device, setup })
    }

    fn part(&self) -> StagePart<'_> {
        let kv = self.model.kv().unwrap_or(self.setup.kv);
        StagePart { spec: &self.spec, range: &self.range, takes: &self.takes, kv, max_rows: self.setup.max_rows }
    }

    /// The KV blocks that there is room for, beside the weights and what warming up has shown to be needed.
    fn fitting_blocks(&self) -> Result<usize, Fault> {
        let Setup { kv, least_blocks, share, .. } = self.setup;
        // A system that does not say what is left gets what one sequence needs.
        let (Some(left), Some(block_bytes)) = (MemoryLeft::read(Path::new("/")), self.model.kv_block_bytes()) else {
            return Ok(least_blocks);
        };
        let wish = Wish { blocks: (least_blocks, kv.blocks), block_bytes, block_size: kv.block_size, share };
        wish.granted(&left)
    }

    fn run_here(&self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
        self.part().check(batch, inputs)?;
        let rows = batch.rows();
        let given = given(&self.takes, inputs, &self.device)?;
        let step = self.model.step(&batch.members, &self.device)?;
        let failed = |e| Fault::device(format!("layers {:?} failed at {rows} rows: {e}", self.range));
        match self.model.run(&given, &step).map_err(failed)? {
            Made::Rows(tensors) => {
                let tensors = tensors.iter().map(|x| elements(x, batch.members.len()));
                tensors.collect::<candle_core::Result<_>>().map(Output::Rows).map_err(failed)
            }
            Made::Sets(sets) => self.sets(batch, &sets),
            Made::Logits(logits) => emissions(batch, logits, failed, token),
            Made::Vectors(vectors) => emissions(batch, vectors, failed, |member, numbers| vector(member, numbers)),
        }
    }

    /// The members' sets, on their way to the next stage, or as answers.
    fn sets(&self, batch: &Microbatch, made: &[Vec<Tensor>]) -> Result<Output, Fault> {
        if made.len() != batch.members.len() {
            return Err(Fault::internal(format!("{} sets were made for {} members", made.len(), batch.members.len())));
        }
        let sets = batch.members.iter().zip(made).map(|(member, made)| set(&self.gives, member.rows, made));
        if self.range.end < self.spec.layers() {
            return sets.collect::<Result<_, _>>().map(Output::Sets);
        }
        sets.map(|set| set.map(|set| Some(Emission::Tensors(set)))).collect::<Result<_, _>>().map(Output::Emissions)
    }
}

impl Executor for CandleExecutor {
    fn warm_up(&mut self) -> Result<Ready, Fault> {
        for rows in [1, self.part().most_rows()] {
            let (batch, input) = self.part().warm_up_batch(rows)?;
            self.run(&batch, &[input])?;
        }
        Ok(Ready { kv_blocks: self.part().kv.blocks as u32, refused_recordings: 0 })
    }

    fn settle(&mut self, ready: Ready) -> Result<Ready, Fault> {
        if !self.setup.is_fitted() || self.model.kv().is_none() {
            return Ok(ready);
        }
        let blocks = self.fitting_blocks()?;
        self.model.resize_kv(blocks)?;
        Ok(Ready { kv_blocks: blocks as u32, ..ready })
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
        self.setup.work(|| self.run_here(batch, inputs))
    }

    fn is_lost(&self) -> bool {
        // What fails a batch alone was said by the call that failed; a device that is lost says so to every later call.
        self.device.synchronize().is_err()
    }
}

/// What `make` makes of each emitting member's row of `rows`, in the members' order.
fn emissions(
    batch: &Microbatch,
    rows: Option<Tensor>,
    failed: impl Fn(candle_core::Error) -> Fault + Copy,
    make: impl Fn(&Member, &mut [f32]) -> Result<Emission, Fault>,
) -> Result<Output, Fault> {
    let mut numbers = Vec::new();
    let mut width = 1;
    if let Some(rows) = rows {
        width = rows.dim(1).map_err(failed)?;
        numbers = rows.flatten_all().and_then(|rows| rows.to_vec1::<f32>()).map_err(failed)?;
    }
    let mut rows = numbers.chunks_exact_mut(width);
    let one = |member: &Member| {
        let row = if member.emit { rows.next() } else { None };
        row.map(|row| make(member, row)).transpose()
    };
    Ok(Output::Emissions(batch.members.iter().map(one).collect::<Result<_, Fault>>()?))
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device, Fault> {
    let cannot = |e: &dyn std::fmt::Display| Fault::invalid(format!("cannot use CUDA device {number}: {e}"));
    let device = Device::new_cuda(number).map_err(|e| cannot(&e))?;
    if let Device::Cuda(opened) = &device {
        let context = opened.cuda_stream().context().clone();
        crate::setup::runs_on(context.compute_capability().map_err(|e| cannot(&e))?)?;
    }
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Device, Fault> {
    Err(Fault::invalid(format!(
        "cannot use CUDA device {number}: this binary was built without CUDA; build it with --features cuda"
    )))
}
