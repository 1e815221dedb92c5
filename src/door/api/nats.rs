//! The door on NATS: a request's body as a message, its answer as one reply, or as a reply each event.
//!
//! Requests go to [`Subjects::ask`](stageline_wire::Subjects::ask), which all doors of a pipeline's name share as one queue group:
//! NATS picks a door; or to [`Subjects::ask_digest`](stageline_wire::Subjects::ask_digest), where only doors of that digest are.
//! The message's headers are those of HTTP (`Content-Type`, without which the payload is JSON; `Content-Encoding`, `Accept`,
//! `X-Call-Id`, `X-Timeout`, `Prefer`, `Idempotency-Key`, `X-Callback-Url`, `Authorization`, `X-Api-Key`, `traceparent`), and so are its payload and what it is answered (`api/native`). A reply carries `Stageline-Status`,
//! HTTP's status; one of a stream carries `Stageline-Event`, the event's name (`token`, `done` or `error`; `done` and `error` are
//! the last), and the event's data as payload. Each of a durable request carries `X-Stageline-Request`, its id.
//!
//! A message with the header `Stageline-Request` asks of durable requests instead (`kept`).
//!
//! Nobody tells a door that a requester has gone: what bounds such a request, and the sending of its answer, is its deadline.

mod kept;

use super::native::{self, Reply};
use crate::call::Call;
use crate::http::refusal::Refusal;
use crate::http::visit::attended;
use crate::site::Site;
use async_nats::{Client, HeaderMap, Message, Subject, Subscriber};
use axum::body::{Body, Bytes};
use axum::http::{self, HeaderName, HeaderValue, header};
use futures::StreamExt;
use stageline_base::trace::TRACEPARENT;
use stageline_base::{Fault, FaultClass};
use stageline_transport::INBOX_PREFIX;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// Requests that a door serves at once from NATS; more are refused with 429.
const MOST_AT_ONCE: usize = 1024;
/// How long a refusal may take to be sent: a broker that is away holds nobody up.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after its end a subscription is taken up again.
const AGAIN: Duration = Duration::from_secs(2);
/// The queue group of a pipeline's doors.
const GROUP: &str = "door";
/// Headers of a message that are the HTTP request's.
const HEADERS: [HeaderName; 11] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ACCEPT,
    HeaderName::from_static("x-call-id"),
    HeaderName::from_static("x-timeout"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-callback-url"),
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static(TRACEPARENT),
];
/// The header of each reply that is of a durable request: its id. NATS keeps the case of names.
const REQUEST: &str = "X-Stageline-Request";
/// The header of a reply that is all of an answer: its status.
const STATUS: &str = "Stageline-Status";
/// The header of a reply that is a part of an answer: its event.
const EVENT: &str = "Stageline-Event";

/// A door on NATS: what it answers by, and what it is answering.
pub struct NatsDoor {
    client: Client,
    site: Arc<Site>,
    /// What the broker says is wrong.
    errors: broadcast::Receiver<String>,
    room: Arc<Semaphore>,
    serving: JoinSet<()>,
}

impl NatsDoor {
    /// A door of `site`, whose broker reports `errors`.
    pub fn new(client: Client, errors: broadcast::Receiver<String>, site: Arc<Site>) -> Self {
        Self { client, site, errors, room: Arc::new(Semaphore::new(MOST_AT_ONCE)), serving: JoinSet::new() }
    }

