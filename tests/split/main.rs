//! Cutting models into stages: on real weights, and against files that are broken or lie.

#[path = "../support/real_models.rs"]
#[allow(dead_code, reason = "the reference's answers are held against elsewhere")]
mod real_models;

mod disk;
mod forms;
mod headers;
mod hostile;
mod largest;
mod real;
mod reference;
mod strangers;
mod tiny;
mod units;
