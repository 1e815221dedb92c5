//! `split`: cuts a model folder into a pipeline folder and says what came of it.

use crate::cli::measure::{Measured, measure};
use crate::cli::table::{Table, bytes, count, percent};
use crate::config::DeviceConfig;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use stageline_base::hex;
use stageline_model::Checkpoint;
use stageline_model::split::{Plan, PlanOrder, pipeline_name, plan_only, write_pipeline};
use stageline_plan::{Cut, CutStage, Goal, Manifest, Mix, RowCost, Unit};
use stageline_shard::PipelineFolder;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What `split` is asked, checked.
#[derive(Clone, Debug)]
pub struct SplitOrder {
    /// The Hugging Face folder.
    pub model_dir: PathBuf,
    /// The pipeline folder to write.
    pub out: PathBuf,
    /// The pipeline's name; made of the model folder's if unset.
    pub name: Option<String>,
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
    /// The device on which units are measured; if unset, their costs are estimated.
    pub measure: Option<DeviceConfig>,
    /// One JSON object in place of the table.
    pub json: bool,
}

/// Cuts the model and writes the folder; the table, or the JSON object, goes to `out`. Progress is shown on standard
/// error where that is a terminal.
///
/// # Errors
/// One line that says what is wrong; then nothing that looks whole is left behind.
pub fn split(order: &SplitOrder, out: &mut dyn Write) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&order.model_dir).map_err(as_error)?;
    let measured = order.measure.as_ref().map(|device| measure(&checkpoint, order.goal.mix, device)).transpose()?;
    let (measured, how) = match measured {
        Some(Measured { costs, how }) => (Some(costs), how),
        None => (None, "estimated, for a few CPU cores (--measure measures them)".into()),
    };
    let plan_order = PlanOrder {
        stages: order.stages,
        goal: order.goal,
        stage_memory: order.stage_memory.clone(),
        max_num_seqs: order.max_num_seqs,
        max_model_len: order.max_model_len,
        measured,
    };
    let mut plan = plan_only(&checkpoint, &plan_order).map_err(as_error)?;
    let name = match &order.name {
        Some(name) => name.clone(),
        None => {
            let made = pipeline_name(&order.model_dir).map_err(as_error)?;
            if !made.telling {
                plan.advice.push(format!(
                    "call it something with --name: {:?} is made of folders that say nothing of the model, and on one \
                     broker pipelines of one name answer for each other",
                    made.name
                ));
            }
            made.name
        }
    };
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("writing shards {bar:30} {decimal_bytes}/{decimal_total_bytes} {eta}")?;
    bar.set_style(style);
    let before = PipelineFolder::open(&order.out).ok().map(|folder| folder.manifest().digest8());
    let manifest = write_pipeline(&checkpoint, &plan, &name, &order.out, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let manifest = manifest.map_err(as_error)?;
    if let Some(before) = before.filter(|before| *before != manifest.digest8()) {
        plan.advice.push(format!(
            "{} held another pipeline (digest {before}), which is gone: stages that serve that one cannot be started again from \
             here, and do not work together with those of this one",
            order.out.display()
        ));
    }
    let report = Report { checkpoint: &checkpoint, plan: &plan, manifest: &manifest, how: &how, out: &order.out };
    if order.json {
        writeln!(out, "{}", report.json())?
    } else {
        report.text(out)?
    }
    Ok(())
}

/// A fault's words alone: its class speaks to clients of a server.
pub(crate) fn as_error(fault: stageline_base::Fault) -> anyhow::Error {
    anyhow::Error::msg(fault.message)
}

/// What a split did.
struct Report<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    manifest: &'a Manifest,
    /// How the units' costs were found.
    how: &'a str,
    out: &'a Path,
}

