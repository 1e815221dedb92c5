//! Whole pipelines, as they are served: the reference's answers through doors, pumps and hops in this process, and real
//! processes that are killed, stopped and left by their clients.
//!
//! Needs the real models and a nats-server: `scripts/test` fetches both. `STAGELINE_MODEL_MATRIX=full` runs all of the
//! matrix that golden.rs describes; scripts/matrix does so.

#[path = "../support/environment.rs"]
mod environment;
#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "brokers of all kinds are tests/net's")]
mod nats;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/real_models.rs"]
mod real_models;
#[path = "../split/tiny.rs"]
#[allow(dead_code, reason = "encoders are not served by processes here")]
mod tiny;

mod brokers;
mod calls;
mod deaths;
mod drains;
mod durable;
mod forged;
mod golden;
mod kills;
mod looking;
mod mixed;
#[allow(dead_code, reason = "tests/cuda looks at how a process ends")]
mod pipelines;
mod places;
#[allow(dead_code, reason = "tests/edges looks at memory")]
mod programs;
mod replicas;
mod requests;
mod served;
mod ups;
