//! `load`: sends a load at a pipeline, shows how far it is, and says what came of it.

use crate::cli::load_table;
use crate::cli::pipeline::{hosted, start};
use crate::cli::split::as_error;
use crate::config::{LoadRun, TargetConfig};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stageline_door::Intake;
use stageline_load::compare;
use stageline_load::driver::Tally;
use stageline_load::report::{Inside, VERSION};
use stageline_load::stages::{self, Reading, Source};
use stageline_load::sweep::{self, Sweep};
use stageline_load::target::{embedded, grpc, http, nats, stage};
use stageline_load::usage::{Harness, Mark};
use stageline_load::vocabulary;
use stageline_load::{Document, Report, Scenario, Target, Workload, drive, page, replay};
use stageline_server::Serving;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// Exit status of a program that SIGINT ended, as shells know it.
const INTERRUPTED: i32 = 130;
/// How often the line of progress changes.
const TICK: Duration = Duration::from_millis(100);

/// Sends the load and writes its report; the exit status is 1 if not one request was answered.
///
/// # Errors
/// One line that says what is wrong with the target or a file.
pub async fn load(mut run: LoadRun) -> anyhow::Result<ExitCode> {
    let prompts = match &run.prompt_file {
        Some(path) => read(path)?.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect(),
        None => Vec::new(),
    };
    let replayed = match &run.replay {
        Some(path) => replay::read(&read(path)?).map_err(as_error).with_context(|| path.display().to_string())?,
        None => Vec::new(),
    };
    let files = [&run.out, &run.html].into_iter().flatten();
    // Before the load: nobody should wait for a report that cannot be written.
    files.map(|path| open(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let place = Place::reach(&run).await?;
    if let Some(vocab) = place.vocab {
        run.scenario.token_ids = vocabulary::within(run.scenario.token_ids, vocab).map_err(as_error)?;
    }
    let workload = |scenario: &Scenario| -> anyhow::Result<Arc<Workload>> {
        let workload = Workload::new(scenario.clone(), prompts.clone(), replayed.clone()).map_err(as_error)?;
        Ok(Arc::new(workload))
    };
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut runs = Vec::new();
    let stop = stop_at_interrupt();
    while !stop.is_cancelled() {
        let level = match &run.sweep {
            None if runs.is_empty() => None,
            None => break,
            Some(sweep) => match sweep::next(sweep, &runs, run.knee_share) {
                Some(level) => Some(level),
                None => break,
            },
        };
        let scenario = level.map_or_else(|| run.scenario.clone(), |level| run.scenario.at_level(level));
        let tally = Tally { stop: stop.clone(), ..Tally::default() };
        let report = place.measure(scenario.clone(), workload(&scenario)?, tally).await?;
        if run.sweep.is_some() {
            eprintln!("{}", load_table::step(&report, run.knee_share));
        }
        runs.push(report);
    }
    let knee = run.sweep.as_ref().map(|_: &Sweep| sweep::knee(&runs, run.knee_share));
    place.leave().await?;
    let stageline = env!("CARGO_PKG_VERSION").to_owned();
    let document = Document { version: VERSION, stageline, unix_seconds: begun, runs, knee };
    let json = serde_json::to_string(&document)?;
    if let Some(path) = &run.out {
        std::fs::write(path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &run.html {
        std::fs::write(path, page::render(&document)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if run.json {
        println!("{json}");
    } else {
        print!("{}", load_table::document(&document));
    }
    let answered = document.runs.iter().any(|run| run.answered > 0);
    Ok(if answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints two reports side by side.
///
/// # Errors
/// One line that says which of them cannot be read, and why.
pub fn compare(before: &Path, after: &Path) -> anyhow::Result<ExitCode> {
    let open = |path: &Path| -> anyhow::Result<Document> {
        compare::read(&read(path)?).map_err(as_error).with_context(|| path.display().to_string())
    };
    let pairs = compare::compare(&open(before)?, &open(after)?).map_err(as_error)?;
    print!("{}", load_table::pairs(&pairs));
    Ok(ExitCode::SUCCESS)
}

/// Cancelled at the first interrupt: what was measured until then is still reported. The second ends the program.
fn stop_at_interrupt() -> CancellationToken {
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if interrupted.is_cancelled() {
                std::process::exit(INTERRUPTED);
            }
            eprintln!("interrupted: reporting what there is; again to give it up");
            interrupted.cancel();
        }
    });
    stop
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn open(path: &Path) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.map(drop).with_context(|| format!("cannot write {}", path.display()))
}

/// A target that was reached, and where its metrics are.
struct Place {
    target: Arc<dyn Target>,
    metrics: Source,
    serving: Option<Serving>,
    /// Tokens of the model, as far as they are asked for and known.
    vocab: Option<u32>,
}

impl Place {
    async fn reach(run: &LoadRun) -> anyhow::Result<Self> {
        let form = (run.scenario.stream, run.embeds);
        let mut metrics = Source::Pages(match &run.target {
            // A stage's one port carries its page beside what clients call.
            TargetConfig::Http(url) | TargetConfig::Grpc(url) | TargetConfig::Stage(url) if run.metrics.is_empty() => {
                vec![format!("{}/metrics", url.replacen("grpc://", "http://", 1).trim_end_matches('/'))]
            }
            _ => run.metrics.clone(),
        });
        let mut serving = None;
        let mut vocab = None;
        let target: Arc<dyn Target> = match &run.target {
            TargetConfig::Http(url) => Arc::new(http::HttpTarget::connect(url, form).await.map_err(as_error)?),
            TargetConfig::Grpc(url) => Arc::new(grpc::GrpcTarget::connect(url, run.embeds).await.map_err(as_error)?),
            TargetConfig::Stage(url) => Arc::new(stage::StageTarget::connect(url).await.map_err(as_error)?),
            TargetConfig::Nats(url, name, creds) => {
                let reached = nats::NatsTarget::connect(url, name, creds.as_deref(), form).await;
                Arc::new(reached.map_err(as_error)?)
            }
            TargetConfig::Embedded(source) => {
                let host = hosted(source, &run.batching, &run.device, None)?;
                vocab = Some(host.pipeline.vocab);
                let started = start(&host).await.map_err(as_error)?;
                metrics = Source::Inside(host.metrics.clone());
                let reception: Arc<dyn Intake> = started.reception.clone().context("the pipeline has no door")?;
                serving = Some(started);
                Arc::new(embedded::EmbeddedTarget::new(reception))
            }
        };
        if !run.metrics.is_empty() {
            // Asked for by name: nobody should wait for a report without them. The target's own may be behind a gateway.
            metrics.check().await.map_err(as_error)?;
        }
        if run.prompt_file.is_none() && vocab.is_none() {
            let server = run.target.server();
            vocab = vocabulary::told_by(server.into_iter().chain(run.metrics.iter().map(String::as_str))).await;
        }
        Ok(Self { target, metrics, serving, vocab })
    }

    async fn measure(&self, scenario: Scenario, workload: Arc<Workload>, tally: Tally) -> anyhow::Result<Report> {
        let tally = Arc::new(tally);
        let bar = tokio::spawn(show(scenario.clone(), tally.clone()));
        let (metrics, measuring) = (self.metrics.clone(), tally.clone());
        let before = tokio::spawn(async move {
            measuring.measuring.notified().await;
            (Mark::now(), metrics.read().await)
        });
        let begun = Mark::now();
        let driven = drive(&scenario, self.target.clone(), workload, tally).await.map_err(as_error)?;
        // If no request counted, nobody has woken it.
        let read = if driven.recorder.requests > 0 { before.await.ok() } else { None };
        let (mark, before) = read.map_or((begun, None), |(mark, before)| (mark, Some(before)));
        let harness = Harness::judge(mark, &scenario.shape, &driven.recorder, driven.held_back, self.serving.is_some());
        let inside = match before {
            Some(before) => self.inside(before, &scenario).await,
            None => Inside::default(),
        };
        bar.abort();
        let _ = bar.await;
        Ok(Report::new(scenario, &driven, harness, inside))
    }

    async fn inside(&self, before: Result<Reading, stageline_base::Fault>, scenario: &Scenario) -> Inside {
        let missing = |why: String| Inside { missing: Some(why), ..Inside::default() };
        if matches!(&self.metrics, Source::Pages(urls) if urls.is_empty()) {
            return missing(format!("{} has no metrics page that is known: give --metrics", scenario.target));
        }
        match (before, self.metrics.read().await) {
            (Ok(before), Ok(after)) => {
                let (stages, devices) = stages::between(&before, &after);
                let none = stages.is_empty().then(|| "the metrics pages name no stage".to_owned());
                Inside { stages, devices, missing: none }
            }
            (Err(fault), _) | (_, Err(fault)) => missing(format!(
                "{}; where the page has an address of its own (admin), give --metrics that",
                fault.message
            )),
        }
    }

    async fn leave(self) -> anyhow::Result<()> {
        match self.serving {
            Some(serving) => serving.finish().await.map_err(as_error),
            None => Ok(()),
        }
    }
}

/// Removes its line from the screen, however it ends.
struct Line(ProgressBar);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Shows how far the run is until it is aborted.
async fn show(scenario: Scenario, tally: Arc<Tally>) {
    let seconds = |time: Duration| time.as_millis() as u64;
    let (requests, time) = load_table::length(&scenario);
    let length = requests.or(time.map(seconds));
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let line = Line(match ProgressStyle::with_template("{prefix} {wide_bar} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    });
    line.0.set_prefix(scenario.shape.to_string());
    let begun = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        let (sent, answered) = (tally.sent.load(Relaxed), tally.answered.load(Relaxed));
        let failed = tally.failed.load(Relaxed);
        let out = sent.saturating_sub(answered + failed);
        line.0.set_position(if requests.is_some() { answered + failed } else { seconds(begun.elapsed()) });
        line.0.set_message(format!("{sent} sent, {answered} answered, {failed} failed, {out} out"));
    }
}
