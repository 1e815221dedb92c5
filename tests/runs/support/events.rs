//! What a door tells of a run as it happens.

use crate::patience::soon;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// An event: its id, its name, and what it says.
pub type Event = (u64, String, Value);

/// See the module. Dropped, it hangs up.
pub struct Events {
    pub headers: HeaderMap,
    pieces: BoxStream<'static, reqwest::Result<Bytes>>,
    read: String,
}

impl Events {
    /// The events that `request` is answered with.
    pub async fn of(request: RequestBuilder) -> Self {
        let answer = soon("an answer", request.send()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let headers = answer.headers().clone();
        Self { headers, pieces: answer.bytes_stream().boxed(), read: String::new() }
    }

    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let (id, name, said) = (field("id"), field("event"), field("data"));
                let whole = id.zip(name).zip(said).unwrap_or_else(|| panic!("an event of other fields: {event}"));
                let ((id, name), said) = whole;
                let event = (id.parse().unwrap(), name.to_owned(), serde_json::from_str(said).unwrap());
                self.read = rest.to_owned();
                return Some(event);
            }
            match soon("an event", self.pieces.next()).await {
                Some(piece) => self.read += std::str::from_utf8(&piece.unwrap()).unwrap(),
                None => {
                    assert_eq!(self.read, "", "half an event");
                    return None;
                }
            }
        }
    }

    /// The next `count`.
    pub async fn some(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.next().await.unwrap());
        }
        events
    }

    /// All that come.
    pub async fn all(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// Reads on until the event `name` of `node`.
    pub async fn until(&mut self, name: &str, node: &str) {
        loop {
            let (_, event, said) = self.next().await.unwrap_or_else(|| panic!("{node} was never {name}"));
            if event == name && said["node"] == node {
                return;
            }
        }
    }
}
