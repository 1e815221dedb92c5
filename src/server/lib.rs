//! Floor 4: replicas put together, and the loop that each of them runs.

pub mod access;
pub mod assemble;
pub mod blueprint;
pub mod broker;
pub mod executor;
pub mod options;
pub mod pump;

pub use access::StageAccess;
pub use assemble::{Pipeline, Serving, embedded, on_nats};
pub use blueprint::Blueprint;
pub use broker::{Broker, BrokerAccess, reach};
pub use executor::load_executor;
pub use options::Options;
pub use pump::Drain;
