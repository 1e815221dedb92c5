//! The door on NATS: a request's body as a message, its answer as one reply, or as a reply each event.
//!
//! Requests go to [`Subjects::ask`](stageline_wire::Subjects::ask), which all doors of a pipeline's name share as one queue group:
//! NATS picks a door; or to [`Subjects::ask_digest`](stageline_wire::Subjects::ask_digest), where only doors of that digest are.
//! The message's headers are those of HTTP (`Content-Type`, without which the payload is JSON; `Content-Encoding`, `Accept`,
//! `X-Call-Id`, `X-Timeout`), and so is its payload; the HTTP router answers it. A reply carries `Stageline-Status`, HTTP's
//! status; one of a stream carries `Stageline-Event`, the event's name (`token`, `done` or `error`; `done` and `error` are the
//! last), and the event's data as payload.
//!
//! Nobody tells a door that a requester has gone: what bounds such a request, and the sending of its answer, is its deadline.

use crate::http::refusal::fault_body;
use crate::http::visit::attended;
use async_nats::{Client, HeaderMap, Message, Subscriber};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{self, header};
use futures::StreamExt;
use stageline_base::{Fault, FaultClass};
use stageline_transport::INBOX_PREFIX;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
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
const HEADERS: [&str; 5] = ["content-type", "content-encoding", "accept", "x-call-id", "x-timeout"];

/// A door on NATS: what it answers by, and what it is answering.
pub struct NatsDoor {
    client: Client,
    router: Router,
    /// What the broker says is wrong.
    errors: broadcast::Receiver<String>,
    room: Arc<Semaphore>,
    serving: JoinSet<()>,
}

impl NatsDoor {
    /// A door that answers by `router`, and whose broker reports `errors`.
    pub fn new(client: Client, errors: broadcast::Receiver<String>, router: Router) -> Self {
        Self { client, router, errors, room: Arc::new(Semaphore::new(MOST_AT_ONCE)), serving: JoinSet::new() }
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
                    let (client, router) = (self.client.clone(), self.router.clone());
                    self.serving.spawn(async move {
                        let answering = answer(&client, router, message);
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
    send(client, &reply, ("Stageline-Status", "429"), fault_body(&fault).into()).await;
}

async fn answer(client: &Client, router: Router, message: Message) {
    let Some(reply) = message.reply.clone() else {
        warn!("a request from NATS names no subject for its answer: it is dropped");
        return;
    };
    // What only this program's own users may write to, a requester must not have a door write to.
    if ["$", "stageline.", INBOX_PREFIX].iter().any(|ours| reply.starts_with(ours)) {
        warn!(subject = %reply, "a request from NATS wants its answer where no client listens: it is dropped");
        return;
    }
    let mut request = http::Request::post("/");
    for name in HEADERS {
        for value in values_of(&message, name) {
            request = request.header(name, value);
        }
    }
    if values_of(&message, "content-type").next().is_none() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = match request.body(Body::from(message.payload)) {
        Ok(request) => request,
        Err(_) => {
            let fault = Fault::invalid("a header holds what HTTP's may not");
            return send(client, &reply, ("Stageline-Status", "400"), fault_body(&fault).into()).await;
        }
    };
    // Routing cannot fail.
    let Ok(response) = router.oneshot(request).await;
    let streams = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let status = response.status().as_u16().to_string();
    let mut body = response.into_body().into_data_stream();
    if !streams {
        let mut whole = Vec::new();
        while let Some(Ok(chunk)) = body.next().await {
            whole.extend_from_slice(&chunk);
        }
        return send(client, &reply, ("Stageline-Status", &status), whole.into()).await;
    }
    // The door sends each event as one piece.
    while let Some(Ok(event)) = body.next().await {
        let text = String::from_utf8_lossy(&event);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let (name, data) = (field("event: ").unwrap_or("token"), field("data: ").unwrap_or_default());
        send(client, &reply, ("Stageline-Event", name), data.to_owned().into()).await;
    }
}

/// The values of a header, each as often as it was sent.
fn values_of<'m>(message: &'m Message, name: &str) -> impl Iterator<Item = &'m str> {
    // NATS keeps the case of names as it was sent.
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let named = headers.filter(move |(known, _)| known.to_string().eq_ignore_ascii_case(name));
    named.flat_map(|(_, values)| values.iter().map(|value| value.as_str()))
}

/// Sends one reply; one that the broker would not carry becomes the words that say so.
async fn send(client: &Client, to: &async_nats::Subject, (name, value): (&str, &str), payload: Bytes) {
    let most = client.max_payload();
    let mut headers = HeaderMap::new();
    let too_large = payload.len() + 256 > most;
    let (name, value, payload) = match too_large {
        false => (name, value, payload),
        true => {
            let words = format!("the answer has {} bytes and the broker takes {most}: ask for a stream", payload.len());
            let fault = Fault::new(FaultClass::TooLarge, words);
            let value = if name == "Stageline-Event" { "error" } else { "413" };
            (name, value, fault_body(&fault).into())
        }
    };
    headers.insert(name, value);
    if let Err(error) = client.publish_with_headers(to.clone(), headers, payload).await {
        warn!(%error, "a reply is not taken by NATS");
    }
}
