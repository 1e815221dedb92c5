//! Floor 3: the device thread and what it runs.

pub mod executor;
pub mod fake;

pub use executor::Executor;
