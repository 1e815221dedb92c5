//! Flows of functions and pipelines.

pub mod definition;
