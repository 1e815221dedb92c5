//! Stages as their clients see them: answers, readiness and metrics over HTTP.

use crate::looking::found;
use crate::patience::soon;
use serde_json::{Value, json};

/// Where a stage serves HTTP.
#[derive(Clone)]
pub struct Place {
    stage: usize,
    address: String,
    client: reqwest::Client,
}

/// A piece of a streamed answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// A token: its data.
    Token(Value),
    /// The end, and what it says.
    Done(Value),
    /// The end, and what went wrong.
    Error(Value),
}

impl Place {
    pub fn new(stage: usize, address: String) -> Self {
        // A connection a request: one that is kept may be that of a process that has died.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
        Self { stage, address, client }
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Status and body of a GET, if anybody answers.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.client.get(format!("http://{}{path}", self.address)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// A value of the metrics, by its name and labels after the pipeline's.
    pub async fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let (_, page) = self.get("/metrics").await?;
        let series = |line: &&str| line.starts_with(&format!("stageline_{name}{{")) && line.contains(labels);
        page.lines().find(series)?.rsplit_once(' ')?.1.parse().ok()
    }

    /// How many sequences and KV blocks the stage holds.
    pub async fn held(&self) -> Option<(u64, u64)> {
        let labels = format!("stage=\"{}\"", self.stage);
        let (live, blocks) = (self.metric("live_sequences", &labels).await?, self.metric("kv_blocks_used", &labels));
        Some((live as u64, blocks.await? as u64))
    }

    /// Waits until the stage holds `sequences` of them and blocks for them: none for none.
    pub async fn holds(&self, sequences: u64) {
        let what = format!("stage {} to hold {sequences} sequences and their blocks", self.stage);
        let holds = async || {
            let (live, blocks) = self.held().await?;
            (live == sequences && (blocks > 0) == (sequences > 0)).then_some(())
        };
        found(&what, holds).await;
    }

    /// Sends a request.
    pub async fn send(&self, body: &Value) -> reqwest::Response {
        self.send_with(&[], body).await
    }

    /// Sends a request with these headers.
    pub async fn send_with(&self, headers: &[(&str, &str)], body: &Value) -> reqwest::Response {
        let request = self.client.post(format!("http://{}/", self.address)).json(body);
        let sent = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send();
        soon("an answer", sent).await.expect("an answer")
    }

    /// Has a request kept, to be answered later; its path.
    #[allow(dead_code, reason = "most test binaries ask at once")]
    pub async fn later(&self, headers: &[(&str, &str)], body: &Value) -> String {
        self.later_as(headers, body.to_string()).await
    }

    /// The same of a body as it is written.
    #[allow(dead_code, reason = "most test binaries ask at once")]
    pub async fn later_as(&self, headers: &[(&str, &str)], body: String) -> String {
        let request = self.client.post(format!("http://{}/", self.address)).body(body);
        let headers = headers.iter().chain(&[("prefer", "respond-async"), ("content-type", "application/json")]);
        let sent = headers.fold(request, |request, (name, value)| request.header(*name, *value)).send();
        let answer = soon("an answer", sent).await.expect("an answer");
        assert_eq!(answer.status(), 202, "{:?}", answer.text().await);
        answer.headers()["location"].to_str().expect("a path").to_owned()
    }

    /// Cancels the request at `path`.
    #[allow(dead_code, reason = "most test binaries ask at once")]
    pub async fn cancel(&self, path: &str) {
        let sent = self.client.delete(format!("http://{}{path}", self.address)).send();
        assert_eq!(soon("an answer", sent).await.expect("an answer").status(), 204);
    }

    /// The stream of the answer at `path`, from the token at `seen` on; `None` if nobody answers.
    #[allow(dead_code, reason = "most test binaries ask at once")]
    pub async fn follow(&self, path: &str, seen: u64) -> Option<Stream> {
        let request = self.client.get(format!("http://{}{path}", self.address)).header("accept", "text/event-stream");
        let request = match seen {
            0 => request,
            seen => request.header("last-event-id", (seen - 1).to_string()),
        };
        let response = soon("an answer", request.send()).await.ok()?;
        assert_eq!(response.status(), 200, "{:?}", response.text().await);
        Some(Stream { response, held: String::new(), tokens: seen })
    }

    /// The stream of an answer to `prompt`, with `more` fields.
    pub async fn stream(&self, prompt: &[u32], more: Value) -> Stream {
        let mut body = json!({"tokens": prompt, "stream": true});
        let fields = more.as_object().expect("fields").clone();
        body.as_object_mut().expect("fields").extend(fields);
        // The door may not have seen yet that the other stages are there.
        let whole = async || Some(self.send(&body).await).filter(|answer| answer.status() != 503);
        let response = found("the pipeline to be whole", whole).await;
        assert_eq!(response.status(), 200, "{:?}", response.text().await);
        Stream { response, held: String::new(), tokens: 0 }
    }
}

/// An answer on its way. Dropped, its connection is closed.
pub struct Stream {
    response: reqwest::Response,
    held: String,
    tokens: u64,
}

impl Stream {
    /// The next piece; `None` if the stream breaks off. Asserts that the tokens are numbered without a hole.
    pub async fn next(&mut self) -> Option<Piece> {
        while !self.held.contains("\n\n") {
            let chunk = soon("the next piece of an answer", self.response.chunk()).await.ok()??;
            self.held += std::str::from_utf8(&chunk).expect("whole events");
        }
        let rest = self.held.split_off(self.held.find("\n\n").expect("it is there") + 2);
        let event = std::mem::replace(&mut self.held, rest);
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let data: Value = serde_json::from_str(field("data: ").expect("data")).expect("JSON");
        Some(match field("event: ") {
            None => {
                assert_eq!(field("id: "), Some(self.tokens.to_string().as_str()), "each token once and in order");
                self.tokens += 1;
                Piece::Token(data)
            }
            Some("done") => Piece::Done(data),
            Some(_) => Piece::Error(data),
        })
    }

    /// The next tokens' data.
    pub async fn tokens(&mut self, count: usize) -> Vec<Value> {
        let mut tokens = Vec::new();
        while tokens.len() < count {
            match self.next().await {
                Some(Piece::Token(token)) => tokens.push(token),
                other => panic!("{other:?} is no token"),
            }
        }
        tokens
    }

    /// What is said at the end, which must be a bad one.
    pub async fn error(&mut self) -> Value {
        loop {
            match self.next().await {
                Some(Piece::Token(_)) => {}
                Some(Piece::Error(error)) => return error,
                other => panic!("{other:?} after {} tokens", self.tokens),
            }
        }
    }

    /// The data of the tokens up to the end, which must be a good one.
    pub async fn rest(mut self) -> Vec<Value> {
        let mut tokens = Vec::new();
        loop {
            match self.next().await {
                Some(Piece::Token(token)) => tokens.push(token),
                Some(Piece::Done(_)) => return tokens,
                other => panic!("{other:?} after {} tokens", self.tokens),
            }
        }
    }
}

/// The ids of tokens' data.
pub fn ids_of(tokens: &[Value]) -> Vec<u32> {
    tokens.iter().map(|token| token["token_id"].as_u64().expect("an id") as u32).collect()
}
