//! From checked settings to a pipeline at work: what `serve`, `up`, `run`, `embed` and `demo` have in common.

use crate::cli::split::said;
use crate::config::{BatchingConfig, DeviceConfig, DeviceName, DoorConfig, NatsConfig, ServeConfig, SourceConfig};
use anyhow::{Context, bail, ensure};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use stageline_base::StageIndex;
use stageline_door::Answer;
use stageline_door::AnswerEvent;
use stageline_door::text::TextModel;
use stageline_engine::fake::{FakeExecutor, FakeSetup};
use stageline_engine::{DeviceChoice, Executor, Loader, Runner, Setup, Wishes, choose};
use stageline_metrics::Metrics;
use stageline_model::KvShape;
use stageline_ops::{Isa, Threads};
use stageline_server::{self as server, Blueprint, Broker, BrokerAccess, Options, Pipeline, Serving};
use stageline_transport::HopSettings;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Deadline of a request of a one-shot command.
const ONE_SHOT: Duration = Duration::from_secs(24 * 3600);

/// A pipeline that is known, checked and not yet loaded.
pub struct Site {
    /// The model, cut.
    pub blueprint: Blueprint,
    /// How it is served.
    pub pipeline: Pipeline,
    /// Where its replicas in this process count.
    pub metrics: Arc<Metrics>,
    /// The stages that this process runs.
    here: Range<StageIndex>,
    device: DeviceConfig,
    runner: Runner,
    /// The process's threads: all its stages share them.
    threads: Threads,
}

impl Site {
    /// Opens `source` for one process that runs every stage; a one-shot command has no door.
    pub fn embedded(
        source: &SourceConfig,
        batching: &BatchingConfig,
        device: &DeviceConfig,
        door: Option<&DoorConfig>,
    ) -> anyhow::Result<Self> {
        let blueprint = Blueprint::open(&source.folder, source.stages, source.balance).map_err(said)?;
        // In one process all stages share one device: more than one microbatch would gain nothing.
        Self::new(blueprint, batching, device, door, 1)
    }

    /// Opens a pipeline folder whose stages run in a process each: this one runs the stage of `config`, and counts for it
    /// alone.
    pub fn distributed(config: &ServeConfig) -> anyhow::Result<Self> {
        let blueprint = Blueprint::open_stage(&config.pipeline, config.stage).map_err(said)?;
        let devices = blueprint.stages.len() as u32;
        let site = Self::new(blueprint, &config.batching, &config.device, Some(&config.door), devices)?;
        let here = config.stage..config.stage + 1;
        let metrics = Metrics::new(site.pipeline.name.clone(), here.clone());
        Ok(Self { metrics: Arc::new(metrics), here, ..site })
    }

    fn new(
        blueprint: Blueprint,
        batching: &BatchingConfig,
        device: &DeviceConfig,
        door: Option<&DoorConfig>,
        devices: u32,
    ) -> anyhow::Result<Self> {
        let runner = choose(Wishes {
            numbers: device.numbers,
            executor: device.executor,
            on_cuda: device.device != DeviceName::Cpu,
            decoder: blueprint.task().generates(),
        });
        let runner = runner.map_err(said)?;
        let limits = batching.for_model(blueprint.spec.max_positions())?;
        let (least_kv_blocks, kv_blocks) = match (runner, device.device) {
            (Runner::Engine(_), _) | (Runner::Candle, DeviceName::Cpu) => limits.fitting_kv_blocks,
            (Runner::Candle, DeviceName::Cuda(_)) | (Runner::Fake, _) => (limits.kv_blocks, limits.kv_blocks),
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
            default_max_tokens: 256,
            longest: door.and_then(|door| door.exec_timeout).unwrap_or(ONE_SHOT),
        };
        let pipeline = Pipeline {
            name: door.and_then(|door| door.name.clone()).unwrap_or_else(|| blueprint.name.clone()),
            digest: blueprint.digest,
            cut: blueprint.stages.clone(),
            vocab: blueprint.spec.vocab() as u32,
            stages: StageIndex::try_from(blueprint.stages.len()).context("more stages than a pipeline may have")?,
            hidden: match runner {
                Runner::Candle | Runner::Engine(_) => blueprint.spec.hidden(),
                Runner::Fake => stageline_engine::fake::HIDDEN,
            },
            task: blueprint.task(),
            options,
        };
        let here = 0..pipeline.stages;
        let metrics = Arc::new(Metrics::new(pipeline.name.clone(), here.clone()));
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = Threads::new(device.threads.unwrap_or_else(cores)).map_err(said)?;
        tracing::info!(device = %device.device, "{runner}");
        Ok(Self { blueprint, pipeline, metrics, here, device: device.clone(), runner, threads })
    }

    /// Loads every stage into this process and serves them.
    pub async fn start_embedded(&self) -> anyhow::Result<Serving> {
        let text = self.text()?;
        let loading = Loading::new();
        let stages = self.pipeline.stages;
        let loader = |stage| self.loader((stage, usize::from(stages - 1 - stage)), &loading);
        let loaders = (0..stages).map(loader).collect::<anyhow::Result<_>>()?;
        let serving = server::embedded(&self.pipeline, loaders, text, self.metrics.clone()).await.map_err(said);
        loading.finish();
        self.watched(serving?)
    }

