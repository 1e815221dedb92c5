//! What a request has come to, whatever attempt it is in: which rows go next, what an emission means, when it ends. The keeper of
//! requests asks this and knows nothing of tokens itself.

use crate::room::Room;
use crate::{Emission, Observed, Work};
use stageline_base::{Position, TokenId};

/// Why an answer ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token, or a stop string.
    Stop,
    /// `max_tokens`, or the model's longest sequence.
    Length,
}

impl FinishReason {
    /// As JSON answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What an emission comes to.
pub(crate) enum Came {
    /// A token of the answer. Whether the answer goes on is for whoever writes it to say: [`Progress::judged`].
    Token(TokenId, Option<Observed>),
    /// The whole answer.
    Answer(Vec<f32>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Progress {
    work: Work,
    prompt_tokens: usize,
    /// Most tokens of the answer; 0 where there are none.
    max_tokens: u32,
    /// The prompt and what has been generated.
    known: Vec<TokenId>,
    /// Rows handed to the pipeline in this attempt.
    sent: Position,
    /// Its newest token was told, and not yet said whether the answer goes on.
    asks: bool,
}

impl Progress {
    /// Of a request that has `prompt` and, if it was begun elsewhere, what was generated there.
    pub fn new(work: Work, prompt: Vec<TokenId>, generated: &[TokenId], max_tokens: u32) -> Self {
        let max_tokens = if work.is_loop() { max_tokens } else { 0 };
        let prompt_tokens = prompt.len();
        let mut known = prompt;
        known.extend_from_slice(generated);
        Self { work, prompt_tokens, max_tokens, known, sent: 0, asks: false }
    }

    /// What stages are to do for it.
    pub fn work(&self) -> Work {
        self.work
    }

    /// All ids that it has.
    pub fn known(&self) -> &[TokenId] {
        &self.known
    }

    /// Tokens of the answer so far.
    pub fn generated(&self) -> u32 {
        (self.known.len() - self.prompt_tokens) as u32
    }

    /// Positions that it may take.
    pub fn capacity_tokens(&self) -> u32 {
        (self.prompt_tokens as u32).saturating_add(self.max_tokens)
    }

    /// Emissions that it still needs, if its answer uses this part of what it may.
    pub fn emissions_left(&self, used: f64) -> f64 {
        let expected = if self.work.is_loop() { f64::from(self.max_tokens) * used } else { 1.0 };
        (expected - f64::from(self.generated())).max(1.0)
    }

    /// Part of what its answer may use that it has used.
    pub fn used(&self) -> f64 {
        f64::from(self.generated()) / f64::from(self.max_tokens.max(1))
    }

    /// A new attempt begins: all rows go again.
    pub fn begin(&mut self) {
        self.sent = 0;
    }

    /// Whether it may be opened: not while nobody has said whether its answer goes on.
    pub fn may_begin(&self) -> bool {
        !self.asks
    }

    /// As many of its rows, of `row_bytes` each, as `credit` grants: the first one's position, their ids, and whether they are the
    /// last.
    pub fn send(&mut self, credit: Room, row_bytes: u64) -> Option<(Position, &[TokenId], bool)> {
        let left = self.known.len() as u64 - u64::from(self.sent);
        let rows = credit.grants(left, row_bytes, self.work.is_whole());
        if rows == 0 {
            return None;
        }
        let start = self.sent;
        self.sent += rows as u32;
        Some((start, &self.known[start as usize..self.sent as usize], rows == left))
    }

    /// Whether an emission at `position` is the one that comes next.
    pub fn is_next(&self, position: Position) -> bool {
        self.known.len() == position as usize && !self.asks
    }

    /// Takes an emission in.
    pub fn emitted(&mut self, emission: Emission) -> Came {
        match emission {
            Emission::Token { id, observed } => {
                self.known.push(id);
                self.asks = true;
                Came::Token(id, observed)
            }
            Emission::Vector(values) => Came::Answer(values),
        }
    }

    /// Whoever writes the answer says that it ends with its newest token, or does not. How it ends, if it does.
    pub fn judged(&mut self, end: Option<FinishReason>) -> Option<FinishReason> {
        self.asks = false;
        end.or((self.generated() >= self.max_tokens).then_some(FinishReason::Length))
    }

    /// Whether [`Progress::judged`] is due for the token at `position`.
    pub fn asks_about(&self, position: Position) -> bool {
        self.asks && self.known.len() == position as usize + 1
    }
}
