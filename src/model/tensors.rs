//! Which tensors a model needs, by name, shape and place.
//!
//! Names are those of the Hugging Face checkpoints; BERT's without the `bert.` that some have in front.

use crate::spec::{BertSpec, LayerRange, LlamaSpec, ModelSpec};
use std::collections::BTreeSet;

/// The Llama-type decoder's embedding, which is also its head's matrix where the model ties them.
pub const LLAMA_EMBEDDING: &str = "model.embed_tokens.weight";
/// The Llama-type decoder's norm behind the last layer.
pub const LLAMA_NORM: &str = "model.norm.weight";
/// The Llama-type decoder's head where it is not tied.
pub const LLAMA_HEAD: &str = "lm_head.weight";

/// The part of a model that a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// In front of the first layer.
    Embedding,
    /// A layer.
    Layer(usize),
    /// Behind the last layer.
    Head,
}

/// A tensor that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorNeed {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first: a projection is `[out, in]`.
    pub shape: Vec<usize>,
    /// Where it is used.
    pub part: Part,
    /// Whether a row reads one row of it rather than all of it: an embedding table.
    pub looked_up: bool,
}

impl ModelSpec {
    /// Every tensor the model needs, in the order of use. A tied embedding comes twice: as [`Part::Embedding`] and, under
    /// the same name, as [`Part::Head`].
    pub fn tensors(&self) -> Vec<TensorNeed> {
        match self {
            Self::Llama(spec) => llama(spec),
            Self::Bert(spec) => bert(spec),
        }
    }

    /// The tensors that a stage of `layers` needs, each once.
    pub fn stage_tensors(&self, layers: &LayerRange) -> Vec<TensorNeed> {
        let (mut needs, mut seen) = (self.tensors(), BTreeSet::new());
        needs.retain(|need| {
            let here = match need.part {
                Part::Embedding => layers.start == 0,
                Part::Layer(layer) => layers.contains(&layer),
                Part::Head => layers.end == self.layers(),
            };
            here && seen.insert(need.name.clone())
        });
        needs
    }

    /// KV cache of one layer for one token, in bytes: keys and values in f32. An encoder has none.
    pub fn kv_bytes_per_token(&self) -> u64 {
        match self {
            Self::Llama(spec) => 2 * 4 * (spec.kv_heads * spec.head_dim) as u64,
            Self::Bert(_) => 0,
        }
    }

    /// The other name that a checkpoint may have for the tensor `name`: a tied matrix may go by either end's, and the norms
    /// of encoders that were converted from TensorFlow have names of their own.
    pub fn other_name(&self, name: &str) -> Option<String> {
        match self {
            Self::Llama(spec) => (spec.tied && name == LLAMA_EMBEDDING).then(|| LLAMA_HEAD.into()),
            Self::Bert(_) => {
                let (norm, end) = name.rsplit_once('.').filter(|(norm, _)| norm.ends_with("LayerNorm"))?;
                Some(format!("{norm}.{}", if end == "weight" { "gamma" } else { "beta" }))
            }
        }
    }

    /// Whether a checkpoint's tensor that the model does not need, called `name` but for what stands in front of every name,
    /// is known to play no part in what is computed: heads of other tasks, and tables that are computed here.
    pub fn leaves_out(&self, name: &str) -> bool {
        let heads: &[&str] = match self {
            Self::Llama(_) => &["score.", "v_head.", "value_head.", "classifier.", "qa_outputs."],
            Self::Bert(_) => &["pooler.", "cls.", "classifier.", "qa_outputs.", "lm_head."],
        };
        let tables = ["embeddings.position_ids", "embeddings.token_type_ids"];
        heads.iter().any(|head| name.starts_with(head)) || tables.contains(&name)
    }
}

/// Whether a tensor called `name` plays no part in any model: tables and masks that are computed here, and what training
/// left behind.
pub fn plays_no_part(name: &str) -> bool {
    let tables = ["inv_freq", "cos_cached", "sin_cached", "masked_bias", "position_ids"];
    let training = ["adam_m", "adam_v", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "global_step"];
    let begun = ["optimizer.", "optimizer_state.", "lr_scheduler.", "scheduler."];
    let last = name.rsplit(['.', '/']).next().unwrap_or_default();
    tables.contains(&last) || training.contains(&last) || begun.iter().any(|begin| name.starts_with(begin))
}

/// Collects needs of one part.
struct Needs {
    list: Vec<TensorNeed>,
    part: Part,
}

impl Needs {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.list.push(TensorNeed { name: name.into(), shape: shape.into(), part: self.part, looked_up: false });
    }

    fn add_table(&mut self, name: &str, shape: &[usize]) {
        self.list.push(TensorNeed { name: name.into(), shape: shape.into(), part: self.part, looked_up: true });
    }

    /// A projection's weight `[out, in]`, and its bias if it has one.
    fn add_linear(&mut self, name: &str, shape: [usize; 2], bias: bool) {
        self.add(format!("{name}.weight"), &shape);
        if bias {
            self.add(format!("{name}.bias"), &shape[..1]);
        }
    }

    fn add_linears(&mut self, linear: &LinearNeed) {
        for (name, columns) in &linear.parts {
            self.add_linear(name, [*columns, linear.depth], linear.bias);
        }
    }

    fn add_layer_norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), &[width]);
        self.add(format!("{name}.bias"), &[width]);
    }
}

