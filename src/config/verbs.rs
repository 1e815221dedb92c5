//! The subcommands, and which settings each takes.

use crate::config::setting::{Group, Verb};
use crate::config::settings::*;

/// Every subcommand, in the order of `--help`.
pub const VERBS: [&Verb; 10] = [&SPLIT, &SERVE, &UP, &RUN, &CALL, &LOAD, &FLOW, &KEPT_REQUESTS, &INSPECT, &DEMO];

/// `stageline split`.
pub const SPLIT: Verb = Verb {
    name: "split",
    alias: None,
    about: "Cut a model into stages of equal cost: pipeline.json and one safetensors shard a stage",
    examples: "\
Examples:
  Cut a model into three stages that take equal time for a request of 512 tokens with an answer of 128:
    stageline split models/smollm2 --stages 3 --out pipelines/smollm2
  For prompts of 64 tokens with answers of 512:
    stageline split models/smollm2 --stages 3 --out pipelines/smollm2 --mix 64:512
  The same by what each layer and the head take on this machine, a stage on one core each:
    stageline split models/smollm2 --stages 3 --out pipelines/smollm2 --mix 64:512 --measure --threads 1
  Equal parameters instead, within 2 GiB a stage for weights and the KV cache of 16 sequences of 2048 tokens:
    stageline split models/smollm2 --stages 3 --out pipelines/smollm2 \\
        --balance params --stage-memory 2GiB --max-num-seqs 16 --max-model-len 2048",
    groups: &[
        Group { heading: "Cut", settings: &[MODEL, STAGES, OUT, BALANCE, MIX, STAGE_MEMORY, NAME] },
        Group { heading: "Device to cut for", settings: &[MEASURE, DEVICE, THREADS, DTYPE] },
        Group { heading: "KV cache that must fit beside the weights", settings: &[MAX_NUM_SEQS, MAX_MODEL_LEN] },
        Group { heading: "Output", settings: &[JSON] },
        LOGGING_QUIET,
    ],
};

/// `stageline serve`.
pub const SERVE: Verb = Verb {
    name: "serve",
    alias: None,
    about: "Serve one stage of a pipeline; the stages find each other over NATS",
    examples: "\
Examples:
  Three stages by hand, each in a terminal of its own, in any order:
    export STAGELINE_PIPELINE=pipelines/smollm2 STAGELINE_NATS=nats://127.0.0.1:4222
    stageline serve --stage 0
    stageline serve --stage 1 --http 127.0.0.1:8081
    stageline serve --stage 2 --http 127.0.0.1:8082
  Then ask stage 0:
    curl -H 'Content-Type: application/json' -d '{\"prompt\": \"The capital of France is\"}' http://127.0.0.1:8080/",
    groups: &[
        Group { heading: "Stage", settings: &[PIPELINE, STAGE] },
        BROKER,
        HOPS,
        DOOR,
        KEEPING,
        DEVICES,
        BATCHING,
        LOGGING,
    ],
};

/// `stageline up`.
pub const UP: Verb = Verb {
    name: "up",
    alias: None,
    about: "Serve all stages: in one process, or with --nats a process a stage",
    examples: "\
Examples:
  A model in one process, cut in memory:
    stageline up models/smollm2 --stages 3
  A split pipeline, a process a stage:
    stageline up pipelines/smollm2 --nats nats://127.0.0.1:4222",
    groups: &[SOURCE, BROKER, HOPS_OF_ALL, DOOR, KEEPING, DEVICES, BATCHING, LOGGING],
};

