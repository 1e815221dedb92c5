//! The layers of a decoder as launches on one stream. Nothing here allocates, waits or reads results.

use super::device::Gpu;
use super::gemm::{Element, Product};
use super::kernels::decode_attention::Blocks;
use super::kernels::gemv::SumOf;
use super::kernels::launch::{DeviceSlice, LaunchFault, Traffic};
use super::kernels::prefill_attention::{Plan, Tile};
use super::kernels::{
    AddRmsNorm, DecodeAttention, Embed, Gemv, Paged, PagedShape, PrefillAttention, RopeKv, Sample, SiluMul,
    add_rms_norm, gemv, prefill_attention, sample,
};
use super::recording::record;
use super::shared::Shared;
use super::step::{StepInput, StepShape, StepSlices};
use super::weights::{Compute, LayerWeights, LinearWeights, Weights};
use super::work::{Most, PagedCache, Work};
use stageline_base::Fault;
use stageline_core::machine::DEVICE_DEPTH;
use stageline_model::{KvShape, LlamaSpec};
use std::rc::Rc;

/// A stage of a decoder on its device.
pub struct Decoder<T> {
    spec: LlamaSpec,
    kv: KvShape,
    weights: Weights<T>,
    /// Gone only while it makes room for another.
    cache: Option<PagedCache<T>>,
    work: Work<T>,
    tally: Option<Tally>,
    // Behind all that lies in its memory.
    shared: Rc<Shared>,
    gpu: Rc<Gpu>,
}

/// Adds up what launches must move, when somebody asks.
struct Tally {
    /// Of each decode row.
    lengths: Vec<usize>,
    tiles: Vec<Tile>,
    traffic: Traffic,
}

/// What a step leaves behind, on the device.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    /// Before the last stage: `[rows, hidden]`.
    Activations(DeviceSlice<f32>),
    /// At the last stage: the tokens `[emitting]`, and the logits that they were drawn from, `[emitting, vocab]`.
    Tokens(DeviceSlice<u32>, DeviceSlice<f32>),
}

/// Whether the kernels take a model's sizes and a cache of blocks of `block_size`: to be asked before anything is loaded.
///
/// # Errors
/// `InvalidRequest` if they do not, saying what they take.
pub fn takes(spec: &LlamaSpec, block_size: usize) -> Result<(), Fault> {
    let (head_dim, hidden) = (spec.head_dim, spec.hidden);
    let refuse = |what: String| Err(Fault::invalid(format!("executor cuda takes {what}")));
    if !block_size.is_power_of_two() {
        return refuse(format!("powers of two as --block-size, not {block_size}"));
    }
    if !prefill_attention::WIDTHS.contains(&head_dim) {
        return refuse(format!(
            "heads of {:?} numbers, not of {head_dim} (--dtype f32 does)",
            prefill_attention::WIDTHS
        ));
    }
    if hidden > add_rms_norm::MOST_HIDDEN {
        return refuse(format!(
            "rows of up to {} numbers, not of {hidden} (--dtype f32 does)",
            add_rms_norm::MOST_HIDDEN
        ));
    }
    Ok(())
}

impl<T: Compute> Decoder<T> {
    /// Makes room for the KV cache and for a step's results, which is all the memory that this stage will ever take.
    ///
    /// # Errors
    /// `DeviceFailed` if the device has not the memory.
    pub fn new(
        shared: &Rc<Shared>,
        spec: &LlamaSpec,
        weights: Weights<T>,
        kv: KvShape,
        most: Most,
    ) -> Result<Self, Fault> {
        let (shared, gpu) = (shared.clone(), &shared.gpu);
        let work = Work::new(gpu, spec, &weights, kv, most)?;
        let cache = Some(PagedCache::new(gpu, spec, weights.layers.len(), kv)?);
        let gpu = gpu.clone();
        Ok(Self { spec: spec.clone(), kv, weights, cache, work, tally: None, shared, gpu })
    }

    /// The KV cache.
    pub fn kv(&self) -> KvShape {
        self.kv
    }