    /// Reaches the broker that joins the stages.
    pub async fn reach(&self, stage: StageIndex, nats: &NatsConfig) -> anyhow::Result<Broker> {
        let access =
            BrokerAccess { urls: nats.urls.join(","), credentials: nats.creds.clone(), user: nats.user.clone() };
        server::reach(&self.pipeline, stage, access).await.map_err(said)
    }

    /// Loads one stage and serves it on NATS.
    pub async fn start_stage(&self, stage: StageIndex, broker: Broker, hop: &HopSettings) -> anyhow::Result<Serving> {
        let text = if stage == 0 { Some(self.text()?) } else { None };
        let loading = Loading::new();
        let loader = self.loader((stage, 0), &loading)?;
        let serving = server::on_nats(&self.pipeline, (stage, loader), (broker, hop), text, self.metrics.clone()).await;
        loading.finish();
        self.watched(serving?)
    }

    fn watched(&self, serving: Serving) -> anyhow::Result<Serving> {
        // Nothing hangs on the CPU, where a batch takes what it takes.
        if let (DeviceName::Cuda(_), Some(timeout)) = (self.device.device, self.device.timeout) {
            serving.usage.bound(timeout).map_err(said)?;
        }
        Ok(serving)
    }

    fn text(&self) -> anyhow::Result<Arc<TextModel>> {
        let begun = std::time::Instant::now();
        let text = TextModel::open(&self.blueprint.files, &self.blueprint.spec).map_err(said)?;
        for warning in text.warnings() {
            tracing::warn!("{warning}");
        }
        tracing::info!(ms = begun.elapsed().as_millis() as u64, "tokenizer ready");
        Ok(Arc::new(text))
    }

    /// Part of the memory that `stage` may take. What a CPU has left looks the same to each stage, since memory is taken when
    /// it is written to: so each is told its own part, by its layers, whose KV blocks are alike.
    fn share(&self, stage: StageIndex) -> f32 {
        let layers = |stage: StageIndex| self.pipeline.cut[usize::from(stage)].layers.len() as f32;
        match self.device.device {
            DeviceName::Cpu => self.device.share * layers(stage) / self.here.clone().map(layers).sum::<f32>(),
            DeviceName::Cuda(_) => self.device.share,
        }
    }

    /// `to_come` stages are warmed up on the same device after this one.
    fn loader(&self, (stage, to_come): (StageIndex, usize), loading: &Loading) -> anyhow::Result<Loader> {
        let options = &self.pipeline.options;
        if self.runner == Runner::Fake {
            let setup = FakeSetup {
                stage,
                last: stage + 1 == self.pipeline.stages,
                vocab: self.blueprint.spec.vocab() as u32,
                kv_blocks: options.kv_blocks,
                block_size: options.block_size,
                batch_cost: Duration::ZERO,
                row_cost: Duration::ZERO,
                poison: None,
            };
            return Ok(Box::new(move || Ok(Box::new(FakeExecutor::new(setup)) as Box<dyn Executor>)));
        }
        let setup = Setup {
            device: match self.device.device {
                DeviceName::Cpu => DeviceChoice::Cpu(Isa::chosen().map_err(said)?),
                DeviceName::Cuda(number) => DeviceChoice::Cuda(number),
            },
            runner: self.runner,
            threads: self.threads.clone(),
            kv: KvShape { blocks: options.kv_blocks as usize, block_size: options.block_size as usize },
            max_rows: options.most_rows(self.pipeline.task),
            max_seqs: options.max_num_seqs as usize,
            longest: options.max_model_len as usize,
            least_blocks: options.least_kv_blocks as usize,
            to_come,
            share: self.share(stage),
        };
        let bar = loading.bar(stage);
        Ok(self.blueprint.loader(stage, setup, move |bytes| bar.set_position(bytes)))
    }
}

/// Progress of shards being read, on standard error where that is a terminal.
struct Loading {
    bars: MultiProgress,
}

impl Loading {
    fn new() -> Self {
        Self { bars: MultiProgress::new() }
    }

    fn bar(&self, stage: StageIndex) -> ProgressBar {
        let style = ProgressStyle::with_template("loading {prefix} {decimal_bytes} {binary_bytes_per_sec}");
        let bar = ProgressBar::no_length().with_prefix(format!("stage {stage}"));
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        self.bars.add(bar)
    }

    fn finish(self) {
        // A terminal that cannot be cleared keeps the bars: nothing is lost by it.
        let _ = self.bars.clear();
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

/// Ends an embedded pipeline and waits for it.
pub async fn finish(serving: Serving) -> anyhow::Result<()> {
    serving.drain.begin.cancel();
    let done = serving.done.await;
    ensure!(done.is_ok(), "the pipeline's thread has gone");
    done?.map_err(said)
}
