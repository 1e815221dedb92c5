//! Floor 4: replicas put together, and the loop that each of them runs.

pub mod assemble;
pub mod blueprint;
pub mod options;
pub mod pump;
pub mod snapshot;

pub use assemble::{Broker, Plan, Serving, embedded, on_nats};
pub use blueprint::{Blueprint, StageFacts};
pub use options::Options;
pub use snapshot::{Board, Snapshot};
