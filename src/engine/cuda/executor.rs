//! The decode engine as an executor: a step's words go up while the step before it runs; then the layers, one download and
//! one wait.

use super::buffers::StepBuffers;
use super::decoder::{Decoder, Left, takes};
use super::device::Gpu;
use super::graphs::{Graphs, Room, buckets};
use super::kernels::sample::NO_NUMBER;
use super::shared::Shared;
use super::step::{StepInput, StepShape, history, penalises, shape_of, write};
use super::weights::Compute;
use super::weights::Weights;
use super::work::Most;
use half::{bf16, f16};
use stageline_base::{Border, Fault, Tensors};
use stageline_core::machine::DEVICE_DEPTH;
use stageline_core::{BatchId, Emission, Member, Microbatch, Output};
use stageline_engine::part::{StagePart, no_number, packed, penalised, sampling, token};
use stageline_engine::setup::{DeviceChoice, Setup};
use stageline_engine::{Executor, Numbers, Ready};
use stageline_model::{KvShape, LayerRange, LlamaSpec, ModelSpec, TensorSource};
use stageline_ops::observe;
use std::collections::VecDeque;
use std::rc::Rc;
use std::thread::ThreadId;

/// Device memory that a KV cache which takes what is free leaves: for recorded steps, a MB or so each, and for what the driver
/// takes when it first does something.
const SPARE_BYTES: usize = 256 << 20;
/// Beside that, one part in so many of the whole device.
const SPARE_SHARE: usize = 64;
/// Token ids that a step's penalties may take to the device, a MiB: what is beyond it is the CPU's business.
const MOST_HISTORY_IDS: usize = 1 << 18;

