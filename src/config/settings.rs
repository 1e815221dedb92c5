//! Every setting there is. Flag, variable, key of the file, default and `--help` all come from here.

use crate::config::setting::{Group, Setting};

/// Where the settings' file is. Not a key of that file.
pub const CONFIG: Setting =
    Setting::value("config", "FILE", "Read settings from this file (default: stageline.toml of this folder, if there)");

pub const MODEL: Setting = Setting::value(
    "model",
    "MODEL_DIR",
    "Hugging Face folder: config.json, model.safetensors (or a sharded index), tokenizer.json",
)
.positional();
pub const OUT: Setting = Setting::value("out", "DIR", "Folder for pipeline.json and one shard a stage");
pub const PIPELINE: Setting = Setting::value("pipeline", "DIR", "Pipeline folder, as `stageline split` writes it");
pub const INSPECTED: Setting = PIPELINE.positional();
pub const FOLDER: Setting = Setting::value(
    "pipeline",
    "PIPELINE_OR_MODEL_DIR",
    "Pipeline folder, or a Hugging Face folder to cut in memory (see --stages)",
)
.positional();
pub const NAME: Setting =
    Setting::value("name", "NAME", "Name of the pipeline (default: the manifest's, or the folder's)");
pub const STAGE: Setting = Setting::value("stage", "K", "Which stage to serve, from 0; stage 0 takes the requests");

pub const STAGES: Setting = Setting::value("stages", "N", "Number of stages");
pub const STAGES_OR_ONE: Setting =
    Setting::value("stages", "N", "Number of stages that a Hugging Face folder is cut into (default: 1)");
pub const BALANCE: Setting =
    Setting::value("balance", "cost|params", "What the stages get equal shares of: time per decode row, or parameters")
        .or("cost");
pub const STAGE_MEMORY: Setting = Setting::value(
    "stage_memory",
    "BYTES,...",
    "Memory of each stage for weights and KV cache, one value for all or one a stage, as in 8GiB",
);

pub const DEVICE: Setting = Setting::value("device", "cpu|cuda:N", "Device that runs the layers").or("cpu");
pub const THREADS: Setting =
    Setting::value("threads", "N", "Compute threads of this process (default: all cores)").also("RAYON_NUM_THREADS");
pub const EXECUTOR: Setting =
    Setting::value("executor", "candle|fake", "`fake` computes nothing, for measuring the server itself")
        .or("candle")
        .hidden();

pub const MAX_NUM_SEQS: Setting =
    Setting::value("max_num_seqs", "N", "Most sequences that are live at once on a stage").or("64");
pub const MAX_MODEL_LEN: Setting =
    Setting::value("max_model_len", "TOKENS", "Longest sequence, prompt and answer together (default: the model's)");
pub const MAX_BATCH_TOKENS: Setting =
    Setting::value("max_batch_tokens", "TOKENS", "Most rows of a batch; a longer prompt goes in chunks").or("256");
pub const MAX_BATCH_DELAY_US: Setting =
    Setting::value("max_batch_delay_us", "MICROSECONDS", "How long a stage waits for a fuller batch").or("0");
pub const BLOCK_SIZE: Setting = Setting::value("block_size", "TOKENS", "Tokens of a KV cache block").or("16");
pub const KV_BLOCKS: Setting = Setting::value(
    "kv_blocks",
    "N",
    "KV cache blocks of a stage (default: enough for max_num_seqs sequences of 2048 tokens, or shorter where \
     max_model_len is)",
);
pub const MICROBATCHES: Setting =
    Setting::value("microbatches", "N", "Decode batches under way at once (default: one for each device on the path)");
pub const MICROBATCHES_AWAY: Setting =
    Setting::value("microbatches_away", "N", "Of these, how many at once, for measuring what overlap gains").hidden();
pub const MAX_QUEUE: Setting =
    Setting::value("max_queue", "N", "Most requests that wait at the door; more are refused with 429").or("1024");

pub const HTTP: Setting =
    Setting::value("http", "ADDR", "Address of the HTTP door, health and metrics").or("0.0.0.0:8080");
pub const MAX_INFLIGHT: Setting =
    Setting::value("max_inflight", "N", "Most requests at once, 0 for no limit; more are refused with 429")
        .or("0")
        .also("max_inflight");
pub const EXEC_TIMEOUT: Setting = Setting::value(
    "exec_timeout",
    "DURATION",
    "Deadline of a request that names none, and the longest it may name; 0 for no limit",
)
.or("5m")
.also("exec_timeout");
pub const MAX_BODY_BYTES: Setting =
    Setting::value("max_body_bytes", "BYTES", "Largest request body; a larger one is refused with 413").or("4MiB");
pub const HEALTHCHECK_INTERVAL: Setting = Setting::value(
    "healthcheck_interval",
    "DURATION",
    "After SIGTERM: how long requests are still taken, so that whoever routes to us sees that we are not ready",
)
.or("5s")
.also("healthcheck_interval");

pub const NATS: Setting = Setting::value(
    "nats",
    "URL,...",
    "NATS server, with JetStream, that joins the stages (without it all stages share this process)",
);
pub const NATS_CREDS: Setting = Setting::value("nats_creds", "FILE", "Credentials file for NATS");

