//! Floor 3: the device thread and what it runs.

pub mod executor;

pub use executor::Executor;
