//! A range of a BERT-type encoder's layers.

use super::BertSpec;
use crate::families::LayerRange;
use crate::load::Loader;
use crate::stage_model::{Given, Made, StageModel};
use crate::step::Step;
use crate::tensors::LinearNeed;
use candle_core::{DType, Device, Result as CandleResult, Tensor};
use stageline_base::Fault;
use stageline_core::Member;
use stageline_ops::{AttentionShape, LayerNorm, Linear, Ops, share_map};

/// Embedding if the range begins the model, layers, pooling if it ends the model.
#[derive(Debug)]
pub(super) struct BertStage {
    spec: BertSpec,
    ops: Ops,
    embedding: Option<Embedding>,
    layers: Vec<Layer>,
    last: bool,
}

#[derive(Debug)]
struct Embedding {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: LayerNorm,
}

#[derive(Debug)]
struct Layer {
    /// Queries, keys, values.
    qkv: Linear,
    out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    mlp_norm: LayerNorm,
}

impl BertStage {
    pub(super) fn load(loader: Loader<'_>, spec: &BertSpec, range: LayerRange, ops: Ops) -> Result<Self, Fault> {
        let table =
            |name: &str, rows| loader.matrix(&format!("embeddings.{name}_embeddings.weight"), rows, spec.hidden);
        let embedding = if range.start == 0 {
            Some(Embedding {
                words: table("word", spec.vocab)?,
                positions: table("position", spec.max_positions)?,
                types: table("token_type", spec.type_vocab)?,
                norm: norm(loader, "embeddings.LayerNorm", spec)?,
            })
        } else {
            None
        };
        let layers = share_map(range.len(), |i| Layer::load(loader, spec, range.start + i));
        Ok(Self {
            spec: spec.clone(),
            ops,
            embedding,
            layers: layers.into_iter().collect::<Result<_, _>>()?,
            last: range.end == spec.layers,
        })
    }

    /// The activations `[rows, hidden]` behind the layers.
    fn forward(&self, input: &Tensor, step: &Step) -> CandleResult<Tensor> {
        let mut x = match &self.embedding {
            Some(embedding) => self.embed(embedding, &input.flatten_all()?, step)?,
            None => input.clone(),
        };
        for layer in &self.layers {
            x = self.layer(layer, &x, step)?;
        }
        Ok(x)
    }

    fn embed(&self, embedding: &Embedding, ids: &Tensor, step: &Step) -> CandleResult<Tensor> {
        let ops = &self.ops;
        let rows = step.positions.len();
        let positions = Tensor::from_slice(&step.positions, rows, ids.device())?;
        let types = ops.embed(&embedding.types, &Tensor::zeros(rows, DType::U32, ids.device())?)?;
        let x = ops.add(&ops.embed(&embedding.words, ids)?, &types)?;
        let x = ops.add(&x, &ops.embed(&embedding.positions, &positions)?)?;
        ops.layer_norm(&x, &embedding.norm)
    }

    fn layer(&self, layer: &Layer, x: &Tensor, step: &Step) -> CandleResult<Tensor> {
        let (ops, hidden, heads) = (&self.ops, self.spec.hidden, self.spec.heads);
        let shape = AttentionShape { heads, kv_heads: heads, head_dim: hidden / heads, window: None };
        let qkv = ops.linear(x, &layer.qkv)?;
        let part = |i| qkv.narrow(1, i * hidden, hidden);
        let mixed = ops.attention(&part(0)?, &part(1)?, &part(2)?, shape, &step.spans)?;
        let x = ops.layer_norm(&ops.add(&ops.linear(&mixed, &layer.out)?, x)?, &layer.attention_norm)?;
        let mlp = ops.linear(&ops.gelu(&ops.linear(&x, &layer.up)?)?, &layer.down)?;
        ops.layer_norm(&ops.add(&mlp, &x)?, &layer.mlp_norm)
    }

    /// The vectors `[members, hidden]`, each the mean of a member's rows, of length 1 if the model's are; `None` if the batch
    /// is empty.
    fn vectors(&self, x: &Tensor, step: &Step) -> CandleResult<Option<Tensor>> {
        if step.emitting.is_empty() {
            return Ok(None);
        }
        self.ops.mean(x, &step.emitting, self.spec.length_one).map(Some)
    }
}

impl StageModel for BertStage {
    fn step(&self, members: &[Member], device: &Device) -> Result<Step, Fault> {
        Step::encode(members, self.spec.max_positions, device)
    }

    fn run(&self, given: &Given, step: &Step) -> CandleResult<Made> {
        let x = self.forward(given.rows()?, step)?;
        if self.last { self.vectors(&x, step).map(Made::Vectors) } else { Ok(Made::Rows(vec![x])) }
    }
}

impl Layer {
    fn load(loader: Loader<'_>, spec: &BertSpec, number: usize) -> Result<Self, Fault> {
        let named = |name: &str| format!("encoder.layer.{number}.{name}");
        let hidden = spec.hidden;
        let qkv = ["attention.self.query", "attention.self.key", "attention.self.value"];
        let linear = |parts: &[&str], columns, depth| {
            let parts = parts.iter().map(|name| (named(name), columns)).collect();
            loader.linear(&LinearNeed { parts, depth, bias: true })
        };
        Ok(Self {
            qkv: linear(&qkv, hidden, hidden)?,
            out: linear(&["attention.output.dense"], hidden, hidden)?,
            attention_norm: norm(loader, &named("attention.output.LayerNorm"), spec)?,
            up: linear(&["intermediate.dense"], spec.intermediate, hidden)?,
            down: linear(&["output.dense"], hidden, spec.intermediate)?,
            mlp_norm: norm(loader, &named("output.LayerNorm"), spec)?,
        })
    }
}

fn norm(loader: Loader<'_>, name: &str, spec: &BertSpec) -> Result<LayerNorm, Fault> {
    Ok(LayerNorm {
        weight: loader.vector(&format!("{name}.weight"), spec.hidden)?,
        bias: loader.vector(&format!("{name}.bias"), spec.hidden)?,
        eps: spec.norm_eps,
    })
}
