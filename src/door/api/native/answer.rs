//! An answer's pieces as one JSON body, or as server-sent events.

use crate::call::Call;
use crate::http::refusal::json_of;
use crate::{Answer, AnswerEvent};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Map, Value, json};
use stageline_base::Fault;
use stageline_core::Observed;
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
    let mut body = Map::new();
    loop {
        match answer.next().await {
            AnswerEvent::Token { id, text: piece, observed } => {
                call.token();
                text += &piece;
                token_ids.push(id);
                logits.extend(observed.as_ref().map(json_of_logits));
            }
            AnswerEvent::Vector(vector) => {
                body.insert("embedding".into(), json!(vector));
            }
            AnswerEvent::Finished { reason, text: piece } => {
                if !body.contains_key("embedding") {
                    text += &piece;
                    body.insert("text".into(), json!(text));
                    body.insert("token_ids".into(), json!(token_ids));
                    body.insert("finish_reason".into(), json!(reason.as_str()));
                }
                break;
            }
            AnswerEvent::Failed(fault) => return Err((fault, call)),
        }
    }
    if !logits.is_empty() {
        body.insert("logits".into(), json!(logits));
    }
    body.insert("prompt_tokens".into(), json!(answer.prompt_tokens));
    body.insert("call_id".into(), json!(call.id));
    call.ends(None);
    Ok(([(header::CONTENT_TYPE, JSON)], Value::from(body).to_string()).into_response())
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
        let call_id = self.call.id.as_str();
        Some(match event {
            AnswerEvent::Token { id, text, observed } => {
                let mut data = json!({ "text": text, "token_id": id });
                if let Some(observed) = observed {
                    data["logits"] = json_of_logits(&observed);
                }
                self.call.token();
                self.position += 1;
                format!("id: {}\ndata: {data}\n\n", self.position - 1)
            }
            AnswerEvent::Vector(vector) => format!("data: {}\n\n", json!({ "embedding": vector })),
            AnswerEvent::Finished { reason, text } => {
                let prompt_tokens = self.answer.prompt_tokens;
                let data = json!({
                    "text": text, "finish_reason": reason.as_str(), "prompt_tokens": prompt_tokens,
                    "answer_tokens": self.position, "call_id": call_id,
                });
                self.ended = true;
                self.call.ends(None);
                format!("event: done\ndata: {data}\n\n")
            }
            AnswerEvent::Failed(fault) => {
                let data = json_of(&fault, Some(call_id));
                self.call.span.in_scope(|| warn!(%fault, "answer broken off"));
                self.ended = true;
                self.call.ends(Some(fault.class));
                format!("event: error\ndata: {data}\n\n")
            }
        })
    }
}

fn json_of_logits(observed: &Observed) -> Value {
    let top: Vec<Value> = observed.top.iter().map(|(id, logit)| json!({ "id": id, "logit": logit })).collect();
    json!({ "digest": format!("{:016x}", observed.digest), "top": top })
}
