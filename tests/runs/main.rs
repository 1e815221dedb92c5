//! Runs of flows as their callers see them: a door of flows on loopback, engines behind it, and a gateway that is scripted.

mod bodies;
mod callbacks;
mod chains;
mod engines;
mod hostile;
mod items;
mod keys;
mod orders;
mod passing;
#[path = "../support/patience.rs"]
mod patience;
mod retries;
mod secrets;
mod shapes;
mod signals;
mod streams;
mod support;
