//! The decode engine as an executor: a step's words go up while the step before it runs; then the layers, one download and
//! one wait.

use super::buffers::StepBuffers;
use super::decoder::{Compute, Decoder, Left};
use super::device::Gpu;
use super::graphs::{Graphs, buckets};
use super::shared::Shared;
use super::step::{StepInput, StepShape, shape_of, write};
use super::weights::Weights;
use super::work::Most;
use crate::base::{Fault, HostTensor};
use crate::core::machine::DEVICE_DEPTH;
use crate::core::{BatchId, Emission, Member, Microbatch, Output};
use crate::engine::candle::{DeviceChoice, Setup};
use crate::engine::part::{StagePart, packed, sampling, token};
use crate::engine::{Executor, Numbers, Ready};
use crate::model::{KvShape, LayerRange, LlamaSpec, ModelSpec, TensorSource};
use crate::ops::observe;
use half::{bf16, f16};
use std::collections::VecDeque;
use std::rc::Rc;

/// Device memory that a KV cache which takes what is free leaves: for recorded steps, a MB or so each, and for what the driver
/// takes when it first does something.
const SPARE_BYTES: usize = 256 << 20;
/// Beside that, one part in so many of the whole device.
const SPARE_SHARE: usize = 64;

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
    let shared = Shared::open(number)?;
    match numbers {
        Numbers::Bf16 => CudaExecutor::<bf16>::load(&shared, source, (spec, llama, range), setup, progress).map(boxed),
        Numbers::F16 => CudaExecutor::<f16>::load(&shared, source, (spec, llama, range), setup, progress).map(boxed),
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
    fn warm_up(&mut self) -> Result<Ready, Fault> {
        self.0.warm_up()
    }

    fn start(&mut self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<(), Fault> {
        self.0.start(batch, inputs)
    }

    fn is_done(&mut self) -> bool {
        self.0.is_done()
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
    /// The next step takes the first that is in no one's hands.
    buffers: [StepBuffers; DEVICE_DEPTH],
    /// The steps under way, in their order.
    started: VecDeque<Started>,
    gpu: Rc<Gpu>,
}

/// A step that was given to the device.
struct Started {
    batch: BatchId,
    /// Which of the buffers are its own.
    buffers: usize,
    rows: usize,
    emitting: usize,
    /// Whether its logits come down, too.
    looked_at: bool,
}

impl<T: Compute> CudaExecutor<T> {
    fn load(
        shared: &Rc<Shared>,
        source: &dyn TensorSource,
        (spec, llama, range): (&ModelSpec, &LlamaSpec, LayerRange),
        setup: &Setup,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, Fault> {
        if range.is_empty() || range.end > llama.layers {
            return Err(Fault::invalid(format!("a model of {} layers has no layers {range:?}", llama.layers)));
        }
        let gpu = shared.gpu.clone();
        let weights = Weights::<T>::load(&gpu, source, llama, &range, progress)?;
        let weights_bytes = weights.bytes;
        let block_size = setup.kv.block_size;
        let positions = llama.max_positions.min(setup.longest).min(setup.kv.blocks * block_size);
        let most = Most { rows: setup.max_rows, emitting: setup.max_seqs.min(setup.max_rows), positions };
        // Until warm-up has shown what else needs memory, a cache that may be made to fit is one for warm-up alone.
        let blocks = if is_fitted(setup) { most.rows.min(positions).div_ceil(block_size) } else { setup.kv.blocks };
        let decoder = Decoder::new(shared, llama, weights, KvShape { blocks, block_size }, most)?;
        let down = if decoder.is_last() { most.emitting * (1 + llama.vocab) } else { most.rows * llama.hidden };
        let input = if range.start == 0 { StepInput::Ids } else { StepInput::Activations(llama.hidden) };
        let graphs = Graphs::new(positions.div_ceil(block_size), input, decoder.is_last());
        let [first, second] = decoder.waiting_words();
        let buffers = [StepBuffers::new(&gpu, first, down)?, StepBuffers::new(&gpu, second, down)?];
        let (free_bytes, all_bytes) = gpu.memory()?;
        tracing::info!(?range, weights_bytes, free_bytes, all_bytes, "the stage's weights are on the device");
        let (spec, setup, started) = (spec.clone(), setup.clone(), VecDeque::new());
        Ok(Self { graphs, decoder, spec, range, setup, buffers, started, gpu })
    }

    fn part(&self) -> StagePart<'_> {
        StagePart { spec: &self.spec, range: &self.range, kv: self.decoder.kv(), max_rows: self.setup.max_rows }
    }

    fn warm_up(&mut self) -> Result<Ready, Fault> {
        for rows in [1, self.part().most_rows()] {
            let (batch, input) = self.part().warm_up_batch(rows);
            self.run(&batch, &[input])?;
        }
        if is_fitted(&self.setup) {
            let Setup { kv, least_blocks, to_come, .. } = self.setup;
            let share = |free: usize, all: usize| free.saturating_sub(SPARE_BYTES + all / SPARE_SHARE) / (to_come + 1);
            self.decoder.refit_cache((least_blocks, kv.blocks), share)?;
        }
        // Padding all of it: such steps write no keys.
        let buckets = buckets(self.setup.max_seqs.min(self.setup.max_rows));
        for rows in &buckets {
            let shape = self.graphs.shape(*rows);
            let nobody = Microbatch { id: BatchId(0), members: Vec::new() };
            self.send(0, &nobody, &[], &shape)?;
            self.graphs.record(&self.gpu, &mut self.decoder, *rows)?;
        }
        Ok(Ready { kv_blocks: self.decoder.kv().blocks as u32, refused_recordings: self.graphs.refused() })
    }

    /// Queues the way of a step's words to their place.
    fn send(
        &mut self,
        buffers: usize,
        batch: &Microbatch,
        inputs: &[HostTensor],
        shape: &StepShape,
    ) -> Result<(), Fault> {
        let Some(words) = self.decoder.words().part(0..shape.words()) else {
            return Err(Fault::internal(format!("{shape:?} is more than this stage was made for")));
        };
        let limits = (self.decoder.kv(), self.longest());
        let buffers = &mut self.buffers[buffers];
        write(batch, shape, limits, inputs, buffers.up.as_mut_slice())?;
        buffers.send(words)
    }

    /// Positions that a sequence may have: as many as a recorded step has room for in its block tables.
    fn longest(&self) -> usize {
        self.graphs.table_blocks() * self.setup.kv.block_size
    }

    fn start(&mut self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<(), Fault> {
        self.part().check(batch, inputs)?;
        let is_free = |place: &usize| self.started.iter().all(|step| step.buffers != *place);
        let Some(buffers) = (0..self.buffers.len()).find(is_free) else {
            return Err(Fault::internal(format!("more than {DEVICE_DEPTH} steps at once")));
        };
        match self.queue(buffers, batch, inputs) {
            Ok(started) => {
                self.started.push_back(started);
                Ok(())
            }
            Err(fault) => {
                // What was queued before the failure may still read the buffers that the next batch will overwrite. Whatever
                // it says, the fault that came first is the one to tell.
                let _ = self.gpu.synchronize("ending a failed step");
                Err(fault)
            }
        }
    }

    /// Queues all of a step, in its `buffers`.
    fn queue(&mut self, buffers: usize, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Started, Fault> {
        let shape = shape_of(batch, self.setup.kv.block_size, self.graphs.input(), self.decoder.is_last());
        let bucket = if shape.tiles == 0 { self.graphs.bucket(shape.rows) } else { None };
        let left = match bucket {
            Some(rows) => {
                self.send(buffers, batch, inputs, &self.graphs.shape(rows))?;
                self.graphs.launch(&self.gpu, rows)?
            }
            None => {
                self.send(buffers, batch, inputs, &shape)?;
                self.decoder.step(&shape)?
            }
        };
        // What padding rows left is not fetched.
        let short = |len: usize| Fault::internal(format!("a step left less than {len} numbers"));
        // The digest of a row's logits, the largest of them, and penalties are the CPU's business.
        let looked_at = batch.members.iter().any(|member| member.emit && needs_logits(member));
        let down = &mut self.buffers[buffers].down;
        match left {
            Left::Activations(x) => {
                let len = shape.rows * self.spec.hidden();
                down.download(0, x.part(0..len).ok_or_else(|| short(len))?)?;
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
                down.download(0, tokens)?;
                if looked_at {
                    down.download(tokens.len(), logits)?;
                }
            }
        }
        self.buffers[buffers].end()?;
        Ok(Started { batch: batch.id, buffers, rows: shape.rows, emitting: shape.emitting, looked_at })
    }

    fn is_done(&self) -> bool {
        self.started.front().is_none_or(|step| self.buffers[step.buffers].is_done())
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[HostTensor]) -> Result<Output, Fault> {
        if self.started.is_empty() {
            self.start(batch, inputs)?;
        }
        let step = self.started.pop_front().filter(|step| step.batch == batch.id);
        let step = step.ok_or_else(|| Fault::internal(format!("batch {} is not the next one", batch.id.0)))?;
        self.buffers[step.buffers].wait()?;
        if self.decoder.is_last() {
            return Ok(Output::Emissions(self.emissions(batch, &step)));
        }
        let numbers = &self.buffers[step.buffers].down.as_slice()[..step.rows * self.spec.hidden()];
        Ok(Output::Activations(packed(numbers, step.rows)))
    }

    /// What came down, member by member.
    fn emissions(&mut self, batch: &Microbatch, step: &Started) -> Vec<Option<Emission>> {
        let vocab = self.spec.vocab();
        let (tokens, rest) = self.buffers[step.buffers].down.as_mut_slice().split_at_mut(step.emitting);
        let logits = if step.looked_at { step.emitting * vocab } else { 0 };
        let mut rows = rest[..logits].chunks_exact_mut(vocab);
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

impl<T: Compute> Drop for CudaExecutor<T> {
    fn drop(&mut self) {
        // Steps that nobody waits for any more still use the memory that goes now. What they say interests nobody.
        let _ = self.gpu.synchronize("ending a stage");
    }
}

/// Whether the KV cache is made as large as the device has room for.
fn is_fitted(setup: &Setup) -> bool {
    setup.least_blocks < setup.kv.blocks
}

fn penalised(member: &Member) -> bool {
    sampling(member).repetition_penalty != 1.0 && member.history.as_ref().is_some_and(|history| !history.is_empty())
}

fn needs_logits(member: &Member) -> bool {
    sampling(member).top_logits > 0 || penalised(member)
}
