//! A range of a Llama-type decoder's layers.

use super::spec::{LlamaSpec, RopeScaling};
use super::tensors::{EMBEDDING, HEAD, NORM};
use crate::families::LayerRange;
use crate::kv_cache::{KvCache, KvShape};
use crate::load::Loader;
use crate::stage_model::{Given, Made, StageModel};
use crate::step::Step;
use candle_core::{Device, Result as CandleResult, Tensor};
use stageline_base::Fault;
use stageline_core::Member;
use stageline_ops::{AttentionShape, Linear, Ops, RopeFrequencies, Rotation, share_map};

/// Embedding if the range begins the model, layers, head if it ends the model; and the layers' keys and values.
#[derive(Debug)]
pub(super) struct LlamaStage {
    spec: LlamaSpec,
    ops: Ops,
    embedding: Option<Tensor>,
    layers: Vec<Layer>,
    head: Option<Head>,
    frequencies: RopeFrequencies,
    cache: KvCache,
}

#[derive(Debug)]
struct Layer {
    /// How many positions a row sees, its own the last; `None`: all.
    window: Option<usize>,
    attention_norm: Tensor,
    /// Queries, keys, values.
    qkv: Linear,
    /// Of each head of queries, and of keys, `[head_dim]`.
    head_norms: Option<[Tensor; 2]>,
    out: Linear,
    mlp_norm: Tensor,
    /// Gate, up.
    gate_up: Linear,
    down: Linear,
}

#[derive(Debug)]
struct Head {
    norm: Tensor,
    logits: Linear,
}

impl LlamaSpec {
    /// Numbers of a position's keys in a layer, and of its values.
    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// How fast the pairs of a head turn, scaled as the configuration says.
    pub fn frequencies(&self) -> RopeFrequencies {
        let plain = RopeFrequencies::new(self.head_dim, self.rope_theta);
        match self.rope_scaling {
            None => plain,
            Some(RopeScaling::Linear { factor }) => plain.linear(factor),
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions }) => {
                plain.llama3(factor, low_freq_factor, high_freq_factor, original_max_positions)
            }
        }
    }
}

impl LlamaStage {
    pub(super) fn load(
        loader: Loader<'_>,
        spec: &LlamaSpec,
        range: LayerRange,
        kv: KvShape,
        ops: Ops,
    ) -> Result<Self, Fault> {
        let cache = KvCache::new(kv, range.len(), spec.kv_width(), loader.device)?;
        let (first, last) = (range.start == 0, range.end == spec.layers);
        let table = |name| loader.matrix(name, spec.vocab, spec.hidden);
        let tied = if first || last && spec.tied { Some(table(EMBEDDING)?) } else { None };
        let head = if last {
            let weight = if spec.tied { tied.clone() } else { Some(table(HEAD)?) };
            let norm = loader.vector(NORM, spec.hidden)?;
            weight.map(|weight| Head { norm, logits: Linear { weight, bias: None } })
        } else {
            None
        };
        let layers = share_map(range.len(), |i| Layer::load(loader, spec, range.start + i));
        Ok(Self {
            spec: spec.clone(),
            ops,
            embedding: tied.filter(|_| first),
            layers: layers.into_iter().collect::<Result<_, _>>()?,
            head,
            frequencies: spec.frequencies(),
            cache,
        })
    }

    /// The activations `[rows, hidden]` behind the layers. Writes the rows' keys and values into the cache.
    fn forward(&self, input: &Tensor, step: &Step) -> CandleResult<Tensor> {
        let mut x = match &self.embedding {
            Some(table) => self.ops.embed(table, &input.flatten_all()?)?,
            None => input.clone(),
        };
        let rotation = self.frequencies.rotation(&step.positions, x.device())?;
        for (layer, (keys, values)) in self.layers.iter().zip(&self.cache.layers) {
            x = self.layer(layer, &x, step, &rotation, (keys, values))?;
        }
        Ok(x)
    }

