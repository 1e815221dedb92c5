//! Clients whose requests are kept: what they were promised must come, whatever dies, at whichever door they ask.

use crate::asks::{Ask, Given, Sent, next_event};
use crate::clients::{Clients, difference};
use crate::clock::due;
use crate::plan::DOORS;
use stageline_base::prng::Prng;
use std::time::{Duration, Instant};

/// Pause before another door is asked.
const BEAT: Duration = Duration::from_millis(50);
/// A client that has no answer by then has lost it: longer than two leases, a broker that is away, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long a connection takes at most, and how long nothing may come: a process that was stopped answers nothing.
const CONNECT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(8);

/// What a client of a kept request knows.
#[derive(Default)]
struct Reading {
    given: Given,
    /// Connections that it read by.
    streams: usize,
}

enum Step {
    /// Another door may do better.
    Again,
    Done,
    Wrong(String),
}

impl Clients {
    /// Is the client of this number.
    pub async fn keep(&self, number: u64) {
        let mut random = Prng::new(self.seed ^ (number << 40));
        let mut asked = 0;
        while !self.stop.is_cancelled() {
            asked += 1;
            let which = random.below(self.known.len() as u64) as usize;
            let (begun, mut reading) = (Instant::now(), Reading::default());
            let key = format!("kept-{number}-{asked}");
            let kept = self.kept(which, &key, &mut reading, &mut random);
            let end = tokio::time::timeout(PATIENCE, kept).await;
            let mut ledger = self.ledger.lock().expect("nobody panics here");
            match end {
                Ok(Ok(())) => {
                    ledger.kept += 1;
                    ledger.kept_tokens += reading.given.ids.len();
                    ledger.kept_streams += reading.streams;
                    ledger.kept_longest = ledger.kept_longest.max(begun.elapsed());
                }
                Ok(Err(why)) => ledger.faults.push(format!("kept request {key} ({which}): {why}")),
                Err(_) => {
                    let tokens = reading.given.ids.len();
                    ledger.faults.push(format!("kept request {key} ({which}): {tokens} tokens after {PATIENCE:?}"));
                }
            }
        }
    }

    /// Has request `which` kept under `key`, and reads its answer to the end.
    async fn kept(&self, which: usize, key: &str, reading: &mut Reading, random: &mut Prng) -> Result<(), String> {
        let (ask, right) = &self.known[which];
        let mut path = None;
        loop {
            let (address, _) = self.site.found(DOORS[random.below(2) as usize]).await;
            let step = match &path {
                None => match accepted(ask, &address, key).await {
                    Ok(accepted) => {
                        path = accepted;
                        Step::Again
                    }
                    Err(why) => Step::Wrong(why),
                },
                Some(path) => read(&address, path, reading).await,
            };
            match step {
                Step::Again => due(BEAT).await,
                Step::Done if reading.given == *right => return Ok(()),
                Step::Done => return Err(difference(&reading.given, right)),
                Step::Wrong(why) => return Err(why),
            }
        }
    }
}

fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).read_timeout(SILENCE);
    client.build().expect("a client")
}

/// The path of a request that the door at `address` accepts; `None` if it does not now.
async fn accepted(ask: &Ask, address: &str, key: &str) -> Result<Option<String>, String> {
    let request = client().post(format!("http://{address}/")).json(&ask.body(false));
    let request = request.header("prefer", "respond-async").header("idempotency-key", key);
    let Ok(answer) = request.send().await else { return Ok(None) };
    match answer.status().as_u16() {
        202 => Ok(answer.headers().get("location").and_then(|path| path.to_str().ok()).map(str::to_owned)),
        429 | 503 => Ok(None),
        status => Err(format!("it was not accepted: {status} {}", answer.text().await.unwrap_or_default())),
    }
}

/// Reads on at the door at `address`.
async fn read(address: &str, path: &str, reading: &mut Reading) -> Step {
    let request = client().get(format!("http://{address}{path}")).header("accept", "text/event-stream");
    let request = match reading.given.ids.len() {
        0 => request,
        count => request.header("last-event-id", (count - 1).to_string()),
    };
    let Ok(mut answer) = request.send().await else { return Step::Again };
    match answer.status().as_u16() {
        200 => {}
        429 | 503 | 504 => return Step::Again,
        status => return Step::Wrong(format!("{status} {}", answer.text().await.unwrap_or_default())),
    }
    reading.streams += 1;
    let mut held = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        held.extend_from_slice(&chunk);
        while let Some(event) = next_event(&mut held) {
            if let Some(step) = take(event, &mut reading.given) {
                return step;
            }
        }
    }
    Step::Again
}

/// Takes an event in; what follows, if it is the last.
fn take(Sent { id, name, body }: Sent, given: &mut Given) -> Option<Step> {
    match name.as_deref() {
        None if id == Some(given.ids.len().to_string()) => {
            given.take(body["token_id"].as_u64().expect("an id") as u32, body["text"].as_str());
            None
        }
        None => Some(Step::Wrong(format!("token {id:?} is not the next of {}: {body}", given.ids.len()))),
        Some("done") => {
            given.text += body["text"].as_str().expect("a text");
            Some(Step::Done)
        }
        // The door could not go on reading the log, which says nothing of the request.
        Some(_) if ["unavailable", "deadline_exceeded"].iter().any(|class| body["error"]["class"] == *class) => {
            Some(Step::Again)
        }
        Some(_) => Some(Step::Wrong(format!("after {} tokens: {body}", given.ids.len()))),
    }
}
