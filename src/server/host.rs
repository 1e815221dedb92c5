//! A process and the stages of a pipeline that it is to serve: known and checked, not yet loaded.

use crate::assemble::{Serving, embedded, on_nats};
use crate::blueprint::Blueprint;
use crate::broker::Broker;
use crate::options::Options;
use crate::pipeline::Pipeline;
use stageline_base::{Element, Fault, StageIndex, Takes};
use stageline_door::text::TextModel;
use stageline_engine::fake::{FakeExecutor, FakeSetup, borders};
use stageline_engine::{DeviceChoice, Executor, Loader, Narrowing, Runner, Setup};
use stageline_metrics::Metrics;
use stageline_model::KvShape;
use stageline_ops::Threads;
use stageline_transport::HopSettings;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a process computes with.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// The device.
    pub device: DeviceChoice,
    /// What runs there.
    pub runner: Runner,
    /// The process's threads: all its stages share them.
    pub threads: Threads,
    /// Part of the device's memory that the stages of this process may take, up to 1.
    pub share: f32,
    /// How long a batch may take on a GPU before the process ends. Nothing hangs on a CPU, where a batch takes what it takes.
    pub timeout: Option<Duration>,
}

/// See the module.
pub struct Host {
    /// The model, cut.
    pub blueprint: Blueprint,
    /// How it is served.
    pub pipeline: Pipeline,
    /// Where the stages of this process count.
    pub metrics: Arc<Metrics>,
    hardware: Hardware,
    /// The stages of this process.
    here: Range<StageIndex>,
}

/// Told how many bytes of a stage's shard have been read so far.
pub type Progress = Box<dyn FnMut(u64) + Send>;

/// Sees nothing of what is read.
pub fn unwatched(_: StageIndex) -> Progress {
    Box::new(|_| {})
}

impl Host {
    /// Of the process that serves the stages `here` (all, if not said), of a pipeline that is called `name` if it is not to be
    /// called as its folder says.
    ///
    /// # Errors
    /// `InvalidRequest` if the pipeline has no such stages.
    pub fn new(
        blueprint: Blueprint,
        name: Option<String>,
        options: Options,
        hardware: Hardware,
        here: Option<StageIndex>,
    ) -> Result<Self, Fault> {
        let count = blueprint.stages.len();
        let stages = StageIndex::try_from(count)
            .map_err(|_| Fault::invalid(format!("{count} stages are more than a pipeline may have")))?;
        let here = match here {
            None => 0..stages,
            Some(stage) if stage < stages => stage..stage + 1,
            Some(stage) => {
                let words = format!("there is no stage {stage}: the pipeline has {stages}, numbered from 0");
                return Err(Fault::invalid(words));
            }
        };
        let pipeline = Pipeline {
            name: name.unwrap_or_else(|| blueprint.name.clone()),
            digest: blueprint.digest,
            cut: blueprint.stages.clone(),
            vocab: blueprint.spec.vocab() as u32,
            stages,
            borders: match hardware.runner {
                Runner::Candle | Runner::Engine(_) => blueprint.borders(options.wire_dtype),
                Runner::Fake(_) => borders(count),
            },
            task: blueprint.spec.task(),
            options,
        };
        pipeline.check()?;
        let metrics = Arc::new(Metrics::new(pipeline.name.clone(), here.clone()));
        Ok(Self { blueprint, pipeline, metrics, hardware, here })
    }

    /// Loads the stages, which are all here, and serves them over memory. `progress` makes who is told of each shard.
    ///
    /// # Errors
    /// What is wrong with the model's files, or what the device says.
    pub async fn start_embedded(&self, progress: impl Fn(StageIndex) -> Progress) -> Result<Serving, Fault> {
        let text = self.text()?;
        let loader = |stage: StageIndex| self.loader((stage, usize::from(self.here.end - 1 - stage)), progress(stage));
        let loaders = self.here.clone().map(loader).collect();
        let serving = embedded(&self.pipeline, loaders, text, self.metrics.clone()).await?;
        self.bound(serving)
    }

