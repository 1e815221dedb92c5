//! Every setting there is. Flag, variable, key of the file, default and `--help` all come from here.

use crate::config::setting::{Group, Setting};

mod durable;
mod flow;

pub use durable::*;
pub use flow::*;

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
    Setting::value("balance", "cost|params", "What the stages get equal shares of: time a request, or parameters")
        .or("cost");
pub const MIX: Setting = Setting::value(
    "mix",
    "PROMPT:ANSWER",
    "The usual request, whose time counts: tokens of its prompt and of its answer (an encoder's answer is 1)",
)
.or("512:128");
pub const MEASURE: Setting = Setting::switch(
    "measure",
    "Measure what each unit of the model costs on this machine's device, rather than estimate it from its weights",
);
pub const STAGE_MEMORY: Setting = Setting::value(
    "stage_memory",
    "BYTES,...",
    "Memory of each stage for weights and KV cache, one value for all or one a stage, as in 8GiB",
);

pub const DEVICE: Setting = Setting::value("device", "cpu|cuda:N", "Device that runs the layers").or("cpu");
pub const THREADS: Setting =
    Setting::value("threads", "N", "Compute threads of this process (default: all cores)").also("RAYON_NUM_THREADS");
pub const DTYPE: Setting = Setting::value(
    "dtype",
    "f32|bf16|f16",
    "Numbers that layers are computed with: f32 by candle, bf16 and f16 by the decode engine (default: bf16 for a decoder on a GPU, else f32)",
);

pub const DEVICE_SHARE: Setting = Setting::value(
    "device_share",
    "PART",
    "Part of the memory that is there that this process may take for itself, up to 1: of the device's with --dtype bf16 or f16, of what is left for a KV cache on the CPU; `up` shares it out among its stages",
)
.or("1");
pub const DEVICE_TIMEOUT: Setting = Setting::value(
    "device_timeout",
    "DURATION",
    "How long a CUDA device may be at one batch before this process ends, so that a hung device holds nobody up; 0 for ever",
)
.or("5m");

pub const MAX_NUM_SEQS: Setting =
    Setting::value("max_num_seqs", "N", "Most sequences that are live at once on a stage").or("64");
pub const MAX_MODEL_LEN: Setting =
    Setting::value("max_model_len", "TOKENS", "Longest sequence, prompt and answer together (default: the model's)");
pub const MAX_BATCH_TOKENS: Setting = Setting::value(
    "max_batch_tokens",
    "TOKENS",
    "Most rows of a batch; a longer prompt goes in chunks (default: 256, and 2048 on a CUDA device)",
);
pub const MAX_BATCH_DELAY_US: Setting =
    Setting::value("max_batch_delay_us", "MICROSECONDS", "How long a stage waits for a fuller batch").or("0");
pub const BLOCK_SIZE: Setting = Setting::value("block_size", "TOKENS", "Tokens of a KV cache block").or("16");
pub const KV_BLOCKS: Setting = Setting::value(
    "kv_blocks",
    "N",
    "KV cache blocks of a stage (default: as many as there is room for beside the weights, up to max_num_seqs sequences of \
     the longest: on the CPU within the process's memory limits, or half of what the machine has free; with --dtype f32 \
     on a CUDA device, enough for sequences of 2048 tokens)",
);
pub const MICROBATCHES: Setting =
    Setting::value("microbatches", "N", "Decode batches under way at once (default: one for each device on the path)");
pub const WIRE_DTYPE: Setting = Setting::value(
    "wire_dtype",
    "f32|bf16",
    "Numbers that cross between stages: bf16 halves what every hop carries, and rounds; all stages of a pipeline need the same",
)
.or("f32");
pub const MAX_QUEUE: Setting =
    Setting::value("max_queue", "N", "Most requests that wait at the door; more are refused with 429").or("1024");

pub const QUEUE_TIMEOUT: Setting = Setting::value(
    "queue_timeout",
    "DURATION",
    "How long a request may wait for room: what cannot start in time, by how fast those before it get on, is refused with 429",
)
.or("1s");
pub const STAGE_TIMEOUT: Setting = Setting::value(
    "stage_timeout",
    "DURATION",
    "How long a request waits for a stage that is missing, loading or about to end; then it is refused with 503",
)
.or("30s");

pub const HTTP: Setting =
    Setting::value("http", "ADDR", "Address of the HTTP door, health and metrics").or("127.0.0.1:8080");
