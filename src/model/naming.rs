//! Which tensor of a folder is which of the model's: the same weights go by several names.

use crate::families::llama::HEAD;
use crate::spec::ModelSpec;
use crate::tensors::{TensorNeed, plays_no_part};
use stageline_shard::{ModelFolder, TensorEntry};
use std::collections::{BTreeMap, BTreeSet};

/// Most problems named in one message.
const MAX_NAMED: usize = 8;
/// A tensor that every decoder has, by which its folder's names are known.
const LLAMA_ANCHOR: &str = "layers.0.input_layernorm.weight";
/// What stands in front of most names of a decoder, but not of its head's.
const LLAMA_BODY: &str = "model.";
/// A tensor that every encoder has.
const BERT_ANCHOR: &str = "embeddings.word_embeddings.weight";

/// What a folder calls the tensors that a model needs, and what else it holds.
#[derive(Debug)]
pub(super) struct Naming {
    /// Names in the folder, by the model's own.
    pub sources: BTreeMap<String, String>,
    /// Tensors of the folder that the model does not need.
    pub left_out: Vec<String>,
    /// Tensors of the folder, left out too, that must be the same as those behind them: other names of one matrix.
    pub doubles: Vec<(String, String)>,
}

impl Naming {
    /// Finds the tensors that `spec` needs in `folder`.
    ///
    /// # Errors
    /// One line that names what is missing, of another shape or type, or not known.
    pub fn of(spec: &ModelSpec, needs: &[TensorNeed], folder: &ModelFolder) -> Result<Self, String> {
        if let Some(stranger) = folder.tensors().find_map(|(name, _)| strange(name)) {
            return Err(stranger);
        }
        let layout = Layout::of(spec, folder)?;
        let mut naming = Self { sources: BTreeMap::new(), left_out: Vec::new(), doubles: Vec::new() };
        let (mut problems, mut taken, mut seen) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for need in needs.iter().filter(|need| seen.insert(need.name.as_str())) {
            let names = std::iter::once(need.name.clone()).chain(spec.other_name(&need.name));
            let names = names.map(|name| layout.in_folder(&name));
            // What wraps a model may wrap its body alone.
            let bare = Some(HEAD.to_owned()).filter(|head| need.name == *head && layout.in_folder(head) != *head);
            let mut there = names.chain(bare).filter(|name| folder.entry(name).is_some());
            let Some(source) = there.next() else {
                problems.push(missing(&layout.in_folder(&need.name), folder));
                continue;
            };
            problems.extend(folder.entry(&source).and_then(|entry| misfit(&source, entry, need)));
            for double in there {
                taken.insert(double.clone());
                naming.left_out.push(double.clone());
                naming.doubles.push((double, source.clone()));
            }
            taken.insert(source.clone());
            naming.sources.insert(need.name.clone(), source);
        }
        for (name, _) in folder.tensors().filter(|(name, _)| !taken.contains(*name)) {
            if spec.leaves_out(layout.bare(name)) || plays_no_part(name) {
                naming.left_out.push(name.to_owned());
            } else {
                problems.push(format!("tensor {name} is not known, and so not ignored"));
            }
        }
        naming.left_out.sort();
        if problems.is_empty() { Ok(naming) } else { Err(named(&problems)) }
    }
}

/// How a folder's names differ from the model's.
struct Layout {
    /// What stands in front of every name.
    prefix: String,
    /// Whether a decoder's names lack their `model.`.
    bodyless: bool,
}

impl Layout {
    fn of(spec: &ModelSpec, folder: &ModelFolder) -> Result<Self, String> {
        let anchor = if matches!(spec, ModelSpec::Llama(_)) { LLAMA_ANCHOR } else { BERT_ANCHOR };
        let before = |name: &str| {
            let rest = name.strip_suffix(anchor)?;
            (rest.is_empty() || rest.ends_with('.')).then(|| rest.to_owned())
        };
        let mut found = folder.tensors().filter_map(|(name, _)| before(name));
        // Where there is none, what is missing will be named as it should be called.
        let Some(first) = found.next() else { return Ok(Self { prefix: String::new(), bodyless: false }) };
        if let Some(second) = found.next() {
            return Err(format!("it holds two models: tensors begin with {first:?} and with {second:?}"));
        }
        let body = first.strip_suffix(LLAMA_BODY).filter(|rest| rest.is_empty() || rest.ends_with('.'));
        Ok(match (spec, body) {
            (ModelSpec::Llama(_), Some(prefix)) => Self { prefix: prefix.into(), bodyless: false },
            (ModelSpec::Llama(_), None) => Self { prefix: first, bodyless: true },
            (ModelSpec::Bert(_), _) => Self { prefix: first, bodyless: false },
        })
    }

    /// What the folder calls the model's tensor `name`.
    fn in_folder(&self, name: &str) -> String {
        let name = if self.bodyless { name.strip_prefix(LLAMA_BODY).unwrap_or(name) } else { name };
        format!("{}{name}", self.prefix)
    }

    /// A name of the folder without what stands in front of every one.
    fn bare<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }
}

fn missing(source: &str, folder: &ModelFolder) -> String {
    let hint = match folder.promised(source) {
        Some(file) => format!(": the index names it in {file}, which does not hold it: fetch both again"),
        None if source.ends_with(HEAD) => {
            " (if the model ties it to its embedding, config.json must say tie_word_embeddings = true)".into()
        }
        None => String::new(),
    };
    format!("tensor {source} is missing{hint}")
}

/// What is wrong with a tensor that is there.
fn misfit(source: &str, TensorEntry { shape, .. }: &TensorEntry, need: &TensorNeed) -> Option<String> {
    if shape.shape != need.shape {
        return Some(format!("tensor {source} is {shape}, config.json asks for {:?}", need.shape));
    }
    let is_float = super::load::is_weight(shape.dtype);
    let accepted = "weights can be F32, F16 or BF16, or F64, which is rounded to F32";
    (!is_float).then(|| format!("tensor {source} is {:?}; {accepted}", shape.dtype))
}

/// What a tensor's name says of a folder that holds no plain weights.
fn strange(name: &str) -> Option<String> {
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_quantized = ["qweight", "qzeros", "g_idx", "SCB", "absmax", "quant_map", "weight_packed", "weight_scale"];
    if is_quantized.contains(&last) || last == "weight_scale_inv" || name.contains(".quant_state.") {
        return Some(format!("its weights are quantized (tensor {name}): take the model's own, in F32, F16 or BF16"));
    }
    let is_adapter = name.split('.').any(|part| part.starts_with("lora_") || part == "base_layer");
    is_adapter.then(|| {
        format!("it holds an adapter (tensor {name}): merge that into its base model (in peft: merge_and_unload)")
    })
}

fn named(problems: &[String]) -> String {
    let first = problems[..problems.len().min(MAX_NAMED)].join("; ");
    match problems.len().saturating_sub(MAX_NAMED) {
        0 => first,
        more => format!("{first}; and {more} more"),
    }
}
