//! Settings of durable requests, and of whose they are.

use crate::config::setting::{Group, Setting};

pub const API_KEYS: Setting = Setting::value(
    "api_keys",
    "FILE",
    "Who may ask: a name and a key a line, the key plain or as sha256:HEX; read again when it changes (default: everybody)",
);

pub const STORE: Setting = Setting::value(
    "store",
    "FILE",
    "Keep durable requests (Prefer: respond-async, Idempotency-Key) in this file, made if it is not there (default: at the broker, with --nats)",
);
pub const STORE_SYNC: Setting = Setting::value(
    "store_sync",
    "second|always",
    "When what is kept is on the disk: within a second, or before anything is answered, so that it outlives a loss of power",
)
.or("second");
pub const MAX_STORE_BYTES: Setting =
    Setting::value("max_store_bytes", "BYTES", "Most bytes that are kept; what needs more is refused with 503")
        .or("4GiB");
pub const MAX_STORED: Setting =
    Setting::value("max_stored", "N", "Most durable requests that wait; more are refused with 429").or("100000");
pub const DURABLE_TIMEOUT: Setting = Setting::value(
    "durable_timeout",
    "DURATION",
    "Deadline of a durable request that names none, and the longest it may name, counted over restarts",
)
.or("1h");
pub const RESULT_TTL: Setting =
    Setting::value("result_ttl", "DURATION", "How long the answer to a durable request is kept after its end").or("1h");
pub const CALLBACK_URL: Setting = Setting::value(
    "callback_url",
    "URL",
    "Who is told how a durable request ended whose client sends no X-Callback-Url",
);
pub const CALLBACK_ALLOW: Setting = Setting::list(
    "callback_allow",
    "HOST[:PORT]",
    "Hosts that callbacks may go to, *.DOMAIN for all of a domain; with one, no others (default: all but link-local ones)",
);
pub const CALLBACK_SECRET_FILE: Setting = Setting::value(
    "callback_secret_file",
    "FILE",
    "Sign callbacks with the secret in this file: X-Stageline-Signature, HMAC-SHA-256 of time, id and body",
);
pub const JOIN_CALLS: Setting = Setting::value(
    "join_calls",
    "queue-worker|always",
    "Which calls that repeat an X-Call-Id are answered once: those of OpenFaaS' queue worker by its name, or all",
)
.or("queue-worker");

pub const REQUESTS_WORDS: Setting =
    Setting::list("order", "list | show ID | retry ID | cancel ID", "What to do with which durable requests")
        .positional();
pub const REQUESTS_TARGET: Setting =
    Setting::value("target", "URL", "Ask this door of the pipeline, over HTTP").or("http://127.0.0.1:8080");
pub const REQUESTS_NATS: Setting =
    Setting::value("nats", "URL,...", "Ask a door of the pipeline called --name instead, over this NATS server");
pub const REQUESTS_NAME: Setting = Setting::value("name", "NAME", "With --nats: the name of the pipeline");
pub const REQUESTS_STORE: Setting = Setting::value(
    "store",
    "FILE",
    "Open this store instead, which no server may have meanwhile; what `show` tells has an answer's tokens and no text, since the model's \
     tokenizer is not in it",
);
pub const KEY: Setting = Setting::value("key", "KEY", "The key that the door asks for; that of admin sees everybody's");
pub const LIMIT: Setting = Setting::value("limit", "N", "How many requests to list, the newest").or("100");

/// What a door needs to keep requests.
pub const KEEPING: Group = Group {
    heading: "Durable requests",
    settings: &[
        STORE,
        STORE_SYNC,
        MAX_STORE_BYTES,
        MAX_STORED,
        DURABLE_TIMEOUT,
        RESULT_TTL,
        CALLBACK_URL,
        CALLBACK_ALLOW,
        CALLBACK_SECRET_FILE,
        JOIN_CALLS,
    ],
};
