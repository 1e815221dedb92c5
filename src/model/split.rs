//! Cutting a model folder into a pipeline folder.

use crate::checkpoint::Checkpoint;
use stageline_base::Fault;
use stageline_base::limits::{MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES};
use stageline_plan::manifest::is_pipeline_name;
use stageline_plan::{Cut, CutOrder, FileEntry, Goal, Manifest, StageEntry, Unit, UnitCost, cut, even_by_units};
use stageline_shard::names::shard_name;
use stageline_shard::verify::{TensorDigest, check_file, tensor_digests};
use stageline_shard::write::{NewFile, Piece, WrittenShard, write_shard};
use stageline_shard::{Files, without_mark};
use std::collections::BTreeMap;
use std::path::Path;

mod name;
mod out_folder;

pub use name::{MadeName, pipeline_name};
use out_folder::OutFolder;

/// Files that go with the weights: the tokenizer, and what generation must know. config.json is in the manifest.
const COMPANIONS: [(&str, u64); 6] = [
    ("tokenizer.json", MAX_TOKENIZER_BYTES),
    ("tokenizer_config.json", MAX_CONFIG_BYTES),
    ("special_tokens_map.json", MAX_CONFIG_BYTES),
    ("generation_config.json", MAX_CONFIG_BYTES),
    ("chat_template.jinja", MAX_CONFIG_BYTES),
    ("chat_template.json", MAX_CONFIG_BYTES),
];
/// The one without which no text comes in or out.
const TOKENIZER: &str = COMPANIONS[0].0;

/// How a model is to be cut.
#[derive(Clone, Debug, Default)]
pub struct PlanOrder {
    /// Number of stages.
    pub stages: usize,
    /// What is evened out.
    pub goal: Goal,
    /// Most bytes of weights and KV cache of a stage: none, one number for every stage, or one a stage.
    pub stage_memory: Vec<u64>,
    /// Sequences that the KV cache must hold at once.
    pub max_num_seqs: usize,
    /// Longest of them, in tokens; the model's longest if unset.
    pub max_model_len: Option<usize>,
    /// What each unit was measured to cost; an estimate if unset.
    pub measured: Option<Vec<UnitCost>>,
}

/// A decided cut, nothing written yet.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was evened out.
    pub goal: Goal,
    /// The model's units, with the costs that counted.
    pub units: Vec<Unit>,
    /// Tokens that each stage's KV cache holds.
    pub kv_tokens: u64,
    /// The cut.
    pub cut: Cut,
    /// The cut that only counts units, for comparison.
    pub even: Cut,
    /// What would be better, a line each.
    pub advice: Vec<String>,
}

/// Decides how `checkpoint` is cut; writes nothing.
///
/// # Errors
/// `InvalidRequest` if it cannot be cut so; `Internal` if there are not as many measurements as units.
pub fn plan_only(checkpoint: &Checkpoint, order: &PlanOrder) -> Result<Plan, Fault> {
    let longest = checkpoint.spec.max_positions();
    let len = order.max_model_len.unwrap_or(longest);
    if len == 0 || len > longest || order.max_num_seqs == 0 {
        return Err(Fault::invalid(format!(
            "max_model_len is {len} and max_num_seqs {}: the model takes 1 to {longest} tokens, of 1 sequence or more",
            order.max_num_seqs
        )));
    }
    let mut units = checkpoint.units();
    if let Some(costs) = &order.measured {
        if costs.len() != units.len() {
            return Err(Fault::internal(format!("{} units were measured of {}", costs.len(), units.len())));
        }
        units.iter_mut().zip(costs).for_each(|(unit, cost)| unit.cost = *cost);
    }
    let kv_tokens = (order.max_num_seqs as u64).saturating_mul(len as u64);
    let cut_order = CutOrder {
        units: &units,
        stages: order.stages,
        goal: order.goal,
        stage_memory: &order.stage_memory,
        kv_tokens,
    };
    let cut = cut(&cut_order)?;
    let advice = stageline_plan::advice(&cut_order, &cut);
    let even = even_by_units(&cut_order);
    Ok(Plan { goal: order.goal, kv_tokens, cut, even, advice, units })
}

