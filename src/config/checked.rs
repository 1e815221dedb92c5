//! The settings as the program uses them: every value read, every rule between them checked.

use stageline_base::{AskedSampling, Element, StageIndex};
use stageline_engine::Numbers;
use stageline_engine::fake::Script;
use stageline_plan::Goal;
use stageline_server::Keeping;
use stageline_transport::{HopKind, HopSettings};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What was asked for on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// How to log.
    pub logging: LoggingConfig,
    /// What to do.
    pub verb: VerbConfig,
}

/// A subcommand and its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum VerbConfig {
    /// `stageline split`.
    Split(SplitConfig),
    /// `stageline serve`.
    Serve(ServeConfig),
    /// `stageline up`.
    Up(UpConfig),
    /// `stageline run`.
    Run(RunConfig),
    /// `stageline call`.
    Call(CallConfig),
    /// `stageline load`.
    Load(crate::config::LoadConfig),
    /// `stageline flow`.
    Flow(Box<crate::config::FlowConfig>),
    /// `stageline requests`.
    Requests(crate::config::RequestsConfig),
    /// `stageline inspect`.
    Inspect(InspectConfig),
    /// `stageline demo`.
    Demo(DemoConfig),
}

/// What measurements ask for, and no setting does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// What batches cost, instead of any computing.
    pub script: Option<Script>,
    /// How many decode batches are under way at once, of those that there are.
    pub microbatches_away: Option<u32>,
}

impl VerbConfig {
    /// Has it do what `measured` asks for, where it serves stages.
    pub fn measure(&mut self, measured: Measured) {
        let (device, batching) = match self {
            Self::Serve(config) => (&mut config.device, &mut config.batching),
            Self::Up(config) => (&mut config.device, &mut config.batching),
            Self::Run(config) => (&mut config.device, &mut config.batching),
            Self::Demo(config) => (&mut config.device, &mut config.batching),
            Self::Flow(config) => (&mut config.device, &mut config.batching),
            Self::Load(crate::config::LoadConfig::Run(config)) => (&mut config.device, &mut config.batching),
            Self::Split(_) | Self::Call(_) | Self::Requests(_) | Self::Inspect(_) | Self::Load(_) => {
                return;
            }
        };
        device.script = measured.script;
        batching.microbatches_away = measured.microbatches_away;
    }
}

/// `stageline call`: which stage, and what it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct CallConfig {
    /// Host and port.
    pub address: String,
    /// What it is asked.
    pub ask: Ask,
    /// How it answers prompts.
    pub answer: AnswerConfig,
    /// When the call is given up.
    pub timeout: Duration,
    /// JSON rather than text.
    pub json: bool,
}

/// What a stage is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// How it is.
    Status,
    /// Answers to these prompts.
    Prompts(Vec<String>),
    /// To run rows, and where to put what comes out.
    Run(Rows, Option<PathBuf>),
}

/// Rows for a stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// Token ids.
    Tokens(Vec<u32>),
    /// The tensor `rows` of a safetensors file.
    File(PathBuf),
}

/// Where layers run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU.
    #[default]
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl DeviceName {
    /// `max_batch_tokens`, if nobody says: a GPU reads its weights once for all rows of a batch, and is not full at a few.
    pub fn usual_batch_tokens(self) -> u32 {
        match self {
            Self::Cpu => 256,
            Self::Cuda(_) => 2048,
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// How to log.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggingConfig {
    /// Form of the lines.
    pub format: LogFormat,
    /// Rules of `tracing_subscriber::EnvFilter`, already found to be right.
    pub level: String,
}

/// The device and its threads.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceConfig {
    /// Which device.
    pub device: DeviceName,
    /// Compute threads of the process; `None` is all cores.
    pub threads: Option<usize>,
    /// The numbers that layers are computed with; `None` follows from the device and the model.
    pub numbers: Option<Numbers>,
    /// Part of the device's memory that the process may take.
    pub share: f32,
    /// How long the device may be at a batch; `None` is for ever.
    pub timeout: Option<Duration>,
    /// What batches cost where nothing is computed. No setting: see [`Measured`].
    pub script: Option<Script>,
}

/// Batching and KV memory of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchingConfig {
    /// Most live sequences.
    pub max_num_seqs: u32,
    /// Longest sequence in tokens; `None` is the model's longest.
    pub max_model_len: Option<u32>,
    /// Most rows of a batch; `None` is [`DeviceName::usual_batch_tokens`].
    pub max_batch_tokens: Option<u32>,
    /// How long to wait for a fuller batch.
    pub max_batch_delay: Duration,
    /// Tokens of a KV block.
    pub block_size: u32,
    /// KV blocks of a stage; see [`BatchingConfig::for_model`].
    pub kv_blocks: Option<u32>,
    /// Decode batches under way at once; `None` is one a device on the path.
    pub microbatches: Option<u32>,
    /// Of these, how many at once; `None` is all. No setting: see [`Measured`].
    pub microbatches_away: Option<u32>,
    /// Most requests that wait at the door.
    pub max_queue: u32,
    /// What numbers that cross between stages are: f32 or bf16.
    pub wire_dtype: Element,
}

/// What [`BatchingConfig`] comes to for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Longest sequence in tokens.
    pub max_model_len: u32,
    /// KV blocks of each stage, if its memory is not asked.
    pub kv_blocks: u32,
    /// Fewest and most of them where a stage takes as many as its device has room for: for one sequence of the longest, and
    /// for all of them. Both are [`Self::kv_blocks`] if the settings say a number.
    pub fitting_kv_blocks: (u32, u32),
}