    /// Loads the stage that is here and serves it on NATS; it sends to the next as `hop` says.
    ///
    /// # Errors
    /// As [`Host::start_embedded`]; `Unavailable` if the broker is lost meanwhile.
    pub async fn start_stage(
        &self,
        broker: Broker,
        hop: &HopSettings,
        progress: impl Fn(StageIndex) -> Progress,
    ) -> Result<Serving, Fault> {
        let stage = self.here.start;
        let text = if stage == 0 { self.text()? } else { None };
        let loader = self.loader((stage, 0), progress(stage));
        let serving = on_nats(&self.pipeline, (stage, loader), (broker, hop), text, self.metrics.clone()).await?;
        self.bound(serving)
    }

    fn bound(&self, serving: Serving) -> Result<Serving, Fault> {
        if let (DeviceChoice::Cuda(_), Some(timeout)) = (self.hardware.device, self.hardware.timeout) {
            serving.usage.bound(timeout)?;
        }
        Ok(serving)
    }

    /// What text becomes tokens by, where the model takes tokens.
    fn text(&self) -> Result<Option<Arc<TextModel>>, Fault> {
        if self.pipeline.task.takes != Takes::Tokens {
            return Ok(None);
        }
        let begun = Instant::now();
        let text = TextModel::open(&self.blueprint.files, &self.blueprint.spec)?;
        for warning in text.warnings() {
            tracing::warn!("{warning}");
        }
        tracing::info!(ms = begun.elapsed().as_millis() as u64, "tokenizer ready");
        Ok(Some(Arc::new(text)))
    }

    /// Part of the memory that `stage` may take. What a CPU has left looks the same to each stage, since memory is taken when
    /// it is written to: so each is told its own part, by its layers, whose KV blocks are alike.
    fn share(&self, stage: StageIndex) -> f32 {
        let layers = |stage: StageIndex| self.pipeline.cut[usize::from(stage)].layers.len() as f32;
        match self.hardware.device {
            DeviceChoice::Cpu(_) => self.hardware.share * layers(stage) / self.here.clone().map(layers).sum::<f32>(),
            DeviceChoice::Cuda(_) => self.hardware.share,
        }
    }

    /// `to_come` stages are warmed up on the same device after this one.
    fn loader(&self, (stage, to_come): (StageIndex, usize), progress: Progress) -> Loader {
        let options = &self.pipeline.options;
        if let Runner::Fake(script) = self.hardware.runner {
            let setup = FakeSetup {
                stage,
                last: stage + 1 == self.pipeline.stages,
                vocab: self.pipeline.vocab,
                kv_blocks: options.kv_blocks,
                block_size: options.block_size,
                script,
                poison: None,
            };
            return Box::new(move || Ok(Box::new(FakeExecutor::new(setup)) as Box<dyn Executor>));
        }
        let Hardware { device, runner, threads, .. } = self.hardware.clone();
        let setup = Setup {
            device,
            runner,
            threads,
            kv: KvShape { blocks: options.kv_blocks as usize, block_size: options.block_size as usize },
            max_rows: options.most_rows(self.pipeline.task),
            max_seqs: options.max_num_seqs as usize,
            max_model_len: options.max_model_len as usize,
            least_blocks: options.least_kv_blocks as usize,
            to_come,
            share: self.share(stage),
        };
        let load = self.blueprint.loader(stage, setup, progress);
        if options.wire_dtype == Element::F32 {
            return load;
        }
        let at = |stage: StageIndex| {
            let facts = self.blueprint.stages.get(usize::from(stage)).filter(|_| stage > 0);
            facts.map(|facts| self.blueprint.spec.border(facts.layers.start))
        };
        let (takes, gives) = (at(stage), at(stage + 1));
        Box::new(move || Ok(Box::new(Narrowing::of(load()?, takes, gives)) as Box<dyn Executor>))
    }
}
