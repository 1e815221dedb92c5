//! Floor 4: replicas put together, and the loop that each of them runs.

pub mod access;
pub mod assemble;
pub mod blueprint;
pub mod broker;
pub mod executor;
pub mod flows;
pub mod host;
pub mod keeping;
pub mod lobby;
pub mod locals;
pub mod options;
pub mod pipeline;
pub mod ports;
pub mod pump;
pub mod service;

pub use access::StageAccess;
pub use assemble::{Serving, embedded, on_nats};
pub use blueprint::Blueprint;
pub use broker::{Broker, BrokerAccess, reach};
pub use executor::load_executor;
pub use flows::{FlowsOrder, Kept, serve_flows};
pub use host::{Hardware, Host, unwatched};
pub use keeping::{Keeping, outgoing, shelf};
pub use locals::{Local, Locals};
pub use options::Options;
pub use pipeline::Pipeline;
pub use ports::Ports;
pub use pump::Drain;
pub use service::{Doors, Ending, serve};