/// The HTTP door, health and metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct DoorConfig {
    /// Where it listens.
    pub http: SocketAddr,
    /// Name of the pipeline; `None` is the manifest's.
    pub name: Option<String>,
    /// Where operators' calls and metrics are; `None` is at `http`.
    pub admin: Option<SocketAddr>,
    /// Most requests at once; `None` is no limit.
    pub max_inflight: Option<u32>,
    /// Whether `/_/ready` says no while there are so many.
    pub unready_when_full: bool,
    /// Most connections at once.
    pub max_connections: usize,
    /// Most connections at once from one address; 0 is no limit.
    pub max_connections_per_peer: usize,
    /// Deadline of a request that names none, and the longest that one may name; `None` is no limit.
    pub exec_timeout: Option<Duration>,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// How long requests are still taken after SIGTERM.
    pub healthcheck_interval: Duration,
    /// How long after SIGTERM what is left is ended or given back.
    pub drain_timeout: Duration,
    /// How long a request may wait for room.
    pub queue_timeout: Duration,
    /// How long a request waits for a stage that is missing.
    pub stage_timeout: Duration,
    /// The file with clients' keys; `None` asks nobody who it is.
    pub api_keys: Option<PathBuf>,
    /// How durable requests are kept.
    pub keeping: Keeping,
}

/// The NATS servers that join the stages.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsConfig {
    /// Servers of one cluster, with their scheme; at least one.
    pub urls: Vec<String>,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// A user, and the file with its password.
    pub user: Option<(String, PathBuf)>,
}

/// What to run a pipeline from, in one process.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceConfig {
    /// A pipeline folder, or a Hugging Face folder.
    pub folder: PathBuf,
    /// Stages that a Hugging Face folder is cut into, or that a pipeline folder must have; `None` is 1, or what it has.
    pub stages: Option<usize>,
    /// What the cut evens out.
    pub goal: Goal,
}

/// `stageline split`.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitConfig {
    /// Hugging Face folder.
    pub model: PathBuf,
    /// Where the pipeline folder goes.
    pub out: PathBuf,
    /// Number of stages.
    pub stages: usize,
    /// What the cut evens out.
    pub goal: Goal,
    /// Memory in bytes, weights and KV cache together: empty is no cap, one is for every stage, else one a stage.
    pub stage_memory: Vec<u64>,
    /// Name of the pipeline; `None` is the folder's.
    pub name: Option<String>,
    /// Sequences that the KV cache must hold.
    pub max_num_seqs: u32,
    /// Length of each of them in tokens; `None` is the model's longest.
    pub max_model_len: Option<u32>,
    /// The device on which units are measured; `None` is an estimate.
    pub measure: Option<DeviceConfig>,
    /// Print JSON.
    pub json: bool,
}

/// `stageline serve`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeConfig {
    /// Pipeline folder.
    pub pipeline: PathBuf,
    /// Which stage.
    pub stage: StageIndex,
    /// The broker; `None` only where the pipeline has one stage.
    pub nats: Option<NatsConfig>,
    /// The way to the next stage.
    pub hop: HopSettings,
    /// HTTP.
    pub door: DoorConfig,
    /// The device.
    pub device: DeviceConfig,
    /// Batching.
    pub batching: BatchingConfig,
}

/// `stageline up`.
#[derive(Clone, Debug, PartialEq)]
pub struct UpConfig {
    /// What to serve.
    pub source: SourceConfig,
    /// The broker; `None` is one process for all stages.
    pub nats: Option<NatsConfig>,
    /// How each stage sends to the next, where each is a process.
    pub hop: HopKind,
    /// HTTP.
    pub door: DoorConfig,
    /// The device.
    pub device: DeviceConfig,
    /// Batching.
    pub batching: BatchingConfig,
}

/// Prompts, and where more of them are.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptsConfig {
    /// Given on the command line.
    pub given: Vec<String>,
    /// A file with one a line.
    pub file: Option<PromptFile>,
}

/// A file of prompts.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptFile {
    /// Standard input.
    StandardInput,
    /// This file.
    Path(PathBuf),
}

/// How to make answers.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerConfig {
    /// Most tokens.
    pub max_tokens: u32,
    /// How their tokens are drawn.
    pub sampling: AskedSampling,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
}

/// `stageline run`.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// What to run.
    pub source: SourceConfig,
    /// What to answer.
    pub prompts: PromptsConfig,
    /// Whether each prompt is a user's message of a conversation.
    pub chat: bool,
    /// Print JSON.
    pub json: bool,
    /// How to answer.
    pub answer: AnswerConfig,
    /// The device.
    pub device: DeviceConfig,
    /// Batching.
    pub batching: BatchingConfig,
}

/// `stageline inspect`.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectConfig {
    /// Pipeline folder.
    pub pipeline: PathBuf,
    /// Print JSON.
    pub json: bool,
    /// Also compute every file's SHA-256.
    pub verify: bool,
}

/// `stageline demo`.
#[derive(Clone, Debug, PartialEq)]
pub struct DemoConfig {
    /// Pipeline folder.
    pub pipeline: PathBuf,
    /// The broker; `None` is one process for all stages.
    pub nats: Option<NatsConfig>,
    /// The device.
    pub device: DeviceConfig,
    /// Batching.
    pub batching: BatchingConfig,
}
