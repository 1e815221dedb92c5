//! An answer's pieces as one JSON body, or as server-sent events.

use super::reply::{DoneEvent, Embedding, Logits, TokenEvent, VectorEvent, Whole};
use crate::call::Call;
use crate::http::json::written;
use crate::http::refusal::ErrorBody;
use crate::{Answer, AnswerEvent};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use stageline_base::Fault;
use std::convert::Infallible;
use tracing::warn;

/// A fault instead of an answer, with the call that it ends.
pub(super) type Failed = (Fault, Call);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// The whole answer in one body.
pub(super) async fn whole(mut answer: Answer, mut call: Call) -> Result<Response, Failed> {
    let mut text = String::new();
    let mut token_ids = Vec::new();
    let mut logits = Vec::new();
    let mut embedding = None;
    let finish_reason = loop {
        match answer.next().await {
            AnswerEvent::Token { id, text: piece, observed } => {
                call.token();
                text += &piece;
                token_ids.push(id);
                logits.extend(observed.as_ref().map(Logits::from));
            }
            AnswerEvent::Vector(vector) => embedding = Some(vector),
            AnswerEvent::Finished { reason, text: piece } => {
                text += &piece;
                break reason.as_str();
            }
            AnswerEvent::Failed(fault) => return Err((fault, call)),
        }
    };
    let (prompt_tokens, call_id) = (answer.prompt_tokens, call.id.clone());
    let body = match embedding {
        Some(embedding) => written(&Embedding { embedding, prompt_tokens, call_id }),
        None => {
            let logits = (!logits.is_empty()).then_some(logits);
            written(&Whole { text, token_ids, finish_reason, logits, prompt_tokens, call_id })
        }
    };
    call.ends(None);
    Ok(([(header::CONTENT_TYPE, JSON)], body).into_response())
}

/// The answer as a stream of events, one a token as it comes, then `done` or `error`.
///
/// The first piece is awaited before the status is sent: what fails before it still has a status of its own.
pub(super) async fn stream(mut answer: Answer, call: Call) -> Result<Response, Failed> {
    let first = match answer.next().await {
        AnswerEvent::Failed(fault) => return Err((fault, call)),
        first => first,
    };
    let pieces = Pieces { answer, call, position: 0, first: Some(first), ended: false };
    let events = stream::unfold(pieces, |mut pieces| async {
        let event = pieces.next_event().await?;
        Some((Ok::<_, Infallible>(event), pieces))
    });
    let no_cache = (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks proxies such as nginx to pass each event on at once.
    let no_buffer = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([(header::CONTENT_TYPE, EVENTS), no_cache, no_buffer], Body::from_stream(events)).into_response())
}

/// A stream of events on its way. Dropped when the client goes away, and the answer with it.
struct Pieces {
    answer: Answer,
    call: Call,
    /// Of the next token within the answer.
    position: u64,
    first: Option<AnswerEvent>,
    ended: bool,
}

impl Pieces {
    async fn next_event(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let event = match self.first.take() {
            Some(first) => first,
            None => self.answer.next().await,
        };
        Some(match event {
            AnswerEvent::Token { id, text, observed } => {
                let token = TokenEvent { text, token_id: id, logits: observed.as_ref().map(Logits::from) };
                self.call.token();
                self.position += 1;
                format!("id: {}\ndata: {}\n\n", self.position - 1, written(&token))
            }
            AnswerEvent::Vector(embedding) => format!("data: {}\n\n", written(&VectorEvent { embedding })),
            AnswerEvent::Finished { reason, text } => {
                let done = DoneEvent {
                    text,
                    finish_reason: reason.as_str(),
                    prompt_tokens: self.answer.prompt_tokens,
                    answer_tokens: self.position,
                    call_id: self.call.id.clone(),
                };
                self.ended = true;
                self.call.ends(None);
                format!("event: done\ndata: {}\n\n", written(&done))
            }
            AnswerEvent::Failed(fault) => {
                let error = written(&ErrorBody::of(&fault, Some(&self.call.id)));
                self.call.span.in_scope(|| warn!(%fault, "answer broken off"));
                self.ended = true;
                self.call.ends(Some(fault.class));
                format!("event: error\ndata: {error}\n\n")
            }
        })
    }
}
