//! Pipelines of three stages for processes: a small one for the executor without a model, whose answers can be as long as a
//! test needs and show whatever row was lost or mixed up, and a real one.

use crate::nats::NatsServer;
use crate::places::Place;
use crate::programs::{Belongings, Environment, FAKE, Program};
use crate::real_models::{SMOLLM2, model_dir};
use crate::tiny;
use stageline_engine::fake::expected;
use std::path::PathBuf;

pub const STAGES: usize = 3;
/// Longest sequence of the small model: nobody reads it to its end.
const MAX_LEN: u32 = 200_000;
/// Its tokens are below this.
const VOCAB: u32 = 40;
/// `max_tokens` of an answer that must not end by itself; the KV cache holds two of them.
pub const ENDLESS: u32 = 90_000;
/// `max_tokens` of an answer that lasts some seconds.
pub const LONG: u32 = 6000;
/// A prompt for the small model.
pub const PROMPT: [u32; 5] = [1, 2, 3, 4, 5];

/// A pipeline folder.
pub struct Pipeline {
    folder: tempfile::TempDir,
    /// What a stage of it needs to be told.
    fake: bool,
    settings: Vec<&'static str>,
}

impl Pipeline {
    /// Stages that compute nothing; see [`right_ids`].
    pub fn fake() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        let mut config = tiny::llama_config();
        config["max_position_embeddings"] = MAX_LEN.into();
        tiny::write(&model, &config, &tiny::file(&tiny::llama()));
        let tokenizer = model_dir(SMOLLM2).join("tokenizer.json");
        std::fs::copy(tokenizer, model.join("tokenizer.json")).expect("a tokenizer");
        tiny::run(&tiny::order(&model, &folder.path().join("pipeline"), STAGES)).expect("the split");
        Self { folder, fake: true, settings: Vec::new() }
    }

    /// SmolLM2.
    pub fn real() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        tiny::run(&tiny::order(&model_dir(SMOLLM2), &folder.path().join("pipeline"), STAGES)).expect("the split");
        Self {
            folder,
            fake: false,
            settings: vec!["--max-num-seqs", "4", "--max-model-len", "256", "--max-batch-tokens", "64"],
        }
    }

    /// Its name, as the manifest says.
    pub fn name(&self) -> String {
        let manifest = std::fs::read(self.path().join("pipeline.json")).expect("a manifest");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        manifest["name"].as_str().expect("a name").to_owned()
    }

    /// The same, whose stages are told this too.
    pub fn with(mut self, settings: &[&'static str]) -> Self {
        self.settings.extend(settings);
        self
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("pipeline")
    }

    /// A process of `stageline VERB` for it, with `more` arguments.
    pub fn program(&self, verb: &[&str], more: &[&str]) -> Program {
        self.program_in(&[], verb, more)
    }

    fn program_in(&self, environment: Environment, verb: &[&str], more: &[&str]) -> Program {
        let path = self.path();
        let place = ["--http", "127.0.0.1:0", "--threads", "1"];
        let pipeline = match verb {
            ["serve"] => vec!["--pipeline", path.to_str().expect("a plain path")],
            _ => vec![path.to_str().expect("a plain path")],
        };
        let environment = [if self.fake { FAKE } else { &[] }, environment].concat();
        Program::start_in(&environment, &[verb, &pipeline, &place, &self.settings, more].concat())
    }
}

/// The ids that a fake pipeline makes of [`PROMPT`].
pub fn right_ids(tokens: u32) -> Vec<u32> {
    expected(&PROMPT, STAGES as u16, VOCAB, tokens as usize)
}

/// A process a stage, joined by a real broker.
pub struct Cluster {
    pub pipeline: Pipeline,
    pub broker: NatsServer,
    /// Whether the broker has the users that are shipped.
    users: bool,
    stages: Vec<(Program, Place)>,
}

impl Cluster {
    /// Three `stageline serve`, all ready.
    pub async fn start(pipeline: Pipeline) -> Self {
        let broker = NatsServer::start().await;
        Self::start_on(broker, false, pipeline).await
    }

    /// As [`Self::start`], each stage as its own user of a broker that has the users that are shipped.
    pub async fn start_with_users(pipeline: Pipeline, broker: NatsServer) -> Self {
        Self::start_on(broker, true, pipeline.with(&["--name", "smollm2"])).await
    }

    async fn start_on(broker: NatsServer, users: bool, pipeline: Pipeline) -> Self {
        let mut cluster = Self { pipeline, broker, users, stages: Vec::new() };
        let programs: Vec<Program> = (0..STAGES).map(|stage| cluster.serve(&[], stage)).collect();
        for (stage, program) in programs.into_iter().enumerate() {
            let place = Place::new(stage, program.ready(stage, 1).await);
            cluster.stages.push((program, place));
        }
        cluster
    }

    fn serve(&self, environment: Environment, stage: usize) -> Program {
        let user = ["door", "stage-1", "stage-2"][stage];
        let url = if self.users { self.broker.url_of(user) } else { self.broker.url() };
        let stage = stage.to_string();
        self.pipeline.program_in(environment, &["serve"], &["--stage", &stage, "--nats", &url])
    }

    /// One more process that serves `stage`, told `more`.
    pub async fn another(&self, stage: usize, more: &[&str]) -> (Program, Place) {
        let (number, url) = (stage.to_string(), self.broker.url());
        let program = self.pipeline.program(&["serve"], &[&["--stage", &number, "--nats", &url], more].concat());
        let place = Place::new(stage, program.ready(stage, 1).await);
        (program, place)
    }

    /// Kills a stage's process.
    pub async fn kill(&mut self, stage: usize) {
        self.stages[stage].0.kill().await;
    }

    /// Starts a new process in the place of one that was killed.
    pub async fn start_again(&mut self, stage: usize) {
        self.start_again_in(&[], stage).await;
    }

    /// As [`Self::start_again`], with these in its environment.
    pub async fn start_again_in(&mut self, environment: Environment<'_>, stage: usize) {
        let program = self.serve(environment, stage);
        let place = Place::new(stage, program.ready(stage, 1).await);
        self.stages[stage] = (program, place);
    }

    /// The process of a stage.
    pub fn process(&mut self, stage: usize) -> &mut Program {
        &mut self.stages[stage].0
    }

    /// Whether the log of a stage's process holds what `find` looks for, so far.
    pub fn log(&self, stage: usize, find: impl Fn(&[String]) -> bool) -> bool {
        self.stages[stage].0.log(find)
    }

    /// What a stage's process has open, runs and shares.
    pub fn belongings(&self, stage: usize) -> Belongings {
        self.stages[stage].0.belongings()
    }

    /// Where a stage serves HTTP.
    pub fn place(&self, stage: usize) -> Place {
        self.stages[stage].1.clone()
    }

    /// Waits until each of `stages` holds so many sequences and blocks for them.
    pub async fn hold(&self, stages: &[usize], sequences: u64) {
        for stage in stages {
            self.place(*stage).holds(sequences).await;
        }
    }
}
