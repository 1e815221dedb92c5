//! The decode engine as an executor: one upload, the layers, one download and one wait a step.

use super::arena::Pinned;
use super::decoder::{Compute, Decoder, Left};
use super::device::Gpu;
use super::graphs::{Graphs, buckets};
use super::step::{StepInput, StepShape, shape_of, write};
use super::weights::Weights;
use super::work::Most;
use crate::base::{Fault, HostTensor};
use crate::core::{BatchId, Emission, Member, Microbatch, Output};
use crate::engine::candle::{DeviceChoice, Setup};
use crate::engine::part::{StagePart, packed, sampling, token};
use crate::engine::{Executor, Numbers};
use crate::model::{LayerRange, LlamaSpec, ModelSpec, TensorSource};
use crate::ops::observe;
use half::{bf16, f16};
use std::rc::Rc;

/// Loads layers `range` of `spec` from `source` into an engine that computes in `numbers`.
///
/// # Errors
/// As [`crate::engine::load()`].
pub fn load(
    source: &dyn TensorSource,
    (spec, range): (&ModelSpec, LayerRange),
    setup: &Setup,
    numbers: Numbers,
    progress: &mut dyn FnMut(u64),
) -> Result<Box<dyn Executor>, Fault> {
    let (DeviceChoice::Cuda(number), ModelSpec::Llama(llama)) = (setup.device, spec) else {
        return Err(Fault::internal("executor cuda was given a device or a model that it does not run"));
    };
    let gpu = Rc::new(Gpu::open(number)?);
    match numbers {
        Numbers::Bf16 => CudaExecutor::<bf16>::load(gpu, source, (spec, llama, range), setup, progress).map(boxed),
        Numbers::F16 => CudaExecutor::<f16>::load(gpu, source, (spec, llama, range), setup, progress).map(boxed),
        Numbers::F32 => Err(Fault::internal("executor cuda was asked for f32")),
    }
}

fn boxed<T: Compute>(executor: CudaExecutor<T>) -> Box<dyn Executor> {
    Box::new(OnOneThread(executor))
}

/// What belongs to the thread that made it. [`crate::engine::Device`] makes executors on the thread that runs them, and
/// ends them there.
struct OnOneThread<T: Compute>(CudaExecutor<T>);

// SAFETY: the trait asks for `Send` so that loaders can give executors of any kind; this one never leaves its thread, as
// said above, so that its reference counts and streams are touched by one thread alone.
unsafe impl<T: Compute> Send for OnOneThread<T> {}

impl<T: Compute> Executor for OnOneThread<T> {
    fn warm_up(&mut self) -> Result<(), Fault> {
        self.0.warm_up()
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Output, Fault> {
        self.0.run(batch, inputs)
    }

    fn is_lost(&self) -> bool {
        self.0.gpu.is_lost()
    }
}

/// Runs one stage of a decoder.
struct CudaExecutor<T: Compute> {
    // Before the decoder, whose addresses they hold.
    graphs: Graphs,
    decoder: Decoder<T>,
    spec: ModelSpec,
    range: LayerRange,
    setup: Setup,
    /// What goes up, and what comes down.
    up: Pinned<u32>,
    down: Pinned<f32>,
    gpu: Rc<Gpu>,
}

impl<T: Compute> CudaExecutor<T> {
    fn load(
        gpu: Rc<Gpu>,
        source: &dyn TensorSource,
        (spec, llama, range): (&ModelSpec, &LlamaSpec, LayerRange),
        setup: &Setup,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, Fault> {
        if range.is_empty() || range.end > llama.layers {
            return Err(Fault::invalid(format!("a model of {} layers has no layers {range:?}", llama.layers)));
        }
        let weights = Weights::<T>::load(&gpu, source, llama, &range, progress)?;
        let weights_bytes = weights.bytes;
        let room = setup.kv.blocks * setup.kv.block_size;
        let positions = llama.max_positions.min(room);
        let most = Most { rows: setup.max_rows, emitting: setup.max_seqs.min(setup.max_rows), positions };
        let decoder = Decoder::new(&gpu, llama, weights, setup.kv, most)?;
        let down = if decoder.is_last() { most.emitting * (1 + llama.vocab) } else { most.rows * llama.hidden };
        let input = if range.start == 0 { StepInput::Ids } else { StepInput::Activations(llama.hidden) };
        let graphs = Graphs::new(positions.div_ceil(setup.kv.block_size), input, decoder.is_last());
        let (up, down) = (Pinned::new(&gpu, decoder.words().len())?, Pinned::new(&gpu, down)?);
        let (free_bytes, all_bytes) = gpu.memory()?;
        tracing::info!(?range, weights_bytes, free_bytes, all_bytes, "the stage's memory is taken");
        Ok(Self { graphs, decoder, spec: spec.clone(), range, setup: setup.clone(), up, down, gpu })
    }

    fn part(&self) -> StagePart<'_> {
        StagePart { spec: &self.spec, range: &self.range, kv: self.setup.kv, max_rows: self.setup.max_rows }
    }

