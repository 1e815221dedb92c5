//! Floor 5: the command line.

pub mod call;
mod children;
pub mod demo;
mod flags;
pub mod flow;
pub mod inspect;
pub mod load;
mod load_table;
mod logging;
mod measure;
mod page;
mod pipeline;
pub mod requests;
mod run;
pub mod serve;
pub mod split;
mod table;
mod threads;
pub mod up;

use crate::config::{
    self, CONFIG, DeviceConfig, InspectConfig, LoadConfig, Measured, Order, Problems, SplitConfig, VerbConfig, Written,
};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The program: reads the command line, does what it says, and gives the exit status.
///
/// 0: done. 1: it failed, and standard error says why. 64: the command line or the settings are wrong.
pub fn main() -> ExitCode {
    measured(Measured::default())
}

/// The same, with what no setting says: for the program that benches and tests start.
pub fn measured(measured: Measured) -> ExitCode {
    let order = match order() {
        Ok(mut order) => {
            order.verb.measure(measured);
            order
        }
        Err(Refusal::Clap(error)) => {
            // What cannot be printed, for example into a closed pipe, has nobody to read it either.
            let _ = error.print();
            return if error.use_stderr() { Problems::EXIT_CODE.into() } else { ExitCode::SUCCESS };
        }
        Err(Refusal::Settings(problems)) => {
            eprintln!("error: {problems}");
            return Problems::EXIT_CODE.into();
        }
    };
    logging::start(&order.logging);
    dispatch(order).unwrap_or_else(|error| {
        // Problems that show only once the model is read, for example a max_model_len above the model's.
        let code = if error.is::<Problems>() { Problems::EXIT_CODE } else { 1 };
        eprintln!("error: {error:#}");
        code.into()
    })
}

enum Refusal {
    Clap(clap::Error),
    Settings(Problems),
}

/// What people asked for.
fn order() -> Result<Order, Refusal> {
    let matches = flags::command().try_get_matches().map_err(Refusal::Clap)?;
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(Refusal::Settings(Problems(vec!["a subcommand is expected; see stageline --help".into()])));
    };
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let env = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
    let mut written = Written { flags: flags::values(matches), env, file: None };
    let named = matches.get_one::<String>(CONFIG.key).or_else(|| written.env.get(&CONFIG.env())).cloned();
    written.file = settings_file(named).map_err(Refusal::Settings)?;
    config::check(verb, &written).map_err(Refusal::Settings)
}

/// The settings' file: the one that is `named`, else stageline.toml of this folder if there is one.
fn settings_file(named: Option<String>) -> Result<Option<(PathBuf, String)>, Problems> {
    let path = PathBuf::from(named.as_deref().unwrap_or("stageline.toml"));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        // A link that leads nowhere is there, and is not what somebody meant.
        Err(error)
            if named.is_none()
                && error.kind() == std::io::ErrorKind::NotFound
                && std::fs::symlink_metadata(&path).is_err() =>
        {
            Ok(None)
        }
        Err(error) => Err(Problems(vec![format!("{}: {error}", path.display())])),
    }
}

/// Does it.
fn dispatch(Order { verb, logging }: Order) -> anyhow::Result<ExitCode> {
    match verb {
        VerbConfig::Split(config) => split_model(config),
        VerbConfig::Call(config) => on_runtime(None, call::call(config)),
        VerbConfig::Flow(config) => on_runtime(Some(&config.device), flow::flow((*config).clone())),
        VerbConfig::Requests(config) => on_runtime(None, requests::requests(config)),
        VerbConfig::Inspect(config) => inspect_pipeline(&config),
        VerbConfig::Serve(config) => on_runtime(Some(&config.device), serve::serve(config.clone())),
        VerbConfig::Up(config) => on_runtime(Some(&config.device), up::up(config.clone(), logging)),
        VerbConfig::Run(config) => on_runtime(Some(&config.device), run::run(config.clone())),
        VerbConfig::Load(config) => match config {
            LoadConfig::Compare(before, after) => load::compare(&before, &after),
            LoadConfig::Run(run) => on_runtime(Some(&run.device.clone()), load::load(*run)),
        },
        VerbConfig::Demo(config) => on_runtime(Some(&config.device), demo::demo(config.clone(), logging)),
    }
}

fn split_model(config: SplitConfig) -> anyhow::Result<ExitCode> {
    let order = split::SplitOrder {
        model_dir: config.model,
        out: config.out,
        name: config.name,
        stages: config.stages,
        goal: config.goal,
        stage_memory: config.stage_memory,
        max_num_seqs: config.max_num_seqs as usize,
        max_model_len: config.max_model_len.map(|len| len as usize),
        measure: config.measure,
        json: config.json,
    };
    split::split(&order, &mut std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}

fn inspect_pipeline(config: &InspectConfig) -> anyhow::Result<ExitCode> {
    inspect::inspect(&config.pipeline, config.json, &mut std::io::stdout())?;
    if config.verify {
        // Beside JSON, standard output holds nothing else.
        let mut said: Box<dyn std::io::Write> =
            if config.json { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
        inspect::verify(&config.pipeline, &mut said)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How long tasks that cannot be cancelled may keep a process that has done its work.
const LAST_TASKS: Duration = Duration::from_millis(200);

/// Runs `work` to its end, in a process that computes as `device` says.
fn on_runtime(
    device: Option<&DeviceConfig>,
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    threads::set_budget(device.and_then(|device| device.threads));
    // Two threads carry messages; what computes has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(work);
    // Whatever still looks a name up has nobody left to tell it.
    runtime.shutdown_timeout(LAST_TASKS);
    ended
}
