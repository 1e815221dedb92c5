//! Pipelines at a broker: their doors answer what is asked on their subject.

use super::calling::{Answered, Pipelines, passing, useless};
use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Request};
use async_trait::async_trait;
use bytes::Bytes;
use stageline_flow::run::{CallOutcome, Calling, FailureClass};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// After so long without an answer it is asked once more: the door that was asked may be gone. Its request is joined, not repeated.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Pause before a pipeline that has no door is asked again.
const MISSING: Duration = Duration::from_millis(500);

/// Asks pipelines at a broker.
#[derive(Clone, Debug)]
pub struct Asking {
    client: Client,
    /// The key that doors ask for.
    key: Option<String>,
}

impl Asking {
    /// By a connection, with the key that doors ask for.
    pub fn new(client: Client, key: Option<String>) -> Self {
        Self { client, key }
    }
}

#[async_trait]
impl Pipelines for Asking {
    async fn ask(&self, pipeline: &str, call: &Calling, (kind, body): (&str, Bytes)) -> Answered {
        let until = Instant::now() + call.timeout;
        let subject = format!("stageline.v1.{pipeline}.ask");
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut headers = HeaderMap::new();
            let whole = left.as_millis().max(1);
            let pairs = [
                ("Content-Type", kind),
                ("Accept", "application/json"),
                ("X-Call-Id", &call.id),
                ("Idempotency-Key", &call.id),
                ("X-Timeout", &format!("{whole}ms")),
            ];
            for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
                headers.insert(name, value);
            }
            if let Some(key) = &self.key {
                headers.insert("X-Api-Key", key.as_str());
            }
            let request = Request::new().headers(headers).payload(body.clone()).timeout(Some(ASK_AGAIN));
            let late = || passing(FailureClass::Timeout, format!("the pipeline {pipeline} did not answer in time"));
            let answer =
                timeout_at(until, self.client.send_request(subject.clone(), request)).await.map_err(|_| late())?;
            match answer {
                Ok(message) => return answered(&message),
                Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                    // Its stages may be about to start, or the broker to come back.
                    if until <= Instant::now() + MISSING {
                        let words = format!("the pipeline {pipeline} has no door at this broker");
                        return Err(passing(FailureClass::Connect, words));
                    }
                    sleep_until(Instant::now() + MISSING).await;
                }
                Err(error) if error.kind() == RequestErrorKind::TimedOut => {}
                Err(error) => {
                    return Err(passing(
                        FailureClass::Connect,
                        format!("the pipeline {pipeline} cannot be asked: {error}"),
                    ));
                }
            }
        }
    }
}

fn answered(message: &async_nats::Message) -> Answered {
    let status = message.headers.as_ref().and_then(|headers| headers.get("Stageline-Status"));
    let status: u16 = status.and_then(|status| status.as_str().parse().ok()).unwrap_or(500);
    if status == 200 {
        return Ok(("application/json".to_owned(), message.payload.clone()));
    }
    let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
    let said = body["error"]["message"].as_str().unwrap_or("it says no more");
    let reason = format!("it was answered with status {status}: {said}");
    let class = FailureClass::Status(status);
    let retry_after = body["error"]["retry_after"].as_u64().map(Duration::from_secs);
    Err(match status {
        429 | 503 => CallOutcome { retry_after, counts: false, ..passing(class, reason) },
        408 | 502 | 504 => passing(class, reason),
        _ => useless(class, reason),
    })
}
