//! Floor 4: replicas put together, and the loop that each of them runs.

pub mod access;
pub mod assemble;
pub mod blueprint;
pub mod metrics;
pub mod options;
pub mod pump;

pub use access::StageAccess;
pub use assemble::{Broker, BrokerAccess, Pipeline, Serving, embedded, on_nats, reach};
pub use blueprint::{Blueprint, StageFacts};
pub use metrics::Metrics;
pub use options::Options;
pub use pump::Drain;
