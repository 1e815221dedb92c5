//! What is to be served: a pipeline folder, or a model folder that is cut in memory.

use crate::executor::load_executor;
use sha2::{Digest, Sha256};
use stageline_base::{Border, Element, Fault, StageIndex};
use stageline_door::stages::StageFacts;
use stageline_engine::{Loader, Runner, Setup};
use stageline_model::split::{PlanOrder, pipeline_name, plan_only};
use stageline_model::{Checkpoint, ModelSpec};
use stageline_plan::Goal;
use stageline_shard::{Files, PipelineFolder};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a log line says how far a shard has been read: a pod has no terminal that a bar would show on.
const SAID_EVERY: Duration = Duration::from_secs(5);

/// A model, cut.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The pipeline's name.
    pub name: String,
    /// What names the cut on the wire.
    pub digest: [u8; 32],
    /// The model.
    pub spec: ModelSpec,
    /// tokenizer.json and its companions.
    pub files: Files,
    /// The stages.
    pub stages: Vec<StageFacts>,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Pipeline(Arc<PipelineFolder>),
    Model(Arc<Checkpoint>),
}

impl Blueprint {
    /// Opens `dir`: a pipeline folder as it is, a model folder cut into `stages` (1 if not said) for `goal`.
    ///
    /// # Errors
    /// `InvalidRequest` that says what is wrong with the folder, or that it has another number of stages.
    pub fn open(dir: &Path, stages: Option<usize>, goal: Goal) -> Result<Self, Fault> {
        match PipelineFolder::is_at(dir)? {
            true => Self::of_pipeline(PipelineFolder::open(dir)?, stages),
            false => Self::of_model(dir, stages, goal),
        }
    }

    /// Opens the pipeline folder `dir` to serve `stage`; other stages' shards need not be there.
    ///
    /// # Errors
    /// `InvalidRequest` that says what is wrong with the folder.
    pub fn open_stage(dir: &Path, stage: StageIndex) -> Result<Self, Fault> {
        Self::of_pipeline(PipelineFolder::open_for(dir, stage.into())?, None)
    }

    fn of_pipeline(folder: PipelineFolder, stages: Option<usize>) -> Result<Self, Fault> {
        let manifest = folder.manifest();
        if let Some(asked) = stages.filter(|asked| *asked != manifest.stages.len()) {
            return Err(Fault::invalid(format!(
                "{} is cut into {} stages, not {asked}: leave --stages out, or split the model again",
                folder.dir().display(),
                manifest.stages.len()
            )));
        }
        let facts = manifest.stages.iter().map(|stage| StageFacts {
            layers: stage.units[0]..stage.units[1],
            parameters: stage.parameters,
            cost: stage.cost,
        });
        Ok(Self {
            name: manifest.name.clone(),
            digest: manifest.digest(),
            spec: ModelSpec::of_pipeline(manifest)?,
            files: folder.files().clone(),
            stages: facts.collect(),
            source: Source::Pipeline(Arc::new(folder)),
        })
    }

    fn of_model(dir: &Path, stages: Option<usize>, goal: Goal) -> Result<Self, Fault> {
        let checkpoint = Checkpoint::open(dir)?;
        let order = PlanOrder { stages: stages.unwrap_or(1), goal, max_num_seqs: 1, ..PlanOrder::default() };
        let cut = plan_only(&checkpoint, &order)?.cut;
        let facts: Vec<StageFacts> = cut
            .stages
            .iter()
            .map(|stage| StageFacts { layers: stage.units.clone(), parameters: stage.parameters, cost: stage.cost })
            .collect();
        let words = format!("{} {:?}", checkpoint.config, facts);
        Ok(Self {
            name: pipeline_name(dir).map_or_else(|_| "embedded".into(), |made| made.name),
            digest: Sha256::digest(words.as_bytes()).into(),
            spec: checkpoint.spec.clone(),
            files: Files::of_model(&checkpoint.dir)?,
            stages: facts,
            source: Source::Model(Arc::new(checkpoint)),
        })
    }

    /// What crosses in front of each stage, numbers between two of them as `wire_dtype`, and the answer behind the last.
    pub fn borders(&self, wire_dtype: Element) -> Vec<Border> {
        let front = |stage: &StageFacts| match self.spec.border(stage.layers.start) {
            border if stage.layers.start > 0 && wire_dtype == Element::Bf16 => border.narrowed(),
            border => border,
        };
        self.stages.iter().map(front).chain([self.spec.answer()]).collect()
    }

    /// What loads the executor of `stage`. `progress` is told how many bytes have been read so far.
    pub fn loader(&self, stage: StageIndex, setup: Setup, progress: impl FnMut(u64) + Send + 'static) -> Loader {
        let (source, spec) = (self.source.clone(), self.spec.clone());
        let layers = self.stages[usize::from(stage)].layers.clone();
        Box::new(move || {
            let begun = Instant::now();
            let (mut progress, mut said) = (progress, begun);
            let mut progress = move |read_bytes| {
                if said.elapsed() >= SAID_EVERY {
                    said = Instant::now();
                    tracing::info!(stage, read_bytes, "loading");
                }
                progress(read_bytes);
            };
            let executor = match source {
                // The hash is computed beside the loading; a damaged shard must not serve.
                Source::Pipeline(folder) if matches!(setup.runner, Runner::Engine(_)) => {
                    let (shard, proof) = folder.open_stage(stage.into())?;
                    let executor = load_executor(&shard, &spec, layers, setup, &mut progress)?;
                    proof.wait()?;
                    executor
                }
                Source::Pipeline(folder) => {
                    let (shard, proof) = folder.read_stage(stage.into(), progress)?;
                    let executor = load_executor(&shard, &spec, layers, setup, &mut |_| {})?;
                    proof.wait()?;
                    executor
                }
                Source::Model(checkpoint) => load_executor(checkpoint.as_ref(), &spec, layers, setup, &mut progress)?,
            };
            tracing::info!(stage, ms = begun.elapsed().as_millis() as u64, "loaded");
            Ok(executor)
        })
    }
}
