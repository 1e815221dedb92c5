//! The door's machine with the answers it writes: text, end tokens, stop strings, clients.

use crate::request::AnswerEvent;
use crate::text::{Piece, TextModel, TextStream};
use stageline_base::{Fault, SequenceId, StageIndex, Tick, TokenId};
use stageline_core::message::Body;
use stageline_core::requests::{DoorAction, DoorEvent, DoorMachine, DoorSetup, FinishReason, Judge, NewRequest};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A checked and tokenized request on its way to the desk.
pub struct Submission {
    /// The request.
    pub request: NewRequest,
    /// Its stop strings.
    pub stop: Vec<String>,
    /// Where its answer goes: room for `max_tokens + 2` events.
    pub events: mpsc::Sender<AnswerEvent>,
    /// Told whether it was admitted.
    pub admitted: oneshot::Sender<Result<SequenceId, Fault>>,
}

/// An answer being written.
struct Writing {
    events: mpsc::Sender<AnswerEvent>,
    text: TextStream,
    /// What the newest token added, until its event is sent.
    piece: Option<Piece>,
    call_id: String,
    begun: Tick,
    prompt_tokens: usize,
    tokens: u64,
}

/// Answers being written: what the machine asks whether one ends.
struct Answers {
    writing: HashMap<SequenceId, Writing>,
    eos: Vec<TokenId>,
}

impl Judge for Answers {
    fn ends(&mut self, sequence: SequenceId, token: TokenId) -> Option<FinishReason> {
        let writing = self.writing.get_mut(&sequence)?;
        if self.eos.contains(&token) {
            return Some(FinishReason::Stop);
        }
        let piece = writing.text.push(token);
        let stopped = piece.stopped;
        writing.piece = Some(piece);
        stopped.then_some(FinishReason::Stop)
    }
}

/// See the module.
pub struct Desk {
    machine: DoorMachine,
    answers: Answers,
    text: Arc<TextModel>,
    drained: bool,
}

/// Mail that the desk wants sent.
pub type Outgoing = (StageIndex, stageline_base::ReplicaId, Body);

impl Desk {
    /// A desk without requests.
    pub fn new(now: Tick, setup: DoorSetup, text: Arc<TextModel>) -> Self {
        let answers = Answers { writing: HashMap::new(), eos: text.eos().to_vec() };
        Self { machine: DoorMachine::new(now, setup), answers, text, drained: false }
    }

    /// Admits a request, or says why not.
    pub fn submit(&mut self, now: Tick, submission: Submission, out: &mut Vec<Outgoing>) -> Option<SequenceId> {
        let Submission { request, stop, events, admitted } = submission;
        let writing = Writing {
            events,
            text: self.text.stream(stop),
            piece: None,
            call_id: request.call_id.clone(),
            begun: now,
            prompt_tokens: request.prompt.len(),
            tokens: 0,
        };
        let outcome = self.machine.submit(now, request);
        let sequence = outcome.as_ref().ok().copied();
        match (&outcome, sequence) {
            (_, Some(sequence)) => {
                tracing::debug!(call_id = writing.call_id, %sequence, prompt_tokens = writing.prompt_tokens, "admitted");
                self.answers.writing.insert(sequence, writing);
            }
            (Err(fault), None) => tracing::debug!(call_id = writing.call_id, %fault, "refused"),
            (Ok(_), None) => {}
        }
        if admitted.send(outcome).is_err()
            && let Some(sequence) = sequence
        {
            self.on(now, DoorEvent::Cancel(sequence), out);
            return None;
        }
        self.on(now, DoorEvent::Time, out);
        sequence
    }

    /// Takes `event` in.
    pub fn on(&mut self, now: Tick, event: DoorEvent, out: &mut Vec<Outgoing>) {
        let mut actions = Vec::new();
        self.machine.on(now, event, &mut self.answers, &mut actions);
        for action in actions {
            match action {
                DoorAction::Send { stage, to, body } => out.push((stage, to, body)),
                DoorAction::Token { sequence, id, observed } => {
                    if let Some(writing) = self.answers.writing.get_mut(&sequence) {
                        writing.tokens += 1;
                        let text = writing.piece.take().map(|piece| piece.text).unwrap_or_default();
                        // The channel holds the longest answer, so only a client that went away makes this fail.
                        let _ = writing.events.try_send(AnswerEvent::Token { id, text, observed });
                    }
                }
                DoorAction::Vector { sequence, values } => {
                    if let Some(writing) = self.answers.writing.get_mut(&sequence) {
                        let _ = writing.events.try_send(AnswerEvent::Vector(values));
                    }
                }
                DoorAction::Ended { sequence, outcome } => self.end(now, sequence, outcome),
                DoorAction::Drained => self.drained = true,
            }
        }
    }

    fn end(&mut self, now: Tick, sequence: SequenceId, outcome: Result<FinishReason, Fault>) {
        let Some(mut writing) = self.answers.writing.remove(&sequence) else { return };
        let ms = now.since(writing.begun).as_millis() as u64;
        let (call_id, tokens) = (writing.call_id, writing.tokens);
        let last = match outcome {
            Ok(reason) => {
                tracing::debug!(call_id, %sequence, prompt_tokens = writing.prompt_tokens, tokens, ms, "answered");
                AnswerEvent::Finished { reason, text: writing.text.finish() }
            }
            Err(fault) => {
                tracing::debug!(call_id, %sequence, tokens, ms, %fault, "failed");
                AnswerEvent::Failed(fault)
            }
        };
        let _ = writing.events.try_send(last);
    }

    /// When to send [`DoorEvent::Time`].
    pub fn next_deadline(&self) -> Option<Tick> {
        self.machine.next_deadline()
    }

    /// The machine, to be looked at.
    pub fn machine(&self) -> &DoorMachine {
        &self.machine
    }

    /// Whether it was told to drain and nothing is left.
    pub fn is_drained(&self) -> bool {
        self.drained
    }
}
