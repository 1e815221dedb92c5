//! An answer's pieces as one JSON body, or as events.

use super::replies::{DoneEvent, Embedding, Logits, TokenEvent, VectorEvent, Whole};
use crate::AnswerEvent;
use crate::call::Answering;
use crate::call_ids::name_request;
use crate::http::json::written;
use crate::http::refusal::ErrorBody;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use stageline_base::Fault;
use std::convert::Infallible;
use std::fmt;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// What a request is answered.
pub(in crate::api) enum Reply {
    /// All of it.
    Whole {
        /// As JSON.
        json: String,
        /// The durable request that it answers, if it answers one.
        request: Option<String>,
    },
    /// In pieces, as they come.
    Events(Box<Events>),
    /// That it was accepted, and under which id.
    Accepted {
        /// Its id.
        id: String,
        /// What says so, as JSON.
        json: String,
    },
}

impl Reply {
    /// The durable request that it is of, if it is of one.
    pub(in crate::api) fn request(&self) -> Option<&str> {
        match self {
            Self::Whole { request, .. } => request.as_deref(),
            Self::Events(events) => events.answering.call.request.as_deref(),
            Self::Accepted { id, .. } => Some(id),
        }
    }
}

/// A piece of an answer.
pub(in crate::api) struct Event {
    /// `done` or `error`, which are the last, or none.
    pub name: Option<&'static str>,
    /// A token's place in the answer, from 0.
    id: Option<u64>,
    /// What it says, as JSON.
    pub data: String,
}

/// As a server-sent event.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = self.id {
            writeln!(f, "id: {id}")?;
        }
        if let Some(name) = self.name {
            writeln!(f, "event: {name}")?;
        }
        write!(f, "data: {}\n\n", self.data)
    }
}

/// 202, and where the answer will be.
fn accepted(id: &str, json: String) -> Response {
    let applied = (HeaderName::from_static("preference-applied"), HeaderValue::from_static("respond-async"));
    let mut response = (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, JSON), applied], json).into_response();
    // Of hexadecimal digits.
    if let Ok(location) = HeaderValue::from_str(&format!("/requests/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let request = self.request().map(str::to_owned);
        let mut response = match self {
            Self::Whole { json, .. } => ([(header::CONTENT_TYPE, JSON)], json).into_response(),
            Self::Accepted { id, json } => accepted(&id, json),
            Self::Events(events) => events.into_response(),
        };
        name_request(response.headers_mut(), request.as_deref());
        response
    }
}

impl IntoResponse for Box<Events> {
    fn into_response(self) -> Response {
        let pieces = stream::unfold(self, |mut events| async {
            let event = events.next().await?;
            Some((Ok::<_, Infallible>(event.to_string()), events))
        });
        let no_cache = (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Asks proxies such as nginx to pass each event on at once.
        let no_buffer = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        ([(header::CONTENT_TYPE, EVENTS), no_cache, no_buffer], Body::from_stream(pieces)).into_response()
    }
}

/// The whole answer in one body.
pub(super) async fn whole(mut answering: Answering) -> Result<Reply, Fault> {
    let mut events = Vec::new();
    while let Some(event) = answering.next().await {
        match event {
            AnswerEvent::Failed(fault) => return Err(fault),
            event => events.push(event),
        }
    }
    let request = answering.call.request.clone();
    Ok(Reply::Whole { json: in_one(events, answering.prompt_tokens(), answering.call.id.clone()), request })
}

/// The body of an answer that came in these pieces.
pub(in crate::api) fn in_one(events: Vec<AnswerEvent>, prompt_tokens: u32, call_id: String) -> String {
    let mut text = String::new();
    let mut token_ids = Vec::new();
    let mut logits = Vec::new();
    let mut embedding = None;
    let mut finish_reason = "";
    for event in events {
        match event {
            AnswerEvent::Token { id, text: piece, observed } => {
                text += &piece;
                token_ids.push(id);
                logits.extend(observed.as_ref().map(Logits::from));
            }
            AnswerEvent::Vector(vector) => embedding = Some(vector),
            // No request of this API is answered so.
            AnswerEvent::Tensors(_) | AnswerEvent::Failed(_) => {}
            AnswerEvent::Finished { reason, text: piece } => {
                text += &piece;
                finish_reason = reason.as_str();
            }
        }
    }
    match embedding {
        Some(embedding) => written(&Embedding { embedding, prompt_tokens, call_id }),
        None => {
            let logits = (!logits.is_empty()).then_some(logits);
            written(&Whole { text, token_ids, finish_reason, logits, prompt_tokens, call_id })
        }
    }
}

/// The answer as events, one a token as it comes, then `done` or `error`; the first token is the one at `position` of the answer. The
/// first piece is awaited: what fails before it still has a status of its own.
pub(super) async fn events(mut answering: Answering, position: u64) -> Result<Reply, Fault> {
    match answering.next().await {
        Some(AnswerEvent::Failed(fault)) => Err(fault),
        first => Ok(Reply::Events(Box::new(Events { answering, position, first }))),
    }
}

/// The events of an answer on their way. Dropped when the client goes away, and the answer with them.
pub(in crate::api) struct Events {
    answering: Answering,
    /// Of the next token within the answer.
    position: u64,
    first: Option<AnswerEvent>,
}

impl Events {
    /// The next one; `None` after the last.
    pub(in crate::api) async fn next(&mut self) -> Option<Event> {
        let event = match self.first.take() {
            Some(first) => first,
            None => self.answering.next().await?,
        };
        let call_id = &self.answering.call.id;
        Some(match event {
            AnswerEvent::Token { id, text, observed } => {
                let token = TokenEvent { text, token_id: id, logits: observed.as_ref().map(Logits::from) };
                self.position += 1;
                Event { name: None, id: Some(self.position - 1), data: written(&token) }
            }
            // No request of this API is answered so.
            AnswerEvent::Tensors(_) => return None,
            AnswerEvent::Vector(embedding) => Event { name: None, id: None, data: written(&VectorEvent { embedding }) },
            AnswerEvent::Finished { reason, text } => {
                let done = DoneEvent {
                    text,
                    finish_reason: reason.as_str(),
                    prompt_tokens: self.answering.prompt_tokens(),
                    answer_tokens: self.position,
                    call_id: call_id.clone(),
                };
                Event { name: Some("done"), id: None, data: written(&done) }
            }
            AnswerEvent::Failed(fault) => {
                Event { name: Some("error"), id: None, data: written(&ErrorBody::of(&fault, Some(call_id))) }
            }
        })
    }
}
