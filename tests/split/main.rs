//! Cutting models into stages: on real weights, and against files that are broken or lie.

mod disk;
mod headers;
mod hostile;
mod largest;
mod real;
mod reference;
mod tiny;
