//! A request as the door takes it in, and the answer as it comes out, whichever way the client came.

use crate::Conversation;
use stageline_base::{AskedSampling, Fault, Gives, Tensors, TokenId, Trace};
use stageline_core::Observed;
pub use stageline_core::requests::FinishReason;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What the model is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Text as it is.
    Text(String),
    /// A conversation, laid out by the model's own chat template.
    Chat(Conversation),
    /// Token ids as they are.
    Tokens(Vec<TokenId>),
    /// Tensors, in any order; what has no name goes by its place.
    Tensors(Tensors),
}

/// A request. Fields that are `None` take the model's or the door's default.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// X-Call-Id, for log lines.
    pub call_id: String,
    /// The trace that it belongs to, for log lines; one begins where there is none.
    pub trace: Option<Trace>,
    /// What the model is given.
    pub input: Input,
    /// Most tokens to generate, at least 1.
    pub max_tokens: Option<u32>,
    /// How its tokens are drawn.
    pub sampling: AskedSampling,
    /// The answer ends before the first of these strings.
    pub stop: Vec<String>,
    /// The answer must be whole within this time.
    pub deadline: Option<Duration>,
    /// Of an answer that was begun elsewhere: its tokens so far. It goes on behind them.
    pub generated: Vec<TokenId>,
    /// It waits for as long as it may, for room and for what is missing: no limit or timeout of the queue refuses it, and its deadline
    /// may be longer than that of others.
    pub patient: bool,
    /// The beginning of the manifest's digest that is to answer.
    pub manifest: Option<String>,
}

impl Request {
    /// A request with every default.
    pub fn new(call_id: impl Into<String>, input: Input) -> Self {
        Self {
            call_id: call_id.into(),
            trace: None,
            input,
            max_tokens: None,
            sampling: AskedSampling::default(),
            stop: Vec::new(),
            deadline: None,
            generated: Vec::new(),
            patient: false,
            manifest: None,
        }
    }
}

/// A piece of an answer. The last one is `Finished` or `Failed`, always.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerEvent {
    /// A token. `text` is what it adds to the answer: empty while a character or a possible stop string is incomplete.
    Token {
        /// The token.
        id: TokenId,
        /// What it adds.
        text: String,
        /// What the request asked to see of the logits.
        observed: Option<Observed>,
    },
    /// An encoder's vector.
    Vector(Vec<f32>),
    /// The tensors that the answer is.
    Tensors(Tensors),
    /// The end; `text` is what was still held back.
    Finished {
        /// Why.
        reason: FinishReason,
        /// The last piece of text.
        text: String,
    },
    /// The end: the request failed after it was admitted.
    Failed(Fault),
}

impl AnswerEvent {
    /// An answer that is tensors, of a model that gives what `gives` says.
    pub(crate) fn of(tensors: Tensors, gives: Gives) -> Self {
        let vector = tensors.first().filter(|_| gives == Gives::Vector);
        match vector.and_then(|named| named.tensor.to_f32()) {
            Some(vector) => Self::Vector(vector),
            None => Self::Tensors(tensors),
        }
    }
}

/// An admitted request's answer. Dropping it cancels the request and frees what it holds on every stage.
#[derive(Debug)]
pub struct Answer {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The pieces, in order. The channel has room for the longest answer, so a slow client never holds the pipeline up.
    pub events: mpsc::Receiver<AnswerEvent>,
    /// Dropped with the answer; the door sees its other end close.
    pub alive: oneshot::Sender<()>,
}

impl Answer {
    /// The next piece; a door that ends without one is at fault.
    pub async fn next(&mut self) -> AnswerEvent {
        let broken_off = || AnswerEvent::Failed(Fault::internal("the answer broke off without an end"));
        self.events.recv().await.unwrap_or_else(broken_off)
    }
}

/// Whether the door takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not yet, or not any more, and why: loading, draining, or which stage is missing.
    NotReady(String),
}
