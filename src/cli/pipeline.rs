//! From checked settings to a pipeline at work: what `serve`, `up`, `run`, `embed` and `demo` have in common.

use crate::cli::split::as_error;
use crate::config::{BatchingConfig, DeviceConfig, DeviceName, DoorConfig, ServeConfig, SourceConfig};
use anyhow::bail;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use stageline_base::limits::DEFAULT_MAX_TOKENS;
use stageline_base::{Fault, StageIndex};
use stageline_door::{Answer, AnswerEvent};
use stageline_engine::{DeviceChoice, Runner, Wishes, choose};
use stageline_model::ModelSpec;
use stageline_ops::{Isa, Threads};
use stageline_server::host::Progress;
use stageline_server::{Blueprint, Hardware, Host, Options, Serving};
use std::time::Duration;

/// Deadline of a request of a one-shot command.
const ONE_SHOT: Duration = Duration::from_secs(24 * 3600);

/// The pipeline of `source` in one process that runs every stage; a one-shot command has no door.
pub fn hosted(
    source: &SourceConfig,
    batching: &BatchingConfig,
    device: &DeviceConfig,
    door: Option<&DoorConfig>,
) -> anyhow::Result<Host> {
    let blueprint = Blueprint::open(&source.folder, source.stages, source.goal).map_err(as_error)?;
    // In one process all stages share one device: more than one microbatch would gain nothing.
    host(blueprint, (batching, device, door), 1, None)
}

/// A pipeline folder whose stages run in a process each: this one runs the stage of `config`, and counts for it alone.
pub fn hosted_stage(config: &ServeConfig) -> anyhow::Result<Host> {
    let blueprint = Blueprint::open_stage(&config.pipeline, config.stage).map_err(as_error)?;
    let devices = blueprint.stages.len() as u32;
    host(blueprint, (&config.batching, &config.device, Some(&config.door)), devices, Some(config.stage))
}

fn host(
    blueprint: Blueprint,
    (batching, device, door): (&BatchingConfig, &DeviceConfig, Option<&DoorConfig>),
    devices: u32,
    here: Option<StageIndex>,
) -> anyhow::Result<Host> {
    let hardware = hardware(device, &blueprint.spec)?;
    let limits = batching.for_model(blueprint.spec.max_positions())?;
    let (least_kv_blocks, kv_blocks) = match (hardware.runner, device.device) {
        (Runner::Engine(_), _) | (Runner::Candle, DeviceName::Cpu) => limits.fitting_kv_blocks,
        (Runner::Candle, DeviceName::Cuda(_)) | (Runner::Fake(_), _) => (limits.kv_blocks, limits.kv_blocks),
    };
    let microbatches = batching.microbatches.unwrap_or(devices);
    let options = Options {
        max_num_seqs: batching.max_num_seqs,
        max_model_len: limits.max_model_len,
        max_batch_tokens: batching.max_batch_tokens.unwrap_or(device.device.usual_batch_tokens()),
        max_batch_delay: batching.max_batch_delay,
        block_size: batching.block_size,
        kv_blocks,
        least_kv_blocks,
        microbatches,
        microbatches_away: batching.microbatches_away.unwrap_or(microbatches),
        max_queue: batching.max_queue as usize,
        // Whoever runs a pipeline alone may keep it waiting.
        queue_timeout: door.map_or(ONE_SHOT, |door| door.queue_timeout),
        stage_timeout: door.map_or(ONE_SHOT, |door| door.stage_timeout),
        default_max_tokens: DEFAULT_MAX_TOKENS,
        max_deadline: door.and_then(|door| door.exec_timeout).unwrap_or(ONE_SHOT),
        wire_dtype: batching.wire_dtype,
    };
    tracing::info!(device = %device.device, "{}", hardware.runner);
    Host::new(blueprint, door.and_then(|door| door.name.clone()), options, hardware, here).map_err(as_error)
}

/// What is to run the model `spec`, as `device` asks for it.
///
/// # Errors
/// One line that says what there is not.
pub fn hardware(device: &DeviceConfig, spec: &ModelSpec) -> anyhow::Result<Hardware> {
    let runner = choose(Wishes {
        numbers: device.numbers,
        on_cuda: device.device != DeviceName::Cpu,
        decoder: spec.engine_decoder().is_some(),
    });
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Hardware {
        runner: device.script.map_or(runner.map_err(as_error)?, Runner::Fake),
        device: match device.device {
            DeviceName::Cpu => DeviceChoice::Cpu(Isa::chosen().map_err(as_error)?),
            DeviceName::Cuda(number) => DeviceChoice::Cuda(number),
        },
        threads: Threads::new(device.threads.unwrap_or_else(cores)).map_err(as_error)?,
        share: device.share,
        timeout: device.timeout,
    })
}

/// Loads every stage into this process and serves them.
///
/// # Errors
/// As [`Host::start_embedded`].
pub async fn start(host: &Host) -> Result<Serving, Fault> {
    let loading = Loading::new();
    loading.during(host.start_embedded(|stage| loading.bar(stage))).await
}

/// Progress of shards being read, on standard error where that is a terminal.
pub struct Loading {
    bars: MultiProgress,
}

impl Loading {
    /// Nothing is read yet.
    pub fn new() -> Self {
        Self { bars: MultiProgress::new() }
    }

    /// Shows what it is told of `stage`.
    pub fn bar(&self, stage: StageIndex) -> Progress {
        let style = ProgressStyle::with_template("loading {prefix} {decimal_bytes} {binary_bytes_per_sec}");
        let bar = ProgressBar::no_length().with_prefix(format!("stage {stage}"));
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        let bar = self.bars.add(bar);
        Box::new(move |bytes| bar.set_position(bytes))
    }

    /// Shows the bars until `loaded` resolves.
    pub async fn during<T>(&self, loaded: impl Future<Output = T>) -> T {
        let loaded = loaded.await;
        // A terminal that cannot be cleared keeps the bars: nothing is lost by it.
        let _ = self.bars.clear();
        loaded
    }
}

/// What became of an answer.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The whole text.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
    /// The logits beside each token, if they were asked for.
    pub observed: Vec<stageline_core::Observed>,
    /// An encoder's answer.
    pub vector: Vec<f32>,
}

/// Reads an answer to its end; `piece` sees its text as it comes.
pub async fn read_answer(mut answer: Answer, mut piece: impl FnMut(&str)) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome { prompt_tokens: answer.prompt_tokens, ..Outcome::default() };
    while let Some(event) = answer.events.recv().await {
        match event {
            AnswerEvent::Token { id, text, observed } => {
                outcome.token_ids.push(id);
                outcome.observed.extend(observed);
                outcome.text += &text;
                piece(&text);
            }
            AnswerEvent::Vector(values) => outcome.vector = values,
            // A text's answer is none of these.
            AnswerEvent::Tensors(_) => {}
            AnswerEvent::Finished { reason, text } => {
                outcome.text += &text;
                piece(&text);
                outcome.finish_reason = reason.as_str();
                return Ok(outcome);
            }
            AnswerEvent::Failed(fault) => bail!("{fault}"),
        }
    }
    bail!("the answer ended without saying how: the pipeline has stopped")
}
