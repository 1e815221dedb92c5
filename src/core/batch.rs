//! One step of a device, and what it gives.

use crate::Opening;
use bytes::BytesMut;
use stageline_base::{Attempt, Position, SequenceId, Tensors, TokenId};
use std::sync::Arc;

/// Names the payload of one arrived parcel; decisions move tickets, not tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Names a microbatch within its stage's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// Consecutive rows of one sequence within a microbatch.
#[derive(Clone, Debug)]
pub struct Member {
    /// Whose rows.
    pub sequence: SequenceId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Position of the first row.
    pub start: Position,
    /// How many rows, at least 1.
    pub rows: u32,
    /// Whether the last stage must turn the last of these rows into a token (or, in one step, all of them into the answer).
    pub emit: bool,
    /// The payload that holds the rows.
    pub ticket: Ticket,
    /// Where in that payload they begin.
    pub ticket_row: u32,
    /// What opened the sequence.
    pub opening: Arc<Opening>,
    /// The sequence's KV blocks: block `i` holds positions `i * block_size ..`. Empty where none are kept.
    pub blocks: Arc<[u32]>,
    /// All ids before the emitted one, at the last stage and only where the repetition penalty asks for them.
    pub history: Option<Arc<[TokenId]>>,
}

impl Member {
    /// Whether it is one step of an answer in progress.
    pub fn is_decode(&self) -> bool {
        self.opening.is_decode(self.start)
    }
}

/// What a device runs at once: rows of any phase, decode rows first.
///
/// Several members may belong to one sequence; they are then in position order, and the executor must have written the KV
/// of earlier ones before it reads it for later ones.
#[derive(Clone, Debug)]
pub struct Microbatch {
    /// Its name.
    pub id: BatchId,
    /// Its members, in the order of the output's rows.
    pub members: Vec<Member>,
}

impl Microbatch {
    /// Rows of all members together.
    pub fn rows(&self) -> usize {
        self.members.iter().map(|m| m.rows as usize).sum()
    }
}

/// Spare bytes that a buffer of [`Output::Rows`] needs behind the rows of `members`, so that a frame of them can be finished in
/// place, whatever the hop (hop.proto has the layout).
pub const fn trailer_room(members: usize) -> usize {
    // A segment takes at most 4 + 8 + 10 + 5 + 5 + 5 + 1 bytes, and its door, if it is the only one of that door, 82; a tensor's name
    // and shape at most 160.
    416 + members * 120
}

/// What a device gave for a microbatch.
#[derive(Debug)]
pub enum Output {
    /// Before the last stage, where the border is cut by rows: each of its tensors with the rows of all members, in the
    /// members' order, little endian.
    ///
    /// The buffers have spare room ([`trailer_room`]), so that a hop can append its trailer without moving them.
    Rows(Vec<BytesMut>),
    /// Before the last stage, where it is not: the tensors of each member.
    Sets(Vec<Tensors>),
    /// At the last stage: one entry a member, `None` where it does not emit.
    Emissions(Vec<Option<Emission>>),
}

/// What the last stage makes of an emitting member.
#[derive(Clone, Debug, PartialEq)]
pub enum Emission {
    /// The sampled token, which takes the position after the member's last row.
    Token {
        /// The token.
        id: TokenId,
        /// What the request asked to see of the logits.
        observed: Option<Observed>,
    },
    /// The whole answer, as the model says it: an encoder's is one vector.
    Tensors(Tensors),
}

/// The logits behind a token, as far as the request asked to see them.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// First 8 bytes, little endian, of the SHA-256 of the row's logits as f32 little endian: equal only if every bit is.
    pub digest: u64,
    /// The largest logits, largest first; equal ones by lower id.
    pub top: Vec<(TokenId, f32)>,
}
