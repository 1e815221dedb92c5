//! What a request has come to, whatever attempt it is in: which rows go next, what an emission means, when it ends. The keeper of
//! requests asks this and knows nothing of tokens itself.

use crate::room::Room;
use crate::{Emission, Observed, Work};
use stageline_base::{Border, Position, Tensors, TokenId};

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
    Answer(Tensors),
}

/// What a request brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Token ids, at least one: a row each.
    Tokens(Vec<TokenId>),
    /// Tensors, as the manifest says what crosses in front of the first stage.
    Tensors(Tensors),
}

impl Input {
    /// How many tokens it has; none where it brings tensors.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Tensors(_) => 0,
        }
    }
}

/// Rows that go to the first stage.
pub(crate) struct Sent<'a> {
    /// Position of the first.
    pub start: Position,
    /// How many.
    pub rows: u32,
    /// Whether they are the request's last ones.
    pub last: bool,
    /// What is in them.
    pub what: SentRows<'a>,
}

/// What is in them.
pub(crate) enum SentRows<'a> {
    /// Ids.
    Tokens(&'a [TokenId]),
    /// All that the request brings.
    Tensors(&'a Tensors),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Progress {
    work: Work,
    /// What it brings, where that is no tokens, and how many rows that is.
    tensors: Option<(u32, Tensors)>,
    prompt_tokens: usize,
    /// Most tokens of the answer; 0 where there are none.
    max_tokens: u32,
    /// The prompt's tokens and what has been generated.
    known: Vec<TokenId>,
    /// Rows handed to the pipeline in this attempt.
    sent: Position,
    /// Its newest token was told, and not yet said whether the answer goes on.
    asks: bool,
}

impl Progress {
    /// Of a request that brings `input`, which crosses `takes`, and, if it was begun elsewhere, what was generated there. `None` if
    /// the input is not what crosses there.
    pub fn new(work: Work, input: Input, takes: &Border, generated: &[TokenId], max_tokens: u32) -> Option<Self> {
        let max_tokens = if work.is_loop() { max_tokens } else { 0 };
        let (mut known, tensors) = match input {
            Input::Tokens(ids) if takes.is_tokens() => (ids, None),
            Input::Tensors(tensors) if work.is_whole() => {
                let rows = takes.rows_of(&tensors).and_then(|rows| u32::try_from(rows).ok())?;
                (Vec::new(), Some((rows, tensors)))
            }
            _ => return None,
        };
        let prompt_tokens = known.len();
        known.extend_from_slice(generated);
        let progress = Self { work, tensors, prompt_tokens, max_tokens, known, sent: 0, asks: false };
        (progress.rows() > 0).then_some(progress)
    }

    /// What stages are to do for it.
    pub fn work(&self) -> Work {
        self.work
    }

    /// All ids that it has.
    pub fn known(&self) -> &[TokenId] {
        &self.known
    }

    /// Rows that it has, of its input and its answer.
    pub fn rows(&self) -> usize {
        self.tensors.as_ref().map_or(self.known.len(), |(rows, _)| *rows as usize)
    }

    /// Tokens of the answer so far.
    pub fn generated(&self) -> u32 {
        (self.known.len() - self.prompt_tokens) as u32
    }

    /// Positions that it may take.
    pub fn capacity_tokens(&self) -> u32 {
        (self.rows() as u32 - self.generated()).saturating_add(self.max_tokens)
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

    /// As many of its rows, which cross `takes`, as `credit` grants.
    pub fn send(&mut self, credit: Room, takes: &Border) -> Option<Sent<'_>> {
        let start = self.sent;
        if let Some((rows, tensors)) = &self.tensors {
            // As much as both ends of the link count for it, however little it is.
            if start > 0 || !credit.holds(Room::of(*rows, takes)) {
                return None;
            }
            self.sent = *rows;
            return Some(Sent { start, rows: *rows, last: true, what: SentRows::Tensors(tensors) });
        }
        let left = self.known.len() as u64 - u64::from(start);
        let rows = credit.grants(left, takes, self.work.is_whole()) as u32;
        if rows == 0 {
            return None;
        }
        self.sent += rows;
        let what = SentRows::Tokens(&self.known[start as usize..self.sent as usize]);
        Some(Sent { start, rows, last: u64::from(rows) == left, what })
    }

    /// Whether it is an emission of such work, and for `gives`, what the model's answer is where that is tensors.
    pub fn may_come(&self, emission: &Emission, gives: &Border) -> bool {
        match emission {
            Emission::Token { .. } => self.work.is_loop(),
            Emission::Tensors(tensors) => self.work.is_whole() && gives.admits(self.rows() as u64, tensors),
        }
    }

    /// Whether an emission at `position` is the one that comes next.
    pub fn is_next(&self, position: Position) -> bool {
        self.rows() == position as usize && !self.asks
    }

    /// Takes an emission in.
    pub fn emitted(&mut self, emission: Emission) -> Came {
        match emission {
            Emission::Token { id, observed } => {
                self.known.push(id);
                self.asks = true;
                Came::Token(id, observed)
            }
            Emission::Tensors(tensors) => Came::Answer(tensors),
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
