//! cli

pub mod inspect;
pub mod split;
mod table;