/// `stageline run`.
pub const RUN: Verb = Verb {
    name: "run",
    alias: Some("embed"),
    about: "Do here and now what a model does: answer prompts or embed texts",
    examples: "\
Examples:
  One answer, streamed:
    stageline run models/smollm2 --chat --prompt 'Why is the sky blue?'
  Many at once, a JSON line each:
    stageline run pipelines/smollm2 --prompt-file prompts.txt --max-tokens 64 --json
  The same words each time, though drawn:
    stageline run models/smollm2 --prompt 'Once upon a time' --temperature 0.8 --top-p 0.9 --seed 7
  The vector of each line of standard input, by an encoder:
    stageline run models/all-minilm-l6-v2 --prompt-file - --json < texts.txt",
    groups: &[
        SOURCE,
        PROMPTS,
        Group { heading: "Form", settings: &[CHAT, JSON] },
        SAMPLING,
        DEVICES,
        BATCHING,
        LOGGING_QUIET,
    ],
};

/// `stageline call`.
pub const CALL: Verb = Verb {
    name: "call",
    alias: None,
    about: "Call a stage that is being served, over gRPC",
    examples: "\
Examples:
  What a stage is, and how loaded:
    stageline call 127.0.0.1:8081
  An answer, streamed:
    stageline call 127.0.0.1:8080 --prompt 'The capital of France is'
  Three stages, one after the other: the last one says the next token
    stageline call 127.0.0.1:8080 --tokens 1,2,3 --save 0.safetensors
    stageline call 127.0.0.1:8081 --rows 0.safetensors --save 1.safetensors
    stageline call 127.0.0.1:8082 --rows 1.safetensors --top-logits 5",
    groups: &[
        Group { heading: "Call", settings: &[ADDRESS, PROMPT, TOKENS, ROWS, SAVE, TIMEOUT] },
        Group { heading: "Form", settings: &[JSON] },
        SAMPLING,
        LOGGING_QUIET,
    ],
};

/// `stageline load`.
pub const LOAD: Verb = Verb {
    name: "load",
    alias: None,
    about: "Send a load, measure from its schedule, and say where the time went",
    examples: "\
Examples:
  Twenty requests a second for half a minute, read token by token, with a page of plots:
    stageline load --target http://127.0.0.1:8080 --stream --rate 20 --duration 30s --html load.html
  The most that keeps an objective:
    stageline load --target http://127.0.0.1:8080 --stream --rate 1 --duration 20s --sweep auto \\
        --objective ttft=500ms,itl=50ms --out before.json
  The same seed is the same load; two reports side by side:
    stageline load compare before.json after.json
  A model in this process, eight requests at once:
    stageline load --target models/smollm2 --concurrency 8 --requests 200",
    groups: &[
        Group {
            heading: "Target",
            settings: &[LOAD_WORDS, TARGET, STREAM, EMBEDS, RUN_STAGE, NAME, NATS_CREDS, METRICS],
        },
        Group {
            heading: "Load",
            settings: &[
                RATE,
                ARRIVALS,
                REPLAY,
                CONCURRENCY,
                REQUESTS,
                DURATION,
                WARM_UP,
                DRAIN,
                MAX_OUTSTANDING,
                LOAD_SEED,
                SWEEP,
                KNEE,
            ],
        },
        Group {
            heading: "Requests",
            settings: &[PROMPT_TOKENS, TOKEN_IDS, LOAD_PROMPT_FILE, OUTPUT_TOKENS, TEMPERATURE, DEADLINE, OBJECTIVE],
        },
        Group { heading: "Report", settings: &[REPORT, HTML, JSON] },
        Group { heading: "Pipeline in this process", settings: &[STAGES_OR_ONE, BALANCE, MIX] },
        DEVICES,
        BATCHING,
        LOGGING_QUIET,
    ],
};