    fn layer(
        &self,
        layer: &Layer,
        x: &Tensor,
        step: &Step,
        rotation: &Rotation,
        (keys, values): (&Tensor, &Tensor),
    ) -> CandleResult<Tensor> {
        let (ops, spec) = (&self.ops, &self.spec);
        let LlamaSpec { heads, kv_heads, head_dim, .. } = *spec;
        let shape = AttentionShape { heads, kv_heads, head_dim, window: layer.window };
        let (q, kv) = (heads * head_dim, spec.kv_width());

        let qkv = ops.linear(&ops.rms_norm(x, &layer.attention_norm, spec.norm_eps)?, &layer.qkv)?;
        let (mut queries, mut new_keys) = (qkv.narrow(1, 0, q)?, qkv.narrow(1, q, kv)?);
        if let Some([q_norm, k_norm]) = &layer.head_norms {
            queries = self.norm_heads(&queries, q_norm)?;
            new_keys = self.norm_heads(&new_keys, k_norm)?;
        }
        let queries = ops.rope(&queries, rotation)?;
        if let Some(slots) = &step.slots {
            ops.store(keys, &ops.rope(&new_keys, rotation)?, slots)?;
            ops.store(values, &qkv.narrow(1, q + kv, kv)?, slots)?;
        }
        let mixed = ops.attention(&queries, keys, values, shape, &step.spans)?;
        let x = ops.add(x, &ops.linear(&mixed, &layer.out)?)?;

        let gate_up = ops.linear(&ops.rms_norm(&x, &layer.mlp_norm, spec.norm_eps)?, &layer.gate_up)?;
        ops.add(&x, &ops.linear(&ops.silu_mul(&gate_up)?, &layer.down)?)
    }

    /// Every head of `x`, `[rows, heads * head_dim]`, normed by itself.
    fn norm_heads(&self, x: &Tensor, weight: &Tensor) -> CandleResult<Tensor> {
        let heads = x.reshape(((), self.spec.head_dim))?;
        self.ops.rms_norm(&heads, weight, self.spec.norm_eps)?.reshape(x.shape())
    }

    /// The logits `[emitting, vocab]` of the last row of every emitting member; `None` if nothing emits.
    fn logits(&self, head: &Head, x: &Tensor, step: &Step) -> CandleResult<Option<Tensor>> {
        if step.emitting.is_empty() {
            return Ok(None);
        }
        let rows: Vec<u32> = step.emitting.iter().map(|rows| rows.end as u32 - 1).collect();
        let count = rows.len();
        let x = self.ops.embed(x, &Tensor::from_vec(rows, count, x.device())?)?;
        self.ops.linear(&self.ops.rms_norm(&x, &head.norm, self.spec.norm_eps)?, &head.logits).map(Some)
    }
}

impl StageModel for LlamaStage {
    fn kv(&self) -> Option<KvShape> {
        Some(self.cache.shape)
    }

    fn kv_block_bytes(&self) -> Option<usize> {
        Some(self.cache.block_bytes())
    }

    fn resize_kv(&mut self, blocks: usize) -> Result<(), Fault> {
        self.cache.resize(blocks)
    }

    fn step(&self, members: &[Member], device: &Device) -> Result<Step, Fault> {
        Step::decode(members, self.cache.shape, self.spec.max_positions, device)
    }

    fn run(&self, given: &Given, step: &Step) -> CandleResult<Made> {
        let x = self.forward(given.rows()?, step)?;
        match &self.head {
            Some(head) => self.logits(head, &x, step).map(Made::Logits),
            None => Ok(Made::Rows(vec![x])),
        }
    }
}

impl Layer {
    fn load(loader: Loader<'_>, spec: &LlamaSpec, number: usize) -> Result<Self, Fault> {
        let needs = spec.layer_needs(number);
        let head_norm = |name: &String| loader.vector(name, spec.head_dim);
        Ok(Self {
            window: spec.window(number),
            attention_norm: loader.vector(&needs.attention_norm, spec.hidden)?,
            qkv: loader.linear(&needs.qkv)?,
            head_norms: match &needs.head_norms {
                Some([q, k]) => Some([head_norm(q)?, head_norm(k)?]),
                None => None,
            },
            out: loader.linear(&needs.out)?,
            mlp_norm: loader.vector(&needs.mlp_norm, spec.hidden)?,
            gate_up: loader.linear(&needs.gate_up)?,
            down: loader.linear(&needs.down)?,
        })
    }
}