pub const MAX_INFLIGHT: Setting =
    Setting::value("max_inflight", "N", "Most requests at once, 0 for no limit; more are refused with 429")
        .or("0")
        .also("max_inflight");
pub const UNREADY_WHEN_FULL: Setting = Setting::switch(
    "unready_when_full",
    "Say 429 at /_/ready while there are max_inflight requests, so that whoever routes goes to another replica",
);
pub const MAX_CONNECTIONS: Setting = Setting::value(
    "max_connections",
    "N",
    "Most connections at once; for one more, the one that has waited longest for a request is closed",
)
.or("4096");
pub const MAX_CONNECTIONS_PER_PEER: Setting = Setting::value(
    "max_connections_per_peer",
    "N",
    "Most connections at once from one address, 0 for no limit (behind a gateway all clients have one address)",
)
.or("0");
pub const ADMIN: Setting = Setting::value(
    "admin",
    "ADDR",
    "Address for Run, Status, reflection and metrics, which are then no longer at the HTTP address (default: all are there)",
);
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

pub const DRAIN_TIMEOUT: Setting = Setting::value(
    "drain_timeout",
    "DURATION",
    "After SIGTERM, healthcheck_interval included: when what is left is ended, or given back to be replayed elsewhere; less than the \
     platform waits before it kills",
)
.or("25s")
.also("drain_timeout");

pub const NATS: Setting = Setting::value(
    "nats",
    "URL,...",
    "NATS server, with JetStream, that joins the stages (without it all stages share this process)",
);
pub const NATS_CREDS: Setting = Setting::value("nats_creds", "FILE", "Credentials file for NATS");
pub const NATS_USER: Setting = Setting::value(
    "nats_user",
    "NAME",
    "User for NATS, with --nats-password-file; a URL may hold both instead, nats://user:password@host:4222",
);
pub const NATS_PASSWORD_FILE: Setting =
    Setting::value("nats_password_file", "FILE", "File with that user's password, as a platform mounts a secret");