    /// Gives the KV cache up for one of as many blocks, up to `most`, as fit into what `room` makes of the bytes that are
    /// free without it. Nothing may be under way, and what was recorded is void.
    ///
    /// # Errors
    /// `DeviceFailed` if the driver refuses, or there is not room for `least`.
    pub fn refit_cache(
        &mut self,
        (least, most): (usize, usize),
        room: impl FnOnce(usize, usize) -> usize,
    ) -> Result<(), Fault> {
        self.cache = None;
        let (free_bytes, all_bytes) = self.gpu.memory()?;
        let (layers, block_size) = (self.weights.layers.len(), self.kv.block_size);
        let room_bytes = room(free_bytes, all_bytes);
        let fitting = PagedCache::<T>::blocks_in(room_bytes, &self.spec, layers, block_size);
        if fitting < least {
            return Err(Fault::device(format!(
                "beside the stage's weights the device has room for {fitting} KV blocks of {block_size} tokens \
                 ({room_bytes} bytes; {free_bytes} of {all_bytes} are free), but a sequence of the longest needs {least}: \
                 raise --device-share if it is below 1, lower --max-model-len, or cut the model into more stages"
            )));
        }
        self.kv.blocks = fitting.min(most);
        tracing::info!(
            blocks = self.kv.blocks,
            most,
            room_bytes,
            free_bytes,
            all_bytes,
            "the KV cache takes what it may"
        );
        self.cache = Some(PagedCache::new(&self.gpu, &self.spec, layers, self.kv)?);
        Ok(())
    }

    /// Where a step's words must be when it runs.
    pub fn words(&self) -> DeviceSlice<u32> {
        self.work.words
    }

    /// Where they wait until then.
    pub fn waiting_words(&self) -> [DeviceSlice<u32>; DEVICE_DEPTH] {
        self.work.waiting_words
    }

    /// Whether the stage ends the model.
    pub fn is_last(&self) -> bool {
        self.weights.head.is_some()
    }

    /// Queues the step of `shape`, whose words lie in [`Self::words`].
    ///
    /// # Errors
    /// `Internal` if the shape is beyond what there is room for; `DeviceFailed` if the driver refuses.
    pub fn step(&mut self, shape: &StepShape) -> Result<Left, Fault> {
        let step = shape.slices(self.work.words)?;
        let (rows, hidden) = (shape.rows, self.spec.hidden);
        let x = match shape.input {
            StepInput::Activations(_) => step.activations,
            StepInput::Ids => {
                let x = self.part(self.work.x, rows * hidden)?;
                let table =
                    self.weights.embedding.ok_or_else(|| Fault::internal("token ids at a stage without embedding"))?;
                let embed = Embed { table, ids: step.ids, x, hidden };
                self.launched(|_| embed.traffic(), embed.launch(&self.shared.kernels, &self.gpu.stream))?;
                x
            }
        };
        let mut delta = None;
        for number in 0..self.weights.layers.len() {
            delta = Some(self.layer(number, x, delta, shape, &step)?);
        }
        if self.weights.head.is_some() {
            return self.head(x, delta, shape, &step);
        }
        // What the last product gave is still to be added; the norm that comes with it is nobody's.
        let (out, Some(layer)) = (self.part(self.work.normed, rows * hidden)?, self.weights.layers.last()) else {
            return Err(Fault::internal("a stage without layers"));
        };
        let eps = self.spec.norm_eps;
        let add = AddRmsNorm { x, delta, weight: layer.mlp_norm, out, take: None, hidden, eps };
        self.launched(|_| add.traffic(), add.launch(&self.shared.kernels, &self.gpu.stream))?;
        Ok(Left::Activations(x))
    }

