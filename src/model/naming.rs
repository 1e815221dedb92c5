//! Which tensor of a folder is which of the model's: the same weights go by several names.

use crate::spec::ModelSpec;
use crate::tensors::{TensorNames, TensorNeed};
use stageline_shard::{ModelFolder, TensorEntry};
use std::collections::{BTreeMap, BTreeSet};

/// Most problems named in one message.
const MAX_NAMED: usize = 8;

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
        let layout = Layout::of(spec.names(), folder)?;
        let mut naming = Self { sources: BTreeMap::new(), left_out: Vec::new(), doubles: Vec::new() };
        let (mut problems, mut taken, mut seen) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for need in needs.iter().filter(|need| seen.insert(need.name.as_str())) {
            let names = std::iter::once(need.name.clone()).chain(spec.other_name(&need.name));
            let names = names.map(|name| layout.in_folder(&name));
            // What wraps a model may wrap its body alone.
            let bare = layout.names.head.filter(|head| need.name == *head && layout.in_folder(head) != *head);
            let mut there = names.chain(bare.map(str::to_owned)).filter(|name| folder.entry(name).is_some());
            let Some(source) = there.next() else {
                problems.push(layout.missing(&need.name, folder));
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
            if layout.leaves_out(name) || plays_no_part(name) {
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
    names: TensorNames,
    /// What stands in front of every name.
    prefix: String,
    /// Whether the names lack their body's.
    bodyless: bool,
}

impl Layout {
    fn of(names: TensorNames, folder: &ModelFolder) -> Result<Self, String> {
        let before = |name: &str| {
            let rest = name.strip_suffix(names.anchor)?;
            (rest.is_empty() || rest.ends_with('.')).then(|| rest.to_owned())
        };
        let mut found = folder.tensors().filter_map(|(name, _)| before(name));
        // Where there is none, what is missing will be named as it should be called.
        let Some(first) = found.next() else { return Ok(Self { names, prefix: String::new(), bodyless: false }) };
        if let Some(second) = found.next() {
            return Err(format!("it holds two models: tensors begin with {first:?} and with {second:?}"));
        }
        let prefix = first.strip_suffix(names.body).filter(|rest| rest.is_empty() || rest.ends_with('.'));
        Ok(match prefix {
            Some(prefix) => Self { names, prefix: prefix.into(), bodyless: false },
            None => Self { names, prefix: first, bodyless: true },
        })
    }

    /// What the folder calls the model's tensor `name`.
    fn in_folder(&self, name: &str) -> String {
        let name = if self.bodyless { name.strip_prefix(self.names.body).unwrap_or(name) } else { name };
        format!("{}{name}", self.prefix)
    }

    /// Whether the folder's tensor `name`, which the model does not need, is known to play no part in what is computed: heads of
    /// other tasks, and tables that are computed here.
    fn leaves_out(&self, name: &str) -> bool {
        let name = name.strip_prefix(&self.prefix).unwrap_or(name);
        let tables = ["embeddings.position_ids", "embeddings.token_type_ids"];
        self.names.other_heads.iter().any(|head| name.starts_with(head)) || tables.contains(&name)
    }

    /// That the model's tensor `name` is not there.
    fn missing(&self, name: &str, folder: &ModelFolder) -> String {
        let source = self.in_folder(name);
        let hint = match folder.promised(&source) {
            Some(file) => format!(": the index names it in {file}, which does not hold it: fetch both again"),
            None if self.names.head == Some(name) => {
                " (if the model ties it to its embedding, config.json must say tie_word_embeddings = true)".into()
            }
            None => String::new(),
        };
        format!("tensor {source} is missing{hint}")
    }
}

/// Whether a tensor called `name` plays no part in any model: tables and masks that are computed here, and what training
/// left behind.
fn plays_no_part(name: &str) -> bool {
    let tables = ["inv_freq", "cos_cached", "sin_cached", "masked_bias", "position_ids"];
    let training = ["adam_m", "adam_v", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "global_step"];
    let begun = ["optimizer.", "optimizer_state.", "lr_scheduler.", "scheduler."];
    let last = name.rsplit(['.', '/']).next().unwrap_or_default();
    tables.contains(&last) || training.contains(&last) || begun.iter().any(|begin| name.starts_with(begin))
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
