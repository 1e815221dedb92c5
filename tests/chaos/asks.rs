//! Requests, and what comes of one attempt at each, over HTTP in one piece or event by event, and over gRPC.

use crate::model::VOCAB;
use futures::StreamExt;
use serde_json::{Value, json};
use stageline_base::prng::Prng;
use stageline_proto::inference::{
    self as pb, generate_event::Event, generate_request::Input, inference_client::InferenceClient,
};
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

/// Longer than any run.
const DEADLINE: Duration = Duration::from_secs(240);
/// How long a connection takes at most: a process that was stopped takes none.
const CONNECT: Duration = Duration::from_secs(10);

/// A request whose answer is known.
#[derive(Clone, Debug)]
pub struct Ask {
    prompt: Vec<u32>,
    tokens: u32,
    temperature: f32,
    seed: u64,
    /// Of repetitions; 1 is none.
    penalty: f32,
}

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Whole,
    Events,
    Grpc,
}

/// An answer: its ids, and its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    pub ids: Vec<u32>,
    pub text: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum End {
    /// With its answer.
    Done(Given),
    /// The door did not take it, and said so before anything else.
    Refused(String),
    /// The door gave it up after it had taken it.
    Failed(String),
    /// The connection ended; whether anything had come.
    Broken(String, bool),
    /// The client had what it wanted, and left.
    Left,
}

impl Ask {
    pub fn draw(random: &mut Prng) -> Self {
        let length = 3 + random.below(40);
        Self {
            prompt: (0..length).map(|_| random.below(VOCAB) as u32).collect(),
            tokens: 100 + random.below(600) as u32,
            // Greedy answers hang on every bit as drawn ones do, and end in circles: fewer of them.
            temperature: if random.chance(250) { 0.0 } else { 0.8 },
            seed: random.next_u64(),
            // What a stage holds against the next token is all that came before, also after a replay.
            penalty: if random.chance(500) { 1.0 } else { 1.3 },
        }
    }

    /// Asks the door at `address`. A client that `leaves` does so after some tokens.
    pub async fn at(&self, address: &str, way: Way, leaves: Option<usize>) -> End {
        match way {
            Way::Whole => self.whole(address).await,
            Way::Events => self.events(address, leaves.unwrap_or(usize::MAX)).await,
            Way::Grpc => self.grpc(address, leaves.unwrap_or(usize::MAX)).await,
        }
    }

    /// As it is sent over HTTP.
    pub fn body(&self, stream: bool) -> Value {
        json!({
            "tokens": self.prompt, "max_tokens": self.tokens, "temperature": self.temperature, "seed": self.seed,
            "repetition_penalty": self.penalty,
            "deadline_ms": DEADLINE.as_millis() as u64, "stream": stream,
        })
    }

