//! What opens a sequence on every stage of its path.

use stageline_base::{Attempt, Position, ReplicaId, SequenceId, TokenId};

/// What the pipeline does with a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Decode: the last stage samples a token from the logits of each emitting row.
    Generate(Sampling),
    /// Encode: all rows are one indivisible parcel, whole in one microbatch at every stage; the answer is one vector.
    Embed,
}

/// How the last stage turns logits into a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; otherwise the logits are divided by it.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens; 0 is all of them.
    pub top_k: u32,
    /// Only the likeliest tokens whose probabilities sum to at least `top_p`; 1 is all of them.
    pub top_p: f32,
    /// Divides the positive logits of known tokens and multiplies the negative ones; 1 is none.
    pub repetition_penalty: f32,
    /// With the position, it decides the random number drawn.
    pub seed: u64,
    /// How many of the largest logits to report beside each token (0: none, and no digest either).
    pub top_logits: u32,
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0, top_logits: 0 };
}

/// Opens one attempt of a sequence: it travels the whole path ahead of the first rows and reserves KV blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// The sequence.
    pub sequence: SequenceId,
    /// Higher than every attempt of it before.
    pub attempt: Attempt,
    /// Where feedback goes.
    pub door: ReplicaId,
    /// The replica of each stage, in order; one entry a stage.
    pub path: Vec<ReplicaId>,
    /// For log lines only.
    pub call_id: String,
    /// What to do.
    pub work: Work,
    /// All known ids: the prompt, and on a replay the tokens generated before it.
    pub known: Vec<TokenId>,
    /// Positions that the sequence may take, prompt and answer together: what KV is reserved for.
    pub capacity_tokens: u32,
}

impl Opening {
    /// Whether the row at `position` is a step of the answer rather than of what was known at the opening.
    pub fn is_decode(&self, position: Position) -> bool {
        position as usize >= self.known.len()
    }
}
