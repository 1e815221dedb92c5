//! HTTP as every API of a door stands on it: connections, bodies, refusals, and how long each may take.

pub(crate) mod body;
mod delivery;
mod framing;
pub(crate) mod json;
pub(crate) mod kinds;
pub(crate) mod refusal;
mod roster;
mod serve;
mod stall;
pub(crate) mod visit;
mod watched;

pub use serve::{SPARE_CONNECTIONS, serve};
