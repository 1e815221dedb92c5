//! What a GPU makes of the decode engine: a table of copies, kernels, products, decode steps, prefills and the loading of a
//! shard, each beside what the device's memory or tensor cores give in the same run.
//!
//! `scripts/gpu-check` builds and runs it; by hand, `cargo bench --features cuda --bench gpu -- [--small] [--json FILE]
//! [--folder FOLDER]`. On the emulated driver it says so with every part: those figures are a processor's.
//!
//! Times are medians of rounds, with the least and the most of them. What runs on the device alone is timed there: launches
//! are recorded as one graph, as the engine's decode steps are, since a processor takes longer to launch a small kernel
//! than a GPU to run it. Each launch of a round has memory of its own, and before each round the device reads several times
//! its cache, so that what a launch reads comes from memory. Steps and prefills are timed outside, through the executor
//! that serves: they include the upload, the download and the wait of each batch.

mod clock;
mod copies;
mod device;
mod kernels;
mod model;
mod plan;
mod products;
mod report;
mod shard;
mod sizes;
mod steps;

use device::Device;
use plan::Plan;
use report::Report;
use stageline_base::Fault;
use std::path::PathBuf;
use std::process::ExitCode;

/// What was asked for on the command line.
struct Wishes {
    small: bool,
    json: Option<PathBuf>,
    /// Where a shard is written.
    folder: PathBuf,
}

impl Wishes {
    fn read(words: impl Iterator<Item = String>) -> Result<Self, Fault> {
        let mut wishes = Self { small: false, json: None, folder: std::env::temp_dir() };
        let mut words = words;
        while let Some(word) = words.next() {
            let mut path = || {
                let missing = || Fault::invalid(format!("{word}: the path behind it is missing"));
                words.next().map(PathBuf::from).ok_or_else(missing)
            };
            match word.as_str() {
                "--small" => wishes.small = true,
                "--json" => wishes.json = Some(path()?),
                "--folder" => wishes.folder = path()?,
                // cargo's own.
                "--bench" => {}
                _ => return Err(Fault::invalid(format!("{word}: it takes --small, --json FILE and --folder FOLDER"))),
            }
        }
        Ok(wishes)
    }
}

fn main() -> ExitCode {
    match Wishes::read(std::env::args().skip(1)).and_then(|wishes| measure(&wishes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("error: {}", fault.message);
            ExitCode::FAILURE
        }
    }
}

fn measure(wishes: &Wishes) -> Result<(), Fault> {
    let plan = if wishes.small { Plan::small() } else { Plan::full() };
    let device = Device::open(&plan)?;
    let mut report = Report::begin(&device)?;
    let copy_rate = copies::measure(&device, &plan, &mut report)?;
    let measured = kernels::measure(&device, &plan, copy_rate, &mut report);
    report.note(&kernels::PART, "all", measured);
    for model in &plan.models {
        let measured = products::measure(&device, model, plan.product_rows, &mut report)
            .and_then(|product_rate| steps::measure(&device, &plan, model, (copy_rate, product_rate), &mut report));
        report.note(&steps::DECODE, model.name, measured);
    }
    let measured = shard::measure(&device, &plan, &wishes.folder, &mut report);
    report.note(&shard::PART, plan.shard.name, measured);
    report.end(wishes.json.as_deref())
}