/// `stageline flow`.
pub const FLOW: Verb = Verb {
    name: "flow",
    alias: None,
    about: "Run flows of functions and pipelines, and look after their runs",
    examples: "\
Examples:
  All that is wrong with a file, with line and column:
    stageline flow check stack.yml
  One run, here and now, with nothing but the functions behind the file's gateway:
    stageline flow run stack.yml notes --input @notes.json --follow
  An engine with a door, whose runs are kept in a file, or at a broker with other engines:
    stageline flow up stack.yml
    stageline flow up stack.yml --nats nats://127.0.0.1:4222 --http 0.0.0.0:8080
  Then call a flow as if it were a function:
    echo hello | OPENFAAS_URL=http://127.0.0.1:8080 faas-cli invoke --async worker-1
  And see how its runs stand:
    stageline flow list
    stageline flow show 124239a6d54315f4ff0913cbc841d0a2
    stageline flow retry 124239a6d54315f4ff0913cbc841d0a2 --from summary",
    groups: &[
        Group { heading: "Flow", settings: &[FLOW_WORDS, FLOW_INPUT, FOLLOW, FLOW_FORMAT, JSON] },
        Group { heading: "Engine", settings: &[GATEWAY, SECRETS, ONLY, MAX_RUNS, MAX_VALUE_BYTES] },
        BROKER,
        Group {
            heading: "Runs",
            settings: &[STORE, STORE_SYNC, MAX_STORE_BYTES, MAX_STORED, CALLBACK_ALLOW, CALLBACK_SECRET_FILE],
        },
        Group {
            heading: "Door",
            settings: &[
                HTTP,
                API_KEYS,
                MAX_INFLIGHT,
                MAX_CONNECTIONS,
                MAX_CONNECTIONS_PER_PEER,
                EXEC_TIMEOUT,
                HEALTHCHECK_INTERVAL,
                DRAIN_TIMEOUT,
            ],
        },
        Group {
            heading: "Runs of an engine that runs",
            settings: &[FLOW_TARGET, KEY, LIMIT, FLOW_NAME, FLOW_STATUS, FROM, UNDO],
        },
        DEVICES,
        BATCHING,
        LOGGING,
    ],
};

/// `stageline requests`.
pub const KEPT_REQUESTS: Verb = Verb {
    name: "requests",
    alias: None,
    about: "Show, try again or cancel durable requests: at a door, or in a file that no server has",
    examples: "\
Examples:
  The newest, and what has become of each:
    stageline requests list
  An answer, or how far it is:
    stageline requests show 124239a6d54315f4ff0913cbc841d0a2
  One that failed, or whose callback nobody took, once more:
    stageline requests retry 124239a6d54315f4ff0913cbc841d0a2 --target http://gateway:8080/function/smollm2 --key KEY
  At whichever door of a pipeline hears it at NATS:
    stageline requests list --nats nats://127.0.0.1:4222 --name smollm2
  In the file of a server that does not run:
    stageline requests list --store requests.db",
    groups: &[
        Group { heading: "Requests", settings: &[REQUESTS_WORDS, REQUESTS_TARGET, REQUESTS_STORE, KEY, LIMIT] },
        Group { heading: "NATS", settings: &[REQUESTS_NATS, REQUESTS_NAME, NATS_CREDS, NATS_USER, NATS_PASSWORD_FILE] },
        Group { heading: "Output", settings: &[JSON] },
        LOGGING_QUIET,
    ],
};

/// `stageline inspect`.
pub const INSPECT: Verb = Verb {
    name: "inspect",
    alias: None,
    about: "Show what a pipeline's manifest and its shards hold",
    examples: "\
Examples:
  Sizes, layers and costs, and whether every file is there:
    stageline inspect pipelines/smollm2
  Also whether every file is what the manifest says:
    stageline inspect pipelines/smollm2 --verify",
    groups: &[Group { heading: "Pipeline", settings: &[INSPECTED, JSON, VERIFY] }, LOGGING_QUIET],
};

/// `stageline demo`.
pub const DEMO: Verb = Verb {
    name: "demo",
    alias: None,
    about: "Send 8 prompts at once through a pipeline and show who did what",
    examples: "\
Examples:
  All stages in this process:
    stageline demo --pipeline pipelines/smollm2
  A process a stage:
    stageline demo --pipeline pipelines/smollm2 --nats nats://127.0.0.1:4222",
    groups: &[Group { heading: "Pipeline", settings: &[PIPELINE] }, BROKER, DEVICES, BATCHING, LOGGING_QUIET],
};