pub const HOP: Setting = Setting::value(
    "hop",
    "nats|grpc|shm",
    "How a stage sends to the next: through NATS, a gRPC stream, or memory shared on one host; never silently another",
)
.or("nats");
pub const HOP_LISTEN: Setting = Setting::value(
    "hop_listen",
    "ADDR",
    "Address at which the stage before joins this one for grpc and shm (default: a free port where --hop is one of them)",
);
pub const HOP_ADVERTISE: Setting = Setting::value(
    "hop_advertise",
    "HOST[:PORT]",
    "How the stage before reaches that address (default: itself, or this host's address towards the broker)",
);

pub const PROMPT: Setting = Setting::list("prompt", "TEXT", "A prompt; may be repeated, and all run at once");
pub const PROMPT_FILE: Setting =
    Setting::value("prompt_file", "FILE", "A file with a prompt a line, or - for standard input");
pub const CHAT: Setting =
    Setting::switch("chat", "Lay each prompt out as a user's message, by the model's chat template");
pub const JSON: Setting = Setting::switch("json", "Print JSON for programs instead of text for people");
pub const ADDRESS: Setting =
    Setting::value("address", "ADDRESS", "Where the stage serves HTTP and gRPC, such as 127.0.0.1:8080").positional();
pub const TOKENS: Setting = Setting::value("tokens", "IDS", "Token ids to run through stage 0, such as 1,2,3");
pub const ROWS: Setting =
    Setting::value("rows", "FILE", "A safetensors file whose tensor `rows` is to be run through the stage");
pub const SAVE: Setting =
    Setting::value("save", "FILE", "Where to put what comes out, as the tensor `rows` of a safetensors file");
pub const TIMEOUT: Setting =
    Setting::value("timeout", "DURATION", "When to give the call up, on every stage of the pipeline").or("1m");
pub const VERIFY: Setting = Setting::switch("verify", "Also compute the SHA-256 of every file");

pub const MAX_TOKENS: Setting = Setting::value("max_tokens", "N", "Most tokens of an answer").or("256");
pub const TEMPERATURE: Setting = Setting::value("temperature", "T", "0 takes the likeliest token, always").or("0");
pub const TOP_K: Setting = Setting::value("top_k", "K", "Draw from the K likeliest tokens only; 0 for all").or("0");
pub const TOP_P: Setting =
    Setting::value("top_p", "P", "Draw from the likeliest tokens that make up this probability only").or("1");
pub const REPETITION_PENALTY: Setting =
    Setting::value("repetition_penalty", "R", "Above 1 makes tokens that were there before less likely").or("1");
pub const SEED: Setting = Setting::value("seed", "N", "Makes what is drawn repeatable (default: a new one each time)");
pub const STOP: Setting = Setting::list("stop", "TEXT", "End the answer before this text; may be repeated");
pub const TOP_LOGITS: Setting =
    Setting::value("top_logits", "N", "With --json: also print the N largest logits of each token").or("0");

pub const LOG_FORMAT: Setting =
    Setting::value("log_format", "text|json", "Form of the log, which goes to standard error").or("text");
pub const LOG_LEVEL: Setting = Setting::value(
    "log_level",
    "LEVEL",
    "error, warn, info, debug or trace, or rules such as info,stageline::transport=debug",
)
.or("info")
.also("RUST_LOG");
pub const LOG_LEVEL_QUIET: Setting = LOG_LEVEL.or("warn");

pub const DEVICES: Group = Group { heading: "Device", settings: &[DEVICE, THREADS, EXECUTOR] };
pub const BATCHING: Group = Group {
    heading: "Batching and KV cache",
    settings: &[
        MAX_NUM_SEQS,
        MAX_MODEL_LEN,
        MAX_BATCH_TOKENS,
        MAX_BATCH_DELAY_US,
        BLOCK_SIZE,
        KV_BLOCKS,
        MICROBATCHES,
        MICROBATCHES_AWAY,
        MAX_QUEUE,
    ],
};
pub const DOOR: Group = Group {
    heading: "Door",
    settings: &[HTTP, NAME, MAX_INFLIGHT, EXEC_TIMEOUT, MAX_BODY_BYTES, HEALTHCHECK_INTERVAL],
};
pub const BROKER: Group = Group { heading: "NATS", settings: &[NATS, NATS_CREDS] };
pub const HOPS: Group = Group { heading: "Hop to the next stage", settings: &[HOP, HOP_LISTEN, HOP_ADVERTISE] };
pub const HOPS_OF_ALL: Group = Group { heading: HOPS.heading, settings: &[HOP] };
pub const SOURCE: Group = Group { heading: "Model", settings: &[FOLDER, STAGES_OR_ONE, BALANCE] };
pub const PROMPTS: Group = Group { heading: "Prompts", settings: &[PROMPT, PROMPT_FILE] };
pub const SAMPLING: Group = Group {
    heading: "Answers",
    settings: &[MAX_TOKENS, TEMPERATURE, TOP_K, TOP_P, REPETITION_PENALTY, SEED, STOP, TOP_LOGITS],
};
pub const LOGGING: Group = Group { heading: "Logging and settings", settings: &[LOG_FORMAT, LOG_LEVEL, CONFIG] };
pub const LOGGING_QUIET: Group = Group { heading: LOGGING.heading, settings: &[LOG_FORMAT, LOG_LEVEL_QUIET, CONFIG] };
