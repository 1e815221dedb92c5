//! Messages of a stream by one request for many: the broker's batched direct get, which async-nats has no call for.

use super::{PATIENCE, unavailable};
use crate::StoreError;
use async_nats::header::{NATS_SEQUENCE, NATS_SUBJECT};
use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::Stream;
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use std::fmt::Write;
use tokio::time::timeout;

/// Most messages of an answer, and most subjects of a question: the broker refuses beyond 1,024.
pub(super) const PAGE: usize = 512;

/// What is asked for.
pub(super) struct Get(String);

impl Get {
    /// The messages of `subject` behind the sequence number `after`, at most [`PAGE`] of them.
    pub(super) fn after(subject: &str, after: u64) -> Self {
        Self(format!(r#"{{"seq":{},"next_by_subj":"{subject}","batch":{PAGE}}}"#, after + 1))
    }

    /// The last message of each of these subjects, at most [`PAGE`] of them. (Subjects are made of names that need no escape.)
    pub(super) fn last(subjects: &[String]) -> Self {
        let mut list = String::new();
        for subject in subjects {
            let comma = if list.is_empty() { "" } else { "," };
            // Writing to a text cannot fail.
            let _ = write!(list, r#"{comma}"{subject}""#);
        }
        Self(format!(r#"{{"multi_last":[{list}],"batch":{PAGE}}}"#))
    }
}

/// A message of a stream.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) headers: Option<HeaderMap>,
    pub(super) bytes: Bytes,
}

/// What `stream` answers: the messages in order of their sequence numbers, none where there is none.
pub(super) async fn ask(context: &Context, stream: &Stream, get: &Get) -> Result<Vec<Found>, StoreError> {
    let client = context.client();
    let what = "the broker does not say what it stores";
    let inbox = client.new_inbox();
    let ask = async {
        let answers = client.subscribe(inbox.clone()).await.map_err(|error| unavailable(what, error))?;
        let subject = format!("$JS.API.DIRECT.GET.{}", stream.cached_info().config.name);
        let asked = client.publish_with_reply(subject, inbox.clone(), get.0.clone().into()).await;
        asked.map(|()| answers).map_err(|error| unavailable(what, error))
    };
    let mut answers = timeout(PATIENCE, ask).await.map_err(|_| unavailable(what, "it is away"))??;
    let mut found = Vec::new();
    loop {
        let answer = timeout(PATIENCE, answers.next()).await.map_err(|_| unavailable(what, "it does not answer"))?;
        let answer = answer.ok_or_else(|| unavailable(what, "the connection has ended"))?;
        match answer.status {
            None | Some(StatusCode::OK) => {}
            // The end of a batch, or nothing to begin with.
            Some(status) if status.as_u16() == 204 => return Ok(found),
            Some(status) if status.as_u16() == 404 && found.is_empty() => return Ok(found),
            Some(StatusCode::NO_RESPONDERS) => return Err(unavailable(what, "nobody keeps its streams now")),
            Some(status) => {
                return Err(unavailable(what, format!("{status} {}", answer.description.unwrap_or_default())));
            }
        }
        let text = |name| answer.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str());
        let sequence = text(NATS_SEQUENCE).and_then(|sequence| sequence.parse().ok());
        let (Some(sequence), Some(subject)) = (sequence, text(NATS_SUBJECT)) else {
            return Err(unavailable(what, "an answer does not say which message it is"));
        };
        let subject = subject.to_owned();
        found.push(Found { subject, sequence, headers: answer.headers, bytes: answer.payload });
    }
}