impl Report<'_> {
    fn text(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Self { checkpoint, plan, manifest, how, .. } = self;
        let stages = plan.cut.stages.len();
        writeln!(
            out,
            "{}: {} units in {}, cut into {stages} by {} for {}; KV cache for {} tokens a stage\n",
            manifest.name,
            manifest.units.len(),
            manifest.dtype,
            plan.goal.balance,
            plan.goal.mix,
            plan.kv_tokens
        )?;
        let mut table = Table::new([
            "stage",
            "units",
            "parameters",
            "weights",
            "KV cache",
            "cost",
            "| even by units:",
            "parameters",
            "weights",
            "KV cache",
            "cost",
        ]);
        for (k, (stage, even)) in plan.cut.stages.iter().zip(&plan.even.stages).enumerate() {
            table.row([vec![k.to_string()], cells(stage), cells(even)].concat());
        }
        table.write(out)?;
        writeln!(
            out,
            "\nslowest stage: {} of the cost, {} at best; even by units {}",
            percent(plan.cut.bottleneck()),
            percent(1.0 / stages as f64),
            percent(plan.even.bottleneck())
        )?;
        writeln!(out, "\nmicroseconds of a unit, {how}:\n")?;
        self.units().write(out)?;
        writeln!(out)?;
        for tied in &manifest.tied {
            writeln!(out, "tied: {tied} is in the first and the last shard, since it is embedding and head")?;
        }
        if !checkpoint.left_out.is_empty() {
            writeln!(out, "left out, since nothing is computed with it: {}", checkpoint.left_out.join(", "))?;
        }
        for line in &plan.advice {
            writeln!(out, "advice: {line}")?;
        }
        writeln!(
            out,
            "wrote {} (digest {}): every tensor of the model is in its shard, bit for bit",
            self.out.display(),
            manifest.digest8()
        )?;
        Ok(())
    }

    /// What the units cost, those that cost the same in one line.
    fn units(&self) -> Table {
        let mix = self.plan.goal.mix;
        let mut table = Table::new([
            "unit",
            "prompt row",
            "decode row",
            "prompt's end",
            "100 positions more",
            &format!("for {mix}"),
        ]);
        for alike in self.plan.units.chunk_by(|a, b| a.cost == b.cost) {
            let name = match alike {
                [one] => one.name.clone(),
                [first, .., last] => format!("{} to {}", first.name, last.name),
                [] => continue,
            };
            let cost = alike[0].cost;
            let positions = format!("{} {}", us(100.0 * cost.prompt.position), us(100.0 * cost.decode.position));
            let cells = [us(cost.prompt.row), us(cost.decode.row), us(cost.request), positions, us(cost.of(mix))];
            table.row([name].into_iter().chain(cells));
        }
        table
    }

    fn json(&self) -> serde_json::Value {
        let Self { checkpoint, plan, manifest, how, out } = self;
        let files: Vec<&str> = manifest.stages.iter().map(|stage| stage.shard.file.as_str()).collect();
        json!({
            "name": manifest.name,
            "out": out.display().to_string(),
            "digest": hex(&manifest.digest()),
            "units": plan.units.iter().map(|unit| unit_json(unit, plan.goal.mix)).collect::<Vec<_>>(),
            "costs": how,
            "dtype": manifest.dtype,
            "balance": manifest.balance,
            "mix": manifest.mix,
            "kv_tokens": plan.kv_tokens,
            "stages": cut_json(&plan.cut),
            "shards": files,
            "bottleneck": plan.cut.bottleneck(),
            "even_by_units": { "stages": cut_json(&plan.even), "bottleneck": plan.even.bottleneck() },
            "tied": manifest.tied,
            "left_out": checkpoint.left_out,
            "advice": plan.advice,
        })
    }
}

/// Nanoseconds as microseconds.
fn us(nanoseconds: f64) -> String {
    format!("{:.1}", nanoseconds / 1e3)
}

fn unit_json(unit: &Unit, mix: Mix) -> serde_json::Value {
    let row = |row: RowCost| json!({ "row": row.row, "position": row.position });
    json!({
        "name": unit.name,
        "border": unit.border.lines(),
        "parameters": unit.weights.parameters,
        "ns": {
            "prompt": row(unit.cost.prompt),
            "decode": row(unit.cost.decode),
            "request": unit.cost.request,
            "mix": unit.cost.of(mix),
        },
    })
}

/// Units, parameters, weights, KV cache and cost of a stage.
fn cells(stage: &CutStage) -> Vec<String> {
    vec![
        format!("{}..{}", stage.units.start, stage.units.end),
        count(stage.parameters),
        bytes(stage.weight_bytes),
        bytes(stage.kv_bytes),
        percent(stage.cost),
    ]
}

fn cut_json(cut: &Cut) -> Vec<serde_json::Value> {
    let stage = |stage: &CutStage| {
        json!({
            "units": [stage.units.start, stage.units.end],
            "parameters": stage.parameters,
            "weight_bytes": stage.weight_bytes,
            "kv_bytes": stage.kv_bytes,
            "cost": stage.cost,
        })
    };
    cut.stages.iter().map(stage).collect()
}
