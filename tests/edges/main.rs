//! Clients that send nothing, take nothing, ask for too much or leave, and refusals that must arrive all the same: over the real
//! program, or a door with a scripted pipeline behind it.
//!
//! Needs a real model and Go: `scripts/test` fetches both.

#[path = "../support/environment.rs"]
mod environment;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../server/programs.rs"]
#[allow(dead_code, reason = "tests/server does more with processes")]
mod programs;
#[path = "../support/real_models.rs"]
#[allow(dead_code, reason = "no answer is held against the reference's here")]
mod real_models;
#[path = "../door/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "tests/door does more with doors")]
mod support;
#[path = "../split/tiny.rs"]
#[allow(dead_code, reason = "tests/split cuts them too")]
mod tiny;

mod crowds;
mod folders;
mod go;
mod long;
mod mute;
