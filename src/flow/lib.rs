//! Flows of functions and pipelines.

pub mod definition;
pub mod file;
pub mod times;
