//! The door's machine with the answers it writes: text, end tokens, stop strings, clients.

use crate::request::AnswerEvent;
use crate::text::TextStream;
use stageline_base::{Fault, Gives, SequenceId, StageIndex, Tick, Trace};
use stageline_core::message::Body;
use stageline_core::requests::{DoorAction, DoorEvent, DoorMachine, DoorSetup, FinishReason, Judged, NewRequest};
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};

/// A checked and tokenized request on its way to the desk.
pub struct Submission {
    /// The request.
    pub request: NewRequest,
    /// Its answer's text, of what is generated already on; of a model that has one.
    pub text: Option<TextStream>,
    /// Where its answer goes: room for `max_tokens + 2` events.
    pub events: mpsc::Sender<AnswerEvent>,
    /// Told whether it was admitted.
    pub admitted: oneshot::Sender<Result<SequenceId, Fault>>,
}

/// An answer being written.
struct Writing {
    events: mpsc::Sender<AnswerEvent>,
    /// Of a model that has a text.
    text: Option<TextStream>,
    call_id: String,
    trace: Trace,
    begun: Tick,
    prompt_tokens: usize,
    tokens: u64,
}

/// See the module.
pub struct Desk {
    machine: DoorMachine,
    writing: HashMap<SequenceId, Writing>,
    gives: Gives,
    drained: bool,
}

/// Mail that the desk wants sent.
pub type Outgoing = (StageIndex, stageline_base::ReplicaId, Body);

impl Desk {
    /// A desk without requests, of a model whose answers are what `gives` says.
    pub fn new(now: Tick, setup: DoorSetup, gives: Gives) -> Self {
        Self { machine: DoorMachine::new(now, setup), writing: HashMap::new(), gives, drained: false }
    }

    /// Admits a request, or says why not.
    pub fn submit(&mut self, now: Tick, submission: Submission, out: &mut Vec<Outgoing>) -> Option<SequenceId> {
        let Submission { request, text, events, admitted } = submission;
        let writing = Writing {
            events,
            text,
            call_id: request.call_id.clone(),
            trace: request.trace,
            begun: now,
            prompt_tokens: request.input.tokens(),
            tokens: 0,
        };
        let outcome = self.machine.submit(now, request);
        let sequence = outcome.as_ref().ok().copied();
        match (&outcome, sequence) {
            (_, Some(sequence)) => {
                let Writing { call_id, trace, prompt_tokens, .. } = &writing;
                tracing::debug!(call_id, traceparent = %trace, %sequence, prompt_tokens, "admitted");
                self.writing.insert(sequence, writing);
            }
            (Err(fault), None) => {
                tracing::debug!(call_id = writing.call_id, traceparent = %writing.trace, %fault, "refused")
            }
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

    /// Takes `event` in. What the machine tells of tokens is answered until it has nothing more to tell.
    pub fn on(&mut self, now: Tick, event: DoorEvent, out: &mut Vec<Outgoing>) {
        let mut next = Some(event);
        while let Some(event) = next {
            let mut actions = Vec::new();
            self.machine.on(now, event, &mut actions);
            let judged: Vec<Judged> = actions.into_iter().filter_map(|action| self.act(now, action, out)).collect();
            next = (!judged.is_empty()).then_some(DoorEvent::Judged(judged));
        }
    }

    /// Carries out what the machine wants; of a token, whether its answer ends with it.
    fn act(&mut self, now: Tick, action: DoorAction, out: &mut Vec<Outgoing>) -> Option<Judged> {
        match action {
            DoorAction::Send { stage, to, body } => out.push((stage, to, body)),
            DoorAction::Token { sequence, position, id, observed } => {
                let writing = self.writing.get_mut(&sequence)?;
                let (text, end) = writing.text.as_mut().map_or_else(Default::default, |text| text.token(id));
                writing.tokens += 1;
                // The channel holds the longest answer, so only a client that went away makes this fail.
                let _ = writing.events.try_send(AnswerEvent::Token { id, text, observed });
                return Some(Judged { sequence, position, end });
            }
            DoorAction::Answer { sequence, tensors } => {
                let writing = self.writing.get_mut(&sequence)?;
                let _ = writing.events.try_send(AnswerEvent::of(tensors, self.gives));
            }
            DoorAction::Ended { sequence, outcome } => self.end(now, sequence, outcome),
            DoorAction::Drained => self.drained = true,
        }
        None
    }

    fn end(&mut self, now: Tick, sequence: SequenceId, outcome: Result<FinishReason, Fault>) {
        let Some(mut writing) = self.writing.remove(&sequence) else { return };
        let ms = now.since(writing.begun).as_millis() as u64;
        let (call_id, traceparent, tokens) = (writing.call_id, writing.trace, writing.tokens);
        let last = match outcome {
            Ok(reason) => {
                let prompt_tokens = writing.prompt_tokens;
                tracing::debug!(call_id, %traceparent, %sequence, prompt_tokens, tokens, ms, "answered");
                AnswerEvent::Finished {
                    reason,
                    text: writing.text.as_mut().map(TextStream::finish).unwrap_or_default(),
                }
            }
            Err(fault) => {
                tracing::debug!(call_id, %traceparent, %sequence, tokens, ms, %fault, "failed");
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
