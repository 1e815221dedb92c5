//! The program `stageline`: it runs a neural network as a pipeline of functions. ARCHITECTURE.md is the map.

pub mod cli;
pub mod config;