/// Loads layers `range` of `spec` from `source` into an engine that computes in `numbers`.
///
/// # Errors
/// As [`stageline_server::load_executor`].
pub fn load(
    source: &dyn TensorSource,
    (spec, range): (&ModelSpec, LayerRange),
    setup: &Setup,
    numbers: Numbers,
    progress: &mut dyn FnMut(u64),
) -> Result<Box<dyn Executor>, Fault> {
    let (DeviceChoice::Cuda(number), Some(llama)) = (setup.device, spec.engine_decoder()) else {
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
    Box::new(OnOneThread { executor, thread: std::thread::current().id() })
}

/// What belongs to the thread that made it. [`stageline_engine::Device`] makes executors on the thread that runs them, and
/// ends them there.
struct OnOneThread<T: Compute> {
    executor: CudaExecutor<T>,
    thread: ThreadId,
}

// SAFETY: the trait asks for `Send` so that loaders can give executors of any kind; this one never leaves its thread, as
// said above and looked at whenever it is used or dropped, so that its reference counts and streams are touched by one thread
// alone.
unsafe impl<T: Compute> Send for OnOneThread<T> {}

impl<T: Compute> OnOneThread<T> {
    fn is_here(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    fn here(&mut self) -> &mut CudaExecutor<T> {
        assert!(self.is_here(), "a CUDA executor is used on a thread that did not make it");
        &mut self.executor
    }
}

impl<T: Compute> Drop for OnOneThread<T> {
    fn drop(&mut self) {
        if !self.is_here() {
            tracing::error!("a CUDA executor ends on a thread that did not make it: this process ends");
            std::process::abort();
        }
    }
}

impl<T: Compute> Executor for OnOneThread<T> {
    fn warm_up(&mut self) -> Result<Ready, Fault> {
        self.here().warm_up()
    }

    fn start(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<(), Fault> {
        self.here().start(batch, inputs)
    }

    fn is_done(&mut self) -> bool {
        self.here().is_done()
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
        self.here().run(batch, inputs)
    }

    fn is_lost(&self) -> bool {
        self.is_here() && self.executor.gpu.is_lost()
    }
}

/// Runs one stage of a decoder.
struct CudaExecutor<T: Compute> {
    // Before the decoder, whose addresses they hold.
    graphs: Graphs,
    decoder: Decoder<T>,
    spec: ModelSpec,
    range: LayerRange,
    /// What crosses in front of them.
    takes: Border,
    hidden: usize,
    setup: Setup,
    /// Positions that a sequence may have.
    longest: usize,
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
    /// Whether the device has penalised what histories name.
    penalises: bool,
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
        let (gpu, block_size) = (shared.gpu.clone(), setup.kv.block_size);
        takes(llama, block_size)?;
        let positions = llama.max_positions.min(setup.max_model_len).min(setup.kv.blocks * block_size);
        let weights = Weights::<T>::load(&gpu, source, llama, (&range, positions), progress)?;
        let weights_bytes = weights.bytes;
        let emitting = setup.max_seqs.min(setup.max_rows);
        let history_ids = MOST_HISTORY_IDS.min(emitting * positions);
        // A sequence may have several members in a batch, each with a table.
        let most = Most { rows: setup.max_rows, members: setup.max_rows, emitting, history_ids, positions };
        // Until warm-up has shown what else needs memory, a cache that may be made to fit is one for warm-up alone.
        let blocks = if is_fitted(setup) { most.rows.min(positions).div_ceil(block_size) } else { setup.kv.blocks };
        let decoder = Decoder::new(shared, llama, weights, KvShape { blocks, block_size }, most)?;
        let down = if decoder.is_last() { most.emitting * (1 + llama.vocab) } else { most.rows * llama.hidden };
        let input = if range.start == 0 { StepInput::Ids } else { StepInput::Activations(llama.hidden) };
        let room = Room { table_blocks: positions.div_ceil(block_size), history_ids };
        let graphs = Graphs::new(room, input, decoder.is_last());
        let [first, second] = decoder.waiting_words();
        let buffers = [StepBuffers::new(&gpu, first, down)?, StepBuffers::new(&gpu, second, down)?];
        let (free_bytes, all_bytes) = gpu.memory()?;
        tracing::info!(?range, weights_bytes, free_bytes, all_bytes, "the stage's weights are on the device");
        let (spec, setup, started) = (spec.clone(), setup.clone(), VecDeque::new());
        let (takes, hidden) = (spec.border(range.start), llama.hidden);
        Ok(Self { graphs, decoder, spec, range, takes, hidden, setup, longest: positions, buffers, started, gpu })
    }

    fn part(&self) -> StagePart<'_> {
        StagePart {
            spec: &self.spec,
            range: &self.range,
            takes: &self.takes,
            kv: self.decoder.kv(),
            max_rows: self.setup.max_rows,
        }
    }

    fn warm_up(&mut self) -> Result<Ready, Fault> {
        for rows in [1, self.part().most_rows().min(self.longest)] {
            let (batch, input) = self.part().warm_up_batch(rows)?;
            self.run(&batch, &[input])?;
        }
        if is_fitted(&self.setup) {
            let Setup { kv, least_blocks, to_come, share, .. } = self.setup;
            let gpu = self.gpu.clone();
            let room = |free: usize, all: usize| {
                let ours = (all as f64 * f64::from(share)) as usize;
                free.min(ours.saturating_sub(gpu.taken.get())).saturating_sub(SPARE_BYTES + all / SPARE_SHARE)
                    / (to_come + 1)
            };
            self.decoder.refit_cache((least_blocks, kv.blocks), room)?;
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
    fn send(&mut self, buffers: usize, batch: &Microbatch, inputs: &[Tensors], shape: &StepShape) -> Result<(), Fault> {
        let (words, limits) = (self.decoder.words(), (self.decoder.kv(), self.longest));
        if shape.words() > words.len() {
            return Err(Fault::internal(format!("{shape:?} is more than this stage was made for")));
        }
        let buffers = &mut self.buffers[buffers];
        let written = write(batch, shape, limits, inputs, buffers.up.as_mut_slice())?;
        let short = || Fault::internal(format!("{written} words of {shape:?} are more than there is room for"));
        buffers.send(words.part(0..written).ok_or_else(short)?)
    }

    fn start(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<(), Fault> {
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
    fn queue(&mut self, buffers: usize, batch: &Microbatch, inputs: &[Tensors]) -> Result<Started, Fault> {
        let kind = (self.graphs.input(), self.decoder.is_last());
        let shape = shape_of(batch, self.setup.kv.block_size, kind, self.graphs.history_ids());
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
        let penalises = penalises(batch, shape.history_ids);
        let down = &mut self.buffers[buffers].down;
        match left {
            Left::Activations(x) => {
                let len = shape.rows * self.hidden;
                down.download(0, x.part(0..len).ok_or_else(|| short(len))?)?;
            }
            Left::Tokens(tokens, logits) => {
                let tokens = tokens.part(0..shape.emitting).ok_or_else(|| short(shape.emitting))?;
                // The same words; a token's bits pass through as they are.
                // SAFETY: one 32-bit word each.
                let tokens = unsafe { super::kernels::launch::DeviceSlice::<f32>::new(tokens.address(), tokens.len()) };
                down.download(0, tokens)?;
                let (vocab, mut at) = (self.spec.vocab(), tokens.len());
                let emitting = batch.members.iter().filter(|member| member.emit).enumerate();
                for (row, _) in emitting.filter(|(_, member)| needs_logits(member, penalises)) {
                    let logits = logits.part(row * vocab..(row + 1) * vocab).ok_or_else(|| short(vocab))?;
                    down.download(at, logits)?;
                    at += vocab;
                }
            }
        }
        self.buffers[buffers].end()?;
        Ok(Started { batch: batch.id, buffers, rows: shape.rows, emitting: shape.emitting, penalises })
    }

    fn is_done(&self) -> bool {
        self.started.front().is_none_or(|step| self.buffers[step.buffers].is_done())
    }

    fn run(&mut self, batch: &Microbatch, inputs: &[Tensors]) -> Result<Output, Fault> {
        if self.started.is_empty() {
            self.start(batch, inputs)?;
        }
        let step = self.started.pop_front().filter(|step| step.batch == batch.id);
        let step = step.ok_or_else(|| Fault::internal(format!("batch {} is not the next one", batch.id.0)))?;
        self.buffers[step.buffers].wait()?;
        if self.decoder.is_last() {
            return Ok(Output::Emissions(self.emissions(batch, &step)?));
        }
        let numbers = &self.buffers[step.buffers].down.as_slice()[..step.rows * self.hidden];
        Ok(Output::Rows(vec![packed(numbers, batch.members.len())]))
    }

    /// What came down, member by member.
    fn emissions(&mut self, batch: &Microbatch, step: &Started) -> Result<Vec<Option<Emission>>, Fault> {
        let (tokens, rows) = self.buffers[step.buffers].down.as_mut_slice().split_at_mut(step.emitting);
        let mut rows = rows.chunks_exact_mut(self.spec.vocab());
        let mut tokens = tokens.iter();
        let mut one = |member: &Member| {
            if !member.emit {
                return Ok(None);
            }
            let short = || Fault::internal("a step left fewer rows than it had");
            let id = tokens.next().ok_or_else(short)?.to_bits();
            if id & NO_NUMBER != 0 {
                return Err(no_number(member));
            }
            if !needs_logits(member, step.penalises) {
                return Ok(Some(Emission::Token { id, observed: None }));
            }
            let logits = rows.next().ok_or_else(short)?;
            if penalised(member).is_some() {
                return token(member, logits).map(Some);
            }
            Ok(Some(Emission::Token { id, observed: observe(logits, sampling(member).top_logits) }))
        };
        batch.members.iter().map(&mut one).collect()
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

/// Whether the CPU has something to do with an emitting member's logits: to tell the largest of them and their digest, or to
/// sample where the device has not penalised.
fn needs_logits(member: &Member, penalises: bool) -> bool {
    sampling(member).top_logits > 0 || penalised(member).is_some() && !(penalises && history(member).is_some())
}