    async fn post(&self, address: &str, stream: bool) -> Result<reqwest::Response, End> {
        let client = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).build().expect("a client");
        let answer = client.post(format!("http://{address}/")).json(&self.body(stream)).send().await;
        let answer = answer.map_err(|error| match error.is_connect() {
            true => End::Refused("connect".into()),
            false => End::Broken(format!("{error:?}"), false),
        })?;
        match answer.status().as_u16() {
            200 => Ok(answer),
            status @ (429 | 503) => {
                let body: Value = answer.json().await.unwrap_or_default();
                Err(End::Refused(format!("{status} {}", body["error"]["message"].as_str().unwrap_or_default())))
            }
            status => Err(End::Failed(format!("{status} {}", answer.text().await.unwrap_or_default()))),
        }
    }

    async fn whole(&self, address: &str) -> End {
        let answer = match self.post(address, false).await {
            Ok(answer) => answer,
            Err(end) => return end,
        };
        match answer.json::<Value>().await {
            Ok(body) => {
                let ids = body["token_ids"].as_array().expect("ids").iter();
                let ids = ids.map(|id| id.as_u64().expect("an id") as u32).collect();
                End::Done(Given { ids, text: body["text"].as_str().expect("a text").to_owned() })
            }
            Err(error) => End::Broken(format!("{error:?}"), false),
        }
    }

    async fn events(&self, address: &str, leaves: usize) -> End {
        let mut answer = match self.post(address, true).await {
            Ok(answer) => answer,
            Err(end) => return end,
        };
        let (mut given, mut held) = (Given::default(), Vec::new());
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => held.extend_from_slice(&chunk),
                Ok(None) => return End::Broken("no last event".into(), !given.ids.is_empty()),
                Err(error) => return End::Broken(format!("{error:?}"), !given.ids.is_empty()),
            }
            while let Some(Sent { id, name, body }) = next_event(&mut held) {
                match name.as_deref() {
                    None => {
                        if id != Some(given.ids.len().to_string()) {
                            return End::Failed(format!("token {id:?} is not the next of {}: {body}", given.ids.len()));
                        }
                        given.take(body["token_id"].as_u64().expect("an id") as u32, body["text"].as_str());
                        if given.ids.len() >= leaves {
                            return End::Left;
                        }
                    }
                    Some("done") => {
                        given.text += body["text"].as_str().expect("a text");
                        return End::Done(given);
                    }
                    Some(_) => return End::Failed(format!("after {} tokens: {body}", given.ids.len())),
                }
            }
        }
    }

    async fn grpc(&self, address: &str, leaves: usize) -> End {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_timeout(CONNECT);
        let Ok(channel) = endpoint.connect().await else { return End::Refused("connect".into()) };
        let mut request = Request::new(pb::GenerateRequest {
            input: Some(Input::Tokens(pb::TokenIds { ids: self.prompt.clone() })),
            max_tokens: Some(self.tokens),
            temperature: Some(self.temperature),
            repetition_penalty: Some(self.penalty),
            seed: Some(self.seed),
            ..Default::default()
        });
        request.set_timeout(DEADLINE);
        let mut events = match InferenceClient::new(channel).generate(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return ended(&status, None),
        };
        let mut given = Given::default();
        while let Some(event) = events.next().await {
            match event.map(|event| event.event) {
                Ok(Some(Event::Token(token))) => {
                    if token.index as usize != given.ids.len() {
                        return End::Failed(format!("token {} is not the next: {token:?}", given.ids.len()));
                    }
                    given.take(token.token_id, Some(&token.text));
                    if given.ids.len() >= leaves {
                        return End::Left;
                    }
                }
                Ok(Some(Event::Finished(finished))) => {
                    given.text += &finished.text;
                    return End::Done(given);
                }
                Ok(_) => {}
                Err(status) => return ended(&status, Some(given.ids.len())),
            }
        }
        End::Broken("no last event".into(), !given.ids.is_empty())
    }
}

/// A server-sent event.
pub struct Sent {
    pub id: Option<String>,
    pub name: Option<String>,
    pub body: Value,
}

/// Takes the next whole event out of what is held.
pub fn next_event(held: &mut Vec<u8>) -> Option<Sent> {
    let end = held.windows(2).position(|pair| pair == b"\n\n")?;
    let event = String::from_utf8(held.drain(..end + 2).collect()).expect("text");
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let body = serde_json::from_str(&field("data: ").expect("a body")).expect("JSON");
    Some(Sent { id: field("id: "), name: field("event: "), body })
}

impl Given {
    pub fn take(&mut self, id: u32, text: Option<&str>) {
        self.ids.push(id);
        self.text += text.expect("a text");
    }
}

/// What a status says; `tokens` is how many had come since the door took the request, if it did.
fn ended(status: &Status, tokens: Option<usize>) -> End {
    // One that the client made itself has a cause.
    let own = std::error::Error::source(status).is_some();
    let said = format!("{status:?}");
    match (status.code(), tokens) {
        _ if own => End::Broken(said, tokens.is_some_and(|tokens| tokens > 0)),
        (Code::Unavailable | Code::ResourceExhausted, None | Some(0)) => End::Refused(said),
        _ => End::Failed(format!("after {} tokens: {said}", tokens.unwrap_or(0))),
    }
}