/// Writes the pipeline folder `out`, called `name`: a shard a stage, the tokenizer and its companions, and the manifest
/// last. Everything is built in a folder beside `out`, read again and proved (see below), and only then takes its name;
/// until then, and after a failure, nothing there looks whole. `progress` is told (bytes done, bytes in all).
///
/// The proof: every shard has the bytes that were written; every tensor of the source is in just one shard or is named
/// as tied or left out; and each has its source's type, shape and SHA-256.
///
/// # Errors
/// `InvalidRequest`, one line, if `out` is in use for something else, or anything cannot be read, written or proved.
pub fn write_pipeline(
    checkpoint: &Checkpoint,
    plan: &Plan,
    name: &str,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, Fault> {
    if !is_pipeline_name(name) {
        return Err(Fault::invalid(format!(
            "{name:?} cannot name a pipeline: it takes a-z, 0-9 and -, at most 63 characters, no - at either end"
        )));
    }
    let folder = OutFolder::create(out)?;
    let manifest = build(checkpoint, plan, (name, folder.building()), progress)?;
    folder.publish()?;
    Ok(manifest)
}

/// Fills the folder `dir` with the pipeline `name`.
fn build(
    checkpoint: &Checkpoint,
    plan: &Plan,
    (name, dir): (&str, &Path),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, Fault> {
    // First the small files: what they lack is then said at once.
    let files = copy_companions(&checkpoint.dir, dir)?;
    let total: u64 = plan.cut.stages.iter().map(|stage| stage.weight_bytes).sum();
    let mut done = 0;
    let mut shards = Vec::new();
    for (k, stage) in plan.cut.stages.iter().enumerate() {
        let needs = checkpoint.spec.stage_tensors(&stage.units).into_iter();
        let pieces: Vec<Piece> =
            needs.map(|need| Piece { source: checkpoint.source_name(&need.name).into(), name: need.name }).collect();
        let name = shard_name(k, plan.cut.stages.len());
        shards.push(write_shard(checkpoint.folder(), &pieces, dir, &name, &mut |bytes| {
            done += bytes;
            progress(done, total);
        })?);
    }
    prove(checkpoint, dir, &shards)?;
    for entry in &files {
        check_file(&dir.join(&entry.file), entry)?;
    }
    let manifest = Manifest {
        version: Manifest::VERSION,
        name: name.into(),
        config: checkpoint.config.clone(),
        dtype: checkpoint.dtype_name().into(),
        balance: plan.goal.balance.to_string(),
        mix: Some(plan.goal.mix.to_string()),
        units: plan.units.iter().map(|unit| unit.name.clone()).collect(),
        stages: stage_entries(plan, &shards),
        // With one stage both ends are in one shard, which holds the tensor once.
        tied: if shards.len() > 1 { checkpoint.tied.clone() } else { vec![] },
        files,
    };
    // Parsed back, so that what is returned is what every reader of the file will have, to the last bit.
    let bytes = manifest.to_file();
    let manifest = Manifest::parse(&bytes)?;
    let mut file = NewFile::create(dir, Manifest::FILE)?;
    file.write(&bytes)?;
    file.finish()?;
    Ok(manifest)
}

fn stage_entries(plan: &Plan, shards: &[WrittenShard]) -> Vec<StageEntry> {
    let entry = |(stage, shard): (&stageline_plan::CutStage, &WrittenShard)| StageEntry {
        units: [stage.units.start, stage.units.end],
        border: plan.units[stage.units.start].border.lines(),
        shard: shard.entry.clone(),
        parameters: stage.parameters,
        // Six digits are enough, and short decimals are the same number to every reader.
        cost: (stage.cost * 1e6).round() / 1e6,
    };
    plan.cut.stages.iter().zip(shards).map(entry).collect()
}

/// Copies what `from` has of them. What could not be read later is refused now.
fn copy_companions(from: &Path, to: &Path) -> Result<Vec<FileEntry>, Fault> {
    let files = Files::of_model(from)?;
    files.expect(TOKENIZER)?;
    let mut entries = Vec::new();
    for (name, limit) in COMPANIONS {
        let Some(bytes) = files.bytes(name, limit)? else { continue };
        let broken = if name.ends_with(".json") {
            serde_json::from_slice::<serde::de::IgnoredAny>(without_mark(&bytes))
                .err()
                .map(|error| format!("is not JSON: {error}"))
        } else {
            std::str::from_utf8(&bytes).err().map(|error| format!("is not UTF-8 text: {error}"))
        };
        if let Some(broken) = broken {
            return Err(files.wrong(name, &format!("{broken}; fetch it again, or mend it")));
        }
        let mut file = NewFile::create(to, name)?;
        file.write(&bytes)?;
        entries.push(file.finish()?);
    }
    Ok(entries)
}

/// Reads the written shards again and proves that together they are the source.
fn prove(checkpoint: &Checkpoint, dir: &Path, shards: &[WrittenShard]) -> Result<(), Fault> {
    let mut found: BTreeMap<String, (usize, TensorDigest)> = BTreeMap::new();
    for shard in shards {
        let mut digests = tensor_digests(&dir.join(&shard.entry.file), &shard.entry)?;
        let broken = |name: &str, what: &str| {
            Fault::internal(format!("{}: tensor {name} {what}: the split is wrong, do not use it", shard.entry.file))
        };
        for (name, sha256) in &shard.tensors {
            let digest = digests.remove(name).ok_or_else(|| broken(name, "was written and is not there"))?;
            if digest.sha256 != *sha256 {
                return Err(broken(name, "is not what was read from the source"));
            }
            let (times, first) = found.entry(name.clone()).or_insert_with(|| (0, digest.clone()));
            *times += 1;
            if *times > 1 && !checkpoint.tied.contains(name) {
                return Err(broken(name, "is in two shards and not tied"));
            }
            if *first != digest {
                return Err(broken(name, "differs between two shards"));
            }
        }
        if let Some(name) = digests.keys().next() {
            return Err(broken(name, "is there and was not written"));
        }
    }
    for (source, entry) in checkpoint.folder().tensors() {
        match checkpoint.model_name(source).and_then(|name| found.remove(name)) {
            Some((_, digest)) if digest.shape == entry.shape => {}
            None if checkpoint.left_out.iter().any(|left_out| left_out == source) => {}
            _ => return Err(Fault::internal(format!("tensor {source} of the model is in no shard as it was"))),
        }
    }
    match found.keys().next() {
        Some(name) => Err(Fault::internal(format!("tensor {name} is in a shard and not in the model"))),
        None => Ok(()),
    }
}