    /// What all launches of the step of `shape` must move, by their own formulas, for decode rows of sequences that are
    /// `lengths` long and for `tiles`. The step is recorded and thrown away: nothing runs.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn traffic(&mut self, shape: &StepShape, lengths: Vec<usize>, tiles: Vec<Tile>) -> Result<Traffic, Fault> {
        // Nothing must have run before: cuBLASLt plans a product without a stream.
        self.tally = Some(Tally { lengths, tiles, traffic: Traffic::default() });
        let recorded = record(&self.gpu.clone(), || self.step(shape));
        let tally = self.tally.take();
        recorded?;
        tally.map(|tally| tally.traffic).ok_or_else(|| Fault::internal("a tally went missing"))
    }

    /// Bytes that every step must read once, whatever it does: the weights, without a table of which rows are looked up.
    pub fn weights_bytes(&self) -> usize {
        let looked_up = match (self.weights.embedding, self.weights.head) {
            (Some(table), Some((_, head))) if table.address() != head.address() => table.len() * size_of::<T>(),
            (Some(table), None) => table.len() * size_of::<T>(),
            _ => 0,
        };
        self.weights.bytes - looked_up
    }

    /// One layer; gives what is to be added to `x` after it. `delta` is what is to be added before it.
    fn layer(
        &mut self,
        number: usize,
        x: DeviceSlice<f32>,
        delta: Option<DeviceSlice<T>>,
        shape: &StepShape,
        step: &StepSlices,
    ) -> Result<DeviceSlice<T>, Fault> {
        let LayerWeights {
            attention_norm,
            qkv: qkv_weights,
            head_norms,
            out,
            mlp_norm,
            gate_up: gate_up_weights,
            down,
        } = self.weights.layers[number];
        let LlamaSpec { hidden, heads, kv_heads, head_dim, intermediate, norm_eps: eps, .. } = self.spec;
        let rows = shape.rows;
        let normed = self.part(self.work.normed, rows * hidden)?;
        let next = self.part(self.work.delta, rows * hidden)?;
        let qkv = self.part(self.work.qkv, rows * (heads + 2 * kv_heads) * head_dim)?;
        let mixed = self.part(self.work.mixed, rows * heads * head_dim)?;
        let gate_up = self.part(self.work.gate_up, rows * 2 * intermediate)?;
        let gated = self.part(self.work.gated, rows * intermediate)?;
        let (k_cache, v_cache) = self.cache_of(number)?;

        let norm = AddRmsNorm { x, delta, weight: attention_norm, out: normed, take: None, hidden, eps };
        self.launched(|_| norm.traffic(), norm.launch(&self.shared.kernels, &self.gpu.stream))?;
        // The bias is added where each number is read next.
        self.product(LinearWeights { bias: None, ..qkv_weights }, normed, qkv, (rows, hidden))?;
        let rope = RopeKv {
            qkv,
            bias: qkv_weights.bias,
            q_norm: head_norms.map(|[q, _]| q),
            k_norm: head_norms.map(|[_, k]| k),
            rotations: self.weights.rotations,
            positions: step.positions,
            slots: step.slots,
            k_cache,
            v_cache,
            heads,
            kv_heads,
            head_dim,
            block_size: self.kv.block_size,
            eps,
        };
        self.launched(|_| rope.traffic(), rope.launch(&self.shared.kernels, &self.gpu.stream))?;
        self.attention(number, (qkv, mixed), shape, step)?;
        self.product(out, mixed, next, (rows, heads * head_dim))?;

        let norm = AddRmsNorm { delta: Some(next), weight: mlp_norm, ..norm };
        self.launched(|_| norm.traffic(), norm.launch(&self.shared.kernels, &self.gpu.stream))?;
        self.product(LinearWeights { bias: None, ..gate_up_weights }, normed, gate_up, (rows, hidden))?;
        let silu = SiluMul { gate_up, bias: gate_up_weights.bias, out: gated, width: intermediate };
        self.launched(|_| silu.traffic(), silu.launch(&self.shared.kernels, &self.gpu.stream))?;
        self.product(down, gated, next, (rows, intermediate))?;
        Ok(next)
    }

    /// Keys and values of a layer.
    fn cache_of(&self, layer: usize) -> Result<(DeviceSlice<T>, DeviceSlice<T>), Fault> {
        let found = self.cache.as_ref().and_then(|cache| cache.layers.get(layer));
        found.copied().ok_or_else(|| Fault::internal(format!("layer {layer} has no KV cache")))
    }

    /// Decode rows in front, tiles of prompts behind them.
    fn attention(
        &mut self,
        number: usize,
        (qkv, mixed): (DeviceSlice<T>, DeviceSlice<T>),
        shape: &StepShape,
        step: &StepSlices,
    ) -> Result<(), Fault> {
        let LlamaSpec { heads, kv_heads, head_dim, .. } = self.spec;
        let (k_cache, v_cache) = self.cache_of(number)?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let window = self.spec.window(self.weights.range.start + number).unwrap_or(0);
        let paged_shape = PagedShape { heads, kv_heads, head_dim, block_size: self.kv.block_size, window, scale };
        let table_stride = shape.members;
        let all = Paged { qkv, k_cache, v_cache, tables: step.tables, table_stride, out: mixed, shape: paged_shape };
        if shape.decode_rows > 0 {
            let rows = shape.decode_rows;
            let paged = Paged {
                qkv: self.part(qkv, rows * (heads + 2 * kv_heads) * head_dim)?,
                out: self.part(mixed, rows * heads * head_dim)?,
                ..all
            };
            let positions = shape.table_blocks * self.kv.block_size;
            let blocks = Blocks::new(&paged_shape, rows, positions, self.gpu.multiprocessors as usize);
            let partial = self.part(self.work.partial, blocks.partial_len())?;
            let turns = self.part(self.work.turns, blocks.count)?;
            let decode = DecodeAttention { paged, lengths: step.lengths, blocks, partial, turns };
            self.launched(
                |tally| decode.traffic(&tally.lengths),
                decode.launch(&self.shared.kernels, &self.gpu.stream),
            )?;
        }
        if shape.tiles > 0 {
            let plan = Plan::of(&paged_shape, shape.tiles, self.gpu.chip());
            let prefill = PrefillAttention { paged: all, tiles: step.tiles, plan };
            self.launched(
                |tally| prefill.traffic(&tally.tiles),
                prefill.launch(&self.shared.kernels, &self.gpu.stream),
            )?;
        }
        Ok(())
    }

    fn head(
        &mut self,
        x: DeviceSlice<f32>,
        delta: Option<DeviceSlice<T>>,
        shape: &StepShape,
        step: &StepSlices,
    ) -> Result<Left, Fault> {
        let (hidden, vocab, eps) = (self.spec.hidden, self.spec.vocab, self.spec.norm_eps);
        let Some((weight, matrix)) = self.weights.head else { return Err(Fault::internal("a head was asked for")) };
        let emitting = shape.emitting;
        let logits = self.part(self.work.logits, emitting * vocab)?;
        let tokens = self.part(self.work.tokens, emitting)?;
        if emitting > 0 {
            let out = self.part(self.work.normed, emitting * hidden)?;
            let norm = AddRmsNorm { x, delta, weight, out, take: Some(step.take), hidden, eps };
            self.launched(|_| norm.traffic(), norm.launch(&self.shared.kernels, &self.gpu.stream))?;
            self.product(LinearWeights { weight: matrix, bias: None }, out, logits, (emitting, hidden))?;
            let work = self.part(self.work.sampling, emitting * sample::work_len(vocab))?;
            let blocks = sample::blocks(emitting, vocab, self.gpu.multiprocessors as usize);
            let (rows, history) = (step.sampling, step.history);
            let sample = Sample { logits, rows, history, tokens, work, vocab, blocks };
            self.launched(
                |_| sample.traffic(shape.history_ids),
                sample.launch(&self.shared.kernels, &self.gpu.stream),
            )?;
        }
        Ok(Left::Tokens(tokens, logits))
    }

    /// `out = input weight^T + bias`, by whichever reads least.
    fn product<O: SumOf<T> + Element>(
        &mut self,
        LinearWeights { weight, bias }: LinearWeights<T>,
        input: DeviceSlice<T>,
        out: DeviceSlice<O>,
        (rows, depth): (usize, usize),
    ) -> Result<(), Fault> {
        let columns = weight.len() / depth;
        if rows <= gemv::MOST_ROWS && depth % 8 == 0 {
            let gemv = Gemv { weight, input, bias, out, n: columns, k: depth };
            return self.launched(|_| gemv.traffic(), gemv.launch(&self.shared.kernels, &self.gpu.stream));
        }
        let product = Product { weight, bias, input, out, rows, columns, depth };
        self.count(|_| product.traffic());
        self.shared.gemm.borrow_mut().run(&product)
    }

    fn part<U>(&self, slice: DeviceSlice<U>, len: usize) -> Result<DeviceSlice<U>, Fault> {
        let fault = || Fault::internal(format!("a step needs {len} numbers where there is room for {}", slice.len()));
        slice.part(0..len).ok_or_else(fault)
    }

    /// After a launch; `traffic` is what it must move.
    fn launched(
        &mut self,
        traffic: impl FnOnce(&Tally) -> Traffic,
        launched: Result<(), LaunchFault>,
    ) -> Result<(), Fault> {
        self.count(traffic);
        launched.map_err(|fault| self.gpu.launch_fault(fault))
    }

    /// Adds to the tally, if there is one.
    fn count(&mut self, traffic: impl FnOnce(&Tally) -> Traffic) {
        if let Some(tally) = &mut self.tally {
            tally.traffic += traffic(tally);
        }
    }
}
