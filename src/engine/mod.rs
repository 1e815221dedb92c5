//! Floor 3: the device thread and what it runs.

pub mod candle;
pub mod executor;

pub use candle::{CandleExecutor, DeviceChoice, Setup};
pub use executor::Executor;
