//! Floor 3: the device thread and what it runs.

pub mod candle;
pub mod choice;
pub mod executor;
pub mod fake;
mod given;
pub mod kv_room;
pub mod measure;
pub mod memory_left;
pub mod narrowing;
pub mod part;
pub mod setup;
pub mod thread;

pub use candle::CandleExecutor;
pub use choice::{Numbers, Runner, Wishes, choose};
pub use executor::{Executor, Ready};
pub use measure::Measure;
pub use narrowing::Narrowing;
pub use setup::{DeviceChoice, Setup};
pub use thread::{Device, DeviceHandle, DeviceUse, Loader, Ran};
