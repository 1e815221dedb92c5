//! stageline runs a neural network as a pipeline of functions. ARCHITECTURE.md is the map.

pub mod base;
pub mod cli;
pub mod config;
pub mod core;
pub mod door;
pub mod engine;
pub mod load;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod plan;
pub mod server;
pub mod shard;
pub mod template;
pub mod transport;
pub mod wire;
