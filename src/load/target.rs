//! Where requests go: one trait, and every way to reach a pipeline behind it.

use crate::workload::Ask;
use futures::future::BoxFuture;
use stageline_base::{Fault, FaultClass};
use std::time::{Duration, Instant};

mod body;
pub mod embedded;
pub mod grpc;
pub mod http;
pub mod nats;
pub mod stage;

/// Most times between tokens that are kept of one answer.
const MAX_GAPS: usize = 65_536;

/// What takes requests.
pub trait Target: Send + Sync {
    /// Sends a request and tells `progress` of each token as it arrives; resolves when the answer is whole. Dropping the
    /// future gives the request up.
    fn send<'a>(&'a self, ask: &'a Ask, progress: &'a mut Progress) -> BoxFuture<'a, Result<(), Failure>>;
}

/// A request that was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One word that errors are counted by: a fault's class, or `connect`, `broken_off`, `unfinished`, …
    pub class: String,
    /// What was said.
    pub message: String,
}

impl Failure {
    /// A failure of `class`.
    pub fn new(class: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class: class.into(), message: message.into() }
    }

    /// Whether the server said that it is full: it has done no work for the request, and asks for it later.
    pub fn is_refusal(&self) -> bool {
        self.class == FaultClass::Overloaded.row().name
    }

    /// An answer that ended before its end.
    pub fn broken_off(message: impl Into<String>) -> Self {
        Self::new("broken_off", message)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::new(fault.class.row().name, fault.message)
    }
}

/// What has been seen of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    first: Option<Instant>,
    last: Option<Instant>,
    end: Option<Instant>,
    tokens: u32,
    prompt_tokens: u32,
    gaps: Vec<Duration>,
}

impl Progress {
    /// A token has arrived, now.
    pub fn token(&mut self) {
        self.token_at(Instant::now());
    }

    /// A token arrived at `at`.
    pub fn token_at(&mut self, at: Instant) {
        if let Some(last) = self.last
            && self.gaps.len() < MAX_GAPS
        {
            self.gaps.push(at.saturating_duration_since(last));
        }
        self.first.get_or_insert(at);
        self.last = Some(at);
        self.tokens += 1;
    }

    /// The answer came in one piece of so many tokens: nobody saw when each was made.
    pub fn whole(&mut self, tokens: u32) {
        self.tokens = tokens;
    }

    /// The prompt had so many tokens.
    pub fn prompt(&mut self, tokens: u32) {
        self.prompt_tokens = tokens;
    }

    /// The answer's end was at `at`: for a target whose own clock is exact. Without it, it is when `send` resolves.
    pub fn end_at(&mut self, at: Instant) {
        self.end = Some(at);
    }

    /// When the first token came, if it was seen.
    pub fn first(&self) -> Option<Instant> {
        self.first
    }

    /// The end, if the target said so.
    pub fn end(&self) -> Option<Instant> {
        self.end
    }

    /// Tokens of the answer and of the prompt.
    pub fn counts(&self) -> (u32, u32) {
        (self.tokens, self.prompt_tokens)
    }

    /// Times between tokens.
    pub fn gaps(&self) -> &[Duration] {
        &self.gaps
    }

    /// The mean time between tokens, if two or more were seen one by one.
    pub fn mean_gap(&self) -> Option<Duration> {
        let (first, last) = (self.first?, self.last?);
        (self.tokens > 1).then(|| last.saturating_duration_since(first) / (self.tokens - 1))
    }
}

/// What to say if the target cannot be reached at all.
fn unreachable(what: &str, error: impl std::fmt::Display, advice: &str) -> Fault {
    Fault::new(FaultClass::Unavailable, format!("{what} cannot be reached ({error}): {advice}"))
}
