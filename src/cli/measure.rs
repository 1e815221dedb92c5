//! `split --measure`: what the units of a model cost on this machine.

use crate::cli::pipeline::hardware;
use crate::cli::split::as_error;
use crate::config::DeviceConfig;
use indicatif::{ProgressBar, ProgressStyle};
use stageline_engine::{Measure, Setup};
use stageline_model::Checkpoint;
use stageline_plan::estimate::DECODE_BATCH;
use stageline_plan::{Mix, UnitCost};
use stageline_server::load_executor;
use std::time::Instant;

/// What was measured.
pub struct Measured {
    /// The cost of each unit.
    pub costs: Vec<UnitCost>,
    /// Where and how, in words.
    pub how: String,
}

/// Measures what each unit of `checkpoint` costs on `device`, for requests of `mix`.
///
/// # Errors
/// One line that says what the device or the model's files lack.
pub fn measure(checkpoint: &Checkpoint, mix: Mix, device: &DeviceConfig) -> anyhow::Result<Measured> {
    let spec = &checkpoint.spec;
    let hardware = hardware(device, spec)?;
    let units = checkpoint.units();
    let begun = Instant::now();
    let measure =
        Measure { spec, units: &units, mix, most_rows: device.device.usual_batch_tokens(), clock: &|| begun.elapsed() };
    let kv = measure.kv();
    let setup = Setup {
        device: hardware.device,
        runner: hardware.runner,
        threads: hardware.threads.clone(),
        kv,
        least_blocks: kv.blocks,
        to_come: 0,
        share: hardware.share,
        max_model_len: spec.max_positions(),
        max_rows: measure.max_rows(),
        max_seqs: DECODE_BATCH as usize,
    };
    let style = ProgressStyle::with_template("measuring units {bar:30} {pos}/{len}")?;
    let bar = ProgressBar::new(units.len() as u64).with_style(style);
    let costs = measure
        .run(&mut |range| load_executor(checkpoint, spec, range, setup.clone(), &mut |_| {}), &mut |done| {
            bar.set_position(done as u64)
        });
    bar.finish_and_clear();
    let how = format!(
        "measured on {} ({}; {}): prompts in chunks of {} rows, {DECODE_BATCH} decode rows at once",
        device.device,
        hardware.runner,
        threads(device),
        measure.chunk(),
    );
    Ok(Measured { costs: costs.map_err(as_error)?, how })
}

fn threads(device: &DeviceConfig) -> String {
    device.threads.map_or("all cores".into(), |threads| format!("{threads} threads"))
}
