//! Floor 3: the device thread and what it runs.

pub mod candle;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod executor;
pub mod fake;
pub mod thread;

pub use candle::{CandleExecutor, DeviceChoice, Setup};
pub use executor::Executor;
pub use thread::{Device, DeviceHandle, DeviceUse, Loader, Ran};
