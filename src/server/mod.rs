//! Floor 4: one `serve` process, put together.

pub mod metrics;