    /// Answers what comes to `subject` until `stop`, then finishes what it serves. A subscription that the broker does not take, or
    /// ends, is taken up again.
    pub async fn serve(mut self, subject: String, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.client.queue_subscribe(subject.clone(), GROUP.into()).await {
                Ok(requests) => {
                    self.answer_all(requests, &subject, &stop).await;
                    if !stop.is_cancelled() {
                        warn!(%subject, "the door's subscription at NATS has ended: it is taken up again");
                    }
                }
                Err(error) => warn!(%subject, %error, "NATS takes no subscription of the door's: it is tried again"),
            }
            let _ = timeout(AGAIN, stop.cancelled()).await;
        }
        while let Some(ended) = self.serving.join_next().await {
            report(ended);
        }
    }

    /// Answers what comes by `requests` until `stop` or until they end.
    async fn answer_all(&mut self, mut requests: Subscriber, subject: &str, stop: &CancellationToken) {
        let mut draining = false;
        loop {
            tokio::select! {
                // Stopping first: a flood of requests must not delay it.
                biased;
                () = either(stop, &mut self.errors, subject), if !draining => {
                    draining = true;
                    // What has arrived is answered; the broker sends what comes now to other doors.
                    if let Err(error) = requests.drain().await {
                        debug!(%error, "the subscription is gone already");
                    }
                }
                Some(ended) = self.serving.join_next() => report(ended),
                next = requests.next() => {
                    let Some(message) = next else { break };
                    let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                        // Whoever comes to a full door is told at once; to wait would take as long as the others' deadlines.
                        let _ = timeout(REFUSAL_TIMEOUT, refuse(&self.client, message)).await;
                        continue;
                    };
                    let (client, site) = (self.client.clone(), Arc::clone(&self.site));
                    self.serving.spawn(async move {
                        let answering = answer(&client, &site, message);
                        if attended(answering, Arc::default(), CancellationToken::new()).await.is_err() {
                            debug!("an answer could not be sent to NATS in time");
                        }
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Resolves at `stop`, or when the broker says that it has no subscription to `subject`: nothing would come by it any more.
async fn either(stop: &CancellationToken, errors: &mut broadcast::Receiver<String>, subject: &str) {
    let refused = async {
        let subject = format!("\"{subject}\"");
        loop {
            match errors.recv().await {
                Ok(error) if error.contains("Subscription") && error.contains(&subject) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = refused => {}
    }
}

/// A defect ends its own request, no more.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(defect) = ended {
        error!(%defect, "a request from NATS broke");
    }
}

async fn refuse(client: &Client, message: Message) {
    let Some(reply) = message.reply else { return };
    let fault =
        Fault::new(FaultClass::Overloaded, format!("there is no room: {MOST_AT_ONCE} requests are being served"));
    send_refusal(client, &reply, &fault.into()).await;
}

async fn answer(client: &Client, site: &Arc<Site>, message: Message) {
    let Some(to) = message.reply.clone() else {
        warn!("a request from NATS names no subject for its answer: it is dropped");
        return;
    };
    // What only this program's own users may write to, a requester must not have a door write to.
    if ["$", "stageline.", INBOX_PREFIX].iter().any(|ours| to.starts_with(ours)) {
        warn!(subject = %to, "a request from NATS wants its answer where no client listens: it is dropped");
        return;
    }
    let headers = match head(&message) {
        Ok(headers) => headers,
        Err(fault) => return send_refusal(client, &to, &fault.into()).await,
    };
    if let Some(asked) = values_of(&message, kept::ASKED).next() {
        return kept::answer(client, site, (&to, asked), headers).await;
    }
    let call = Call::new(site, &headers, Instant::now());
    let reply = match native::reply(site, call, &headers, Body::from(message.payload)).await {
        Ok(reply) => reply,
        Err(refusal) => return send_refusal(client, &to, &refusal).await,
    };
    let request = reply.request().map(str::to_owned);
    let send = |said, payload: String| send(client, &to, said, request.as_deref(), payload.into());
    match reply {
        Reply::Accepted { json, .. } => send((STATUS, "202"), json).await,
        Reply::Whole { json, .. } => send((STATUS, "200"), json).await,
        Reply::Events(mut events) => {
            while let Some(event) = events.next().await {
                send((EVENT, event.name.unwrap_or("token")), event.data).await;
            }
        }
    }
}

/// What the message's headers say, as HTTP says it.
///
/// # Errors
/// `InvalidRequest` for a value that no header of HTTP has.
fn head(message: &Message) -> Result<http::HeaderMap, Fault> {
    let mut head = http::HeaderMap::new();
    for name in HEADERS {
        for value in values_of(message, name.as_str()) {
            match HeaderValue::from_str(value) {
                Ok(value) => drop(head.append(name.clone(), value)),
                // Whatever it holds, no request is refused for it.
                Err(_) if name == TRACEPARENT => {}
                Err(_) => return Err(Fault::invalid("a header holds what HTTP's may not")),
            }
        }
    }
    head.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(head)
}

/// The values of a header, each as often as it was sent.
fn values_of<'m>(message: &'m Message, name: &str) -> impl Iterator<Item = &'m str> {
    // NATS keeps the case of names as it was sent.
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let named = headers.filter(move |(known, _)| known.to_string().eq_ignore_ascii_case(name));
    named.flat_map(|(_, values)| values.iter().map(|value| value.as_str()))
}

async fn send_refusal(client: &Client, to: &Subject, refusal: &Refusal) {
    send(client, to, (STATUS, refusal.status().as_str()), refusal.request(), refusal.body().into()).await;
}

/// Sends one reply, of that durable request where there is one; one that the broker would not carry becomes the words that say so.
async fn send(client: &Client, to: &Subject, (name, value): (&str, &str), request: Option<&str>, payload: Bytes) {
    let most = client.max_payload();
    let mut headers = HeaderMap::new();
    let too_large = payload.len() + 256 > most;
    let (name, value, payload) = match too_large {
        false => (name, value, payload),
        true => {
            let other = "ask for a stream, or over HTTP";
            let words = format!("the answer has {} bytes and the broker takes {most}: {other}", payload.len());
            let refusal = Refusal::from(Fault::new(FaultClass::TooLarge, words));
            (name, if name == EVENT { "error" } else { "413" }, refusal.body().into())
        }
    };
    headers.insert(name, value);
    if let Some(request) = request {
        headers.insert(REQUEST, request);
    }
    if let Err(error) = client.publish_with_headers(to.clone(), headers, payload).await {
        warn!(%error, "a reply is not taken by NATS");
    }
}
