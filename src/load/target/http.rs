//! The function door: JSON in one piece, or server-sent events.

use super::body::{self, Form};
use super::{Failure, Progress, Target, unreachable};
use crate::proxy::Way;
use crate::workload::Ask;
use futures::StreamExt;
use futures::future::BoxFuture;
use stageline_base::{Fault, FaultClass, with_causes};
use std::time::Duration;

/// Longest line of a stream that is read, in bytes.
const MAX_LINE: usize = 16 << 20;

/// A function door.
pub struct HttpTarget {
    client: reqwest::Client,
    url: String,
    form: Form,
}

impl HttpTarget {
    /// The door at `url`, once it is ready. `stream`: tokens are read one by one; `embeds`: the model encodes.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be reached or is not ready, with what to do about it.
    pub async fn connect(url: &str, form: (bool, bool)) -> Result<Self, Fault> {
        let way = Way::to(url)?;
        let words = way.words();
        if let Some(proxy) = &way.proxy {
            tracing::warn!(%url, %proxy, "requests go through a proxy, which is measured too: NO_PROXY leaves it out");
        }
        let build = way.clients().tcp_nodelay(true).http1_only().pool_max_idle_per_host(usize::MAX);
        let client = build.build().map_err(|error| Fault::internal(with_causes(&error)))?;
        let url = url.trim_end_matches('/').to_owned();
        let advice = "start it with `stageline up`, or give the address that it listens on";
        let ready = client.get(format!("{url}/_/ready")).timeout(Duration::from_secs(5)).send().await;
        let ready = ready.map_err(|error| unreachable(&format!("{url}{words}"), with_causes(&error), advice))?;
        let status = ready.status().as_u16();
        // Another server than ours, or a gateway before it, knows no /_/ready: the first requests will show.
        if status == 503 || status == 429 {
            let failure = body::refusal(status, &ready.bytes().await.unwrap_or_default());
            let message = format!("{url} is not ready ({}): wait until {url}/_/ready answers 200", failure.message);
            return Err(Fault::new(FaultClass::Unavailable, message));
        }
        Ok(Self { client, url: format!("{url}/"), form: Form { stream: form.0, embeds: form.1 } })
    }

    async fn ask(&self, ask: &Ask, progress: &mut Progress) -> Result<(), Failure> {
        let accept = if self.form.stream { "text/event-stream" } else { "application/json" };
        let request = self.client.post(&self.url).header("content-type", "application/json").header("accept", accept);
        let answer = request.body(body::write(ask, self.form)).send().await.map_err(|error| broken(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(body::refusal(status.as_u16(), &answer.bytes().await.unwrap_or_default()));
        }
        if !self.form.stream {
            return body::read(&answer.bytes().await.map_err(|error| broken(&error))?, progress);
        }
        let mut chunks = answer.bytes_stream();
        let mut lines = Lines::default();
        while let Some(chunk) = chunks.next().await {
            if lines.take(&chunk.map_err(|error| broken(&error))?, progress)? {
                return Ok(());
            }
        }
        Err(Failure::broken_off("the stream ended without its last event"))
    }
}

impl Target for HttpTarget {
    fn send<'a>(&'a self, ask: &'a Ask, progress: &'a mut Progress) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.ask(ask, progress))
    }
}

fn broken(error: &reqwest::Error) -> Failure {
    let class = if error.is_connect() { "connect" } else { "broken_off" };
    Failure::new(class, with_causes(error))
}

/// Lines of a stream of events, as they become whole.
#[derive(Default)]
struct Lines {
    held: Vec<u8>,
    event: String,
}

impl Lines {
    /// Takes in the next piece; true when the last event is among it.
    fn take(&mut self, chunk: &[u8], progress: &mut Progress) -> Result<bool, Failure> {
        self.held.extend_from_slice(chunk);
        if self.held.len() > MAX_LINE {
            return Err(Failure::new("not_an_answer", "a line of the stream has no end"));
        }
        let mut from = 0;
        let mut last = false;
        while let Some(length) = self.held[from..].iter().position(|byte| *byte == b'\n') {
            let line = self.held[from..from + length].trim_ascii();
            from += length + 1;
            if let Some(name) = line.strip_prefix(b"event:") {
                self.event = String::from_utf8_lossy(name.trim_ascii()).into_owned();
            } else if let Some(payload) = line.strip_prefix(b"data:") {
                last |= body::event(&self.event, payload.trim_ascii(), progress)?;
            } else if line.is_empty() {
                self.event.clear();
            }
        }
        self.held.drain(..from);
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream = b"id: 0\ndata: {\"text\": \"a\"}\n\nid: 1\ndata: {\"text\": \"b\"}\n\n\
                       event: done\ndata: {\"prompt_tokens\": 7}\n\n";
        for size in 1..stream.len() {
            let (mut lines, mut progress) = (Lines::default(), Progress::default());
            let ends: Vec<bool> = stream.chunks(size).map(|c| lines.take(c, &mut progress).unwrap()).collect();
            assert_eq!(progress.counts(), (2, 7), "pieces of {size}");
            assert_eq!(ends.iter().filter(|end| **end).count(), 1);
        }
    }

    #[test]
    fn an_error_event_is_told_by_its_class() {
        let (mut lines, mut progress) = (Lines::default(), Progress::default());
        let event = b"event: error\ndata: {\"error\": {\"class\": \"unavailable\", \"message\": \"gone\"}}\n";
        assert_eq!(lines.take(event, &mut progress), Err(Failure::new("unavailable", "gone")));
    }
}