/// Linear maps of the same input, which are calculated as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearNeed {
    /// Their names, without `.weight` and `.bias`, and how many columns each has.
    pub parts: Vec<(String, usize)>,
    /// Numbers of a row of input.
    pub depth: usize,
    /// Whether each has a bias.
    pub bias: bool,
}

/// The tensors of a layer of a Llama-type decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlamaLayerNeeds {
    /// Name of the norm in front of the attention, `[hidden]`.
    pub attention_norm: String,
    /// Queries, keys, values.
    pub qkv: LinearNeed,
    /// Names of the norms of each head of queries, and of keys, `[head_dim]`.
    pub head_norms: Option<[String; 2]>,
    /// Of what the heads gave.
    pub out: LinearNeed,
    /// Name of the norm in front of the MLP, `[hidden]`.
    pub mlp_norm: String,
    /// Gate, up.
    pub gate_up: LinearNeed,
    /// Of what was gated.
    pub down: LinearNeed,
}

impl LlamaSpec {
    /// The tensors of layer `number`.
    pub fn layer_needs(&self, number: usize) -> LlamaLayerNeeds {
        let named = |name: &str| format!("model.layers.{number}.{name}");
        let linear = |parts: &[(&str, usize)], depth: usize, bias: bool| {
            let parts = parts.iter().map(|(name, columns)| (named(name), *columns)).collect();
            LinearNeed { parts, depth, bias }
        };
        let (hidden, mlp) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let qkv = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        let head_norms = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];
        LlamaLayerNeeds {
            attention_norm: named("input_layernorm.weight"),
            qkv: linear(&qkv, hidden, self.qkv_bias),
            head_norms: self.head_norms.then(|| head_norms.map(named)),
            out: linear(&[("self_attn.o_proj", hidden)], q, self.out_bias),
            mlp_norm: named("post_attention_layernorm.weight"),
            gate_up: linear(&[("mlp.gate_proj", mlp), ("mlp.up_proj", mlp)], hidden, self.mlp_bias),
            down: linear(&[("mlp.down_proj", hidden)], mlp, self.mlp_bias),
        }
    }
}

fn llama(spec: &LlamaSpec) -> Vec<TensorNeed> {
    let hidden = spec.hidden;
    let mut needs = Needs { list: Vec::new(), part: Part::Embedding };
    needs.add_table(LLAMA_EMBEDDING, &[spec.vocab, hidden]);
    for layer in 0..spec.layers {
        needs.part = Part::Layer(layer);
        let layer = spec.layer_needs(layer);
        needs.add(layer.attention_norm, &[hidden]);
        needs.add_linears(&layer.qkv);
        for norm in layer.head_norms.into_iter().flatten() {
            needs.add(norm, &[spec.head_dim]);
        }
        needs.add_linears(&layer.out);
        needs.add(layer.mlp_norm, &[hidden]);
        needs.add_linears(&layer.gate_up);
        needs.add_linears(&layer.down);
    }
    needs.part = Part::Head;
    needs.add(LLAMA_NORM, &[hidden]);
    needs.add(if spec.tied { LLAMA_EMBEDDING } else { LLAMA_HEAD }, &[spec.vocab, hidden]);
    needs.list
}

fn bert(spec: &BertSpec) -> Vec<TensorNeed> {
    let (hidden, mlp) = (spec.hidden, spec.intermediate);
    let mut needs = Needs { list: Vec::new(), part: Part::Embedding };
    needs.add_table("embeddings.word_embeddings.weight", &[spec.vocab, hidden]);
    needs.add_table("embeddings.position_embeddings.weight", &[spec.max_positions, hidden]);
    needs.add_table("embeddings.token_type_embeddings.weight", &[spec.type_vocab, hidden]);
    needs.add_layer_norm("embeddings.LayerNorm", hidden);
    for layer in 0..spec.layers {
        needs.part = Part::Layer(layer);
        let name = |rest: &str| format!("encoder.layer.{layer}.{rest}");
        for projection in ["query", "key", "value"] {
            needs.add_linear(&name(&format!("attention.self.{projection}")), [hidden, hidden], true);
        }
        needs.add_linear(&name("attention.output.dense"), [hidden, hidden], true);
        needs.add_layer_norm(&name("attention.output.LayerNorm"), hidden);
        needs.add_linear(&name("intermediate.dense"), [mlp, hidden], true);
        needs.add_linear(&name("output.dense"), [hidden, mlp], true);
        needs.add_layer_norm(&name("output.LayerNorm"), hidden);
    }
    needs.list
}