pub const HOP: Setting = Setting::value(
    "hop",
    "nats|grpc|shm",
    "How a stage sends to the next: through NATS, a gRPC stream, or memory shared on one host; never silently another",
)
.or("nats");
pub const HOP_LISTEN: Setting = Setting::value(
    "hop_listen",
    "ADDR",
    "Address at which the stage before joins this one for grpc and shm (default: a free port of the loopback where --hop is one of them)",
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

/// Settings of `load`.
pub const LOAD_WORDS: Setting =
    Setting::list("reports", "compare A.json B.json", "Instead of a load: put two reports side by side").positional();
pub const TARGET: Setting = Setting::value(
    "target",
    "URL_OR_DIR",
    "http://HOST:PORT (function door), grpc://HOST:PORT, nats://HOST:PORT (with --name), or a pipeline or model folder to \
     run in this process",
);
pub const STREAM: Setting =
    Setting::switch("stream", "Read answers token by token, over http:// and nats:// (the others always do)");
pub const RUN_STAGE: Setting =
    Setting::switch("run", "Call one stage's layers (gRPC Run) rather than the pipeline's door");
pub const EMBEDS: Setting = Setting::switch("embed", "The server's model is an encoder: ask for vectors");
pub const RATE: Setting =
    Setting::value("rate", "R", "Open loop: R requests a second are sent, whatever the answers do");
pub const ARRIVALS: Setting =
    Setting::value("arrivals", "constant|poisson|bursts:N", "How an open loop's requests are spread").or("poisson");
pub const REPLAY: Setting = Setting::value(
    "replay",
    "FILE",
    "Open loop at the times of a file: seconds a line, or objects with at_ms and if wanted prompt, prompt_tokens and \
     output_tokens",
);
pub const CONCURRENCY: Setting = Setting::value(
    "concurrency",
    "N",
    "Closed loop: N requests at once, each followed by the next when it is answered (default: 1, if there is no --rate)",
);
pub const REQUESTS: Setting = Setting::value("requests", "N", "Stop after N requests (default: 100)");
pub const DURATION: Setting = Setting::value("duration", "DURATION", "Stop after this time instead, as in 30s");
pub const WARM_UP: Setting =
    Setting::value("warm_up", "N|DURATION", "What is sent first and not counted: requests, or a time as in 5s").or("0");
pub const DRAIN: Setting = Setting::value(
    "drain",
    "DURATION",
    "How long the last answers may take; those later still are counted as errors (unfinished)",
)
.or("30s");
pub const MAX_OUTSTANDING: Setting = Setting::value(
    "max_outstanding",
    "N",
    "Most requests out at once in an open loop; more wait in the harness, and the report says so",
)
.or("4096");
pub const LOAD_SEED: Setting =
    Setting::value("seed", "N", "Decides arrivals, lengths, prompts and sampling: the same seed is the same load")
        .or("1");
pub const PROMPT_TOKENS: Setting = Setting::value(
    "prompt_tokens",
    "LENGTH",
    "Lengths of prompts made of random tokens: 128, 16..256, normal:128,32, lognormal:128,64 or file:PATH",
)
.or("32");
pub const TOKEN_IDS: Setting =
    Setting::value("token_ids", "LOW..HIGH", "The ids that random prompts are made of").or("100..1000");
pub const LOAD_PROMPT_FILE: Setting =
    Setting::value("prompt_file", "FILE", "A file with a prompt a line, drawn from instead of random tokens");
pub const OUTPUT_TOKENS: Setting =
    Setting::value("output_tokens", "LENGTH", "Most tokens of each answer, in the same forms").or("16");
pub const DEADLINE: Setting =
    Setting::value("deadline", "DURATION", "Within which the server must answer each request");
pub const OBJECTIVE: Setting = Setting::value(
    "objective",
    "BOUNDS",
    "What a good request keeps, as in ttft=200ms,itl=50ms,e2e=2s (itl: its mean time between tokens)",
);
pub const SWEEP: Setting = Setting::value(
    "sweep",
    "LEVELS|auto",
    "Run several rates (with --rate) or concurrencies, as in 1,2,4,8, and find the knee; auto doubles, then bisects",
);
pub const KNEE: Setting =
    Setting::value("knee", "SHARE", "Share of good requests, 0 to 1, below which a load is past the knee").or("0.99");
pub const METRICS: Setting = Setting::value(
    "metrics",
    "URL,...",
    "Metrics of every stage's process, as in http://HOST:PORT (default: the target's own, over http:// and grpc://)",
);
pub const REPORT: Setting = Setting::value("out", "FILE", "Write the report as JSON");
pub const HTML: Setting = Setting::value("html", "FILE", "Write the report as one page with plots");

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

pub const DEVICES: Group =
    Group { heading: "Device", settings: &[DEVICE, THREADS, DTYPE, DEVICE_SHARE, DEVICE_TIMEOUT] };
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
        MAX_QUEUE,
        WIRE_DTYPE,
    ],
};
pub const DOOR: Group = Group {
    heading: "Door",
    settings: &[
        HTTP,
        ADMIN,
        NAME,
        API_KEYS,
        MAX_INFLIGHT,
        UNREADY_WHEN_FULL,
        MAX_CONNECTIONS,
        MAX_CONNECTIONS_PER_PEER,
        EXEC_TIMEOUT,
        MAX_BODY_BYTES,
        HEALTHCHECK_INTERVAL,
        DRAIN_TIMEOUT,
        QUEUE_TIMEOUT,
        STAGE_TIMEOUT,
    ],
};
pub const BROKER: Group = Group { heading: "NATS", settings: &[NATS, NATS_CREDS, NATS_USER, NATS_PASSWORD_FILE] };
pub const HOPS: Group = Group { heading: "Hop to the next stage", settings: &[HOP, HOP_LISTEN, HOP_ADVERTISE] };
pub const HOPS_OF_ALL: Group = Group { heading: HOPS.heading, settings: &[HOP] };
pub const SOURCE: Group = Group { heading: "Model", settings: &[FOLDER, STAGES_OR_ONE, BALANCE, MIX] };
pub const PROMPTS: Group = Group { heading: "Prompts", settings: &[PROMPT, PROMPT_FILE] };
pub const SAMPLING: Group = Group {
    heading: "Answers",
    settings: &[MAX_TOKENS, TEMPERATURE, TOP_K, TOP_P, REPETITION_PENALTY, SEED, STOP, TOP_LOGITS],
};
pub const LOGGING: Group = Group { heading: "Logging and settings", settings: &[LOG_FORMAT, LOG_LEVEL, CONFIG] };
pub const LOGGING_QUIET: Group = Group { heading: LOGGING.heading, settings: &[LOG_FORMAT, LOG_LEVEL_QUIET, CONFIG] };