    fn warm_up(&mut self) -> Result<(), Fault> {
        for rows in [1, self.part().most_rows()] {
            let (batch, input) = self.part().warm_up_batch(rows);
            self.run(&batch, &[input])?;
        }
        // Padding all of it: such steps write no keys.
        let buckets = buckets(self.setup.max_seqs.min(self.setup.max_rows));
        for rows in &buckets {
            let shape = self.graphs.shape(*rows);
            let nobody = Microbatch { id: BatchId(0), members: Vec::new() };
            self.send(&nobody, &[], &shape)?;
            self.graphs.record(&self.gpu, &mut self.decoder, *rows)?;
        }
        Ok(())
    }

    /// Queues the upload of a step's words.
    fn send(&mut self, batch: &Microbatch, inputs: &[HostTensor], shape: &StepShape) -> Result<(), Fault> {
        if shape.words() > self.up.as_slice().len() {
            return Err(Fault::internal(format!("{shape:?} is more than this stage was made for")));
        }
        let limits = (self.setup.kv, self.spec.max_positions());
        write(batch, shape, limits, inputs, self.up.as_mut_slice())?;
        self.up.upload(shape.words(), self.decoder.words())
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Output, Fault> {
        self.part().check(batch, inputs)?;
        let output = self.run_checked(batch, inputs);
        if output.is_err() {
            // What was queued before the failure may still read the upload that the next batch will overwrite. Whatever it
            // says, the fault that came first is the one to tell.
            let _ = self.gpu.synchronize("ending a failed step");
        }
        output
    }

    fn run_checked(&mut self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Output, Fault> {
        let shape = shape_of(batch, self.setup.kv.block_size, self.graphs.input(), self.decoder.is_last());
        let bucket = if shape.tiles == 0 { self.graphs.bucket(shape.rows) } else { None };
        let left = match bucket {
            Some(rows) => {
                self.send(batch, inputs, &self.graphs.shape(rows))?;
                self.graphs.launch(&self.gpu, rows)?
            }
            None => {
                self.send(batch, inputs, &shape)?;
                self.decoder.step(&shape)?
            }
        };
        // What padding rows left is not fetched.
        let short = |len: usize| Fault::internal(format!("a step left less than {len} numbers"));
        match left {
            Left::Activations(x) => {
                let len = shape.rows * self.spec.hidden();
                let x = x.part(0..len).ok_or_else(|| short(len))?;
                self.down.download(0, x)?;
                self.gpu.synchronize("running a step")?;
                Ok(Output::Activations(packed(&self.down.as_slice()[..len], shape.rows)))
            }
            Left::Tokens(tokens, logits) => {
                let len = shape.emitting * self.spec.vocab();
                let (tokens, logits) = match (tokens.part(0..shape.emitting), logits.part(0..len)) {
                    (Some(tokens), Some(logits)) => (tokens, logits),
                    _ => return Err(short(len)),
                };
                // The same words; a token's bits pass through as they are.
                // SAFETY: one 32-bit word each.
                let tokens = unsafe { super::launch::DeviceSlice::<f32>::new(tokens.address(), tokens.len()) };
                self.down.download(0, tokens)?;
                // The digest of a row's logits, the largest of them, and penalties are the CPU's business.
                let looked_at = batch.members.iter().any(|member| member.emit && needs_logits(member));
                if looked_at {
                    self.down.download(tokens.len(), logits)?;
                }
                self.gpu.synchronize("running a step")?;
                Ok(Output::Emissions(self.emissions(batch, &shape, looked_at)))
            }
        }
    }

    /// What came down, member by member.
    fn emissions(&mut self, batch: &Microbatch, shape: &StepShape, looked_at: bool) -> Vec<Option<Emission>> {
        let vocab = self.spec.vocab();
        let (tokens, rest) = self.down.as_mut_slice().split_at_mut(shape.emitting);
        let mut rows =
            if looked_at { rest[..shape.emitting * vocab].chunks_exact_mut(vocab) } else { [].chunks_exact_mut(1) };
        let mut tokens = tokens.iter();
        let one = |member: &Member| {
            if !member.emit {
                return None;
            }
            let (drawn, row) = (tokens.next()?.to_bits(), rows.next());
            match row {
                Some(logits) if penalised(member) => Some(token(member, logits)),
                Some(logits) => {
                    let observed = observe(logits, sampling(member).top_logits);
                    Some(Emission::Token { id: drawn, observed })
                }
                None => Some(Emission::Token { id: drawn, observed: None }),
            }
        };
        batch.members.iter().map(one).collect()
    }
}

fn penalised(member: &Member) -> bool {
    sampling(member).repetition_penalty != 1.0 && member.history.as_ref().is_some_and(|history| !history.is_empty())
}

fn needs_logits(member: &Member) -> bool {
    sampling(member).top_logits > 0 || penalised(member)
}
