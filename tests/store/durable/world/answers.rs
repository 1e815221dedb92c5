//! What is right.

use stageline_base::{ReplicaId, TokenId};
use stageline_core::durable::LoggedToken;

/// The right token at a place of an answer.
pub fn right(request: usize, place: u32) -> TokenId {
    (request as u32 * 7919 + place * 104_729) % 50_000
}

/// Tokens of a request's prompt.
pub fn right_prompt(request: usize) -> u32 {
    3 + request as u32
}

/// Tokens of the right answer.
pub fn right_tokens(request: usize, places: std::ops::Range<u32>) -> Vec<LoggedToken> {
    places.map(|place| LoggedToken { id: right(request, place), observed: None }).collect()
}

/// A door's name, one a life.
pub fn replica(door: usize, boot: u64) -> ReplicaId {
    ReplicaId::new(&format!("door-{door}"), boot)
}
