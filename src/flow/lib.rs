//! Flows of functions and pipelines.

pub mod definition;
pub mod export;
pub mod file;
pub mod run;
pub mod times;
