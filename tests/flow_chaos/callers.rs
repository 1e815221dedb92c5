//! Callers: each begins a run, asks again until it is accepted, and now and then wants it no more or says something to it.

use crate::due;
use crate::engines::Addresses;
use serde_json::{Value, json};
use stageline_base::prng::Prng;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Callers at once.
const CALLERS: u64 = 24;

/// A run that was accepted.
#[derive(Debug)]
pub struct Asked {
    pub id: String,
    pub flow: &'static str,
    pub input: Value,
    /// Somebody has wanted it no more, and been told that it is so.
    pub cancelled: bool,
}

pub struct Callers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Vec<Asked>>,
}

impl Callers {
    pub fn start(addresses: Addresses, seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for caller in 0..CALLERS {
            let (addresses, stopped) = (addresses.clone(), stopped.clone());
            let client = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().expect("a client");
            let random = Prng::new(seed * 1000 + caller);
            tasks.spawn(Caller { number: caller, client, addresses, random }.call(stopped));
        }
        Self { stop, tasks }
    }

    /// What was accepted, once nobody calls any more.
    pub async fn stop(self) -> Vec<Asked> {
        self.stop.send_replace(true);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

struct Caller {
    number: u64,
    client: reqwest::Client,
    addresses: Addresses,
    random: Prng,
}

impl Caller {
    async fn call(mut self, stopped: watch::Receiver<bool>) -> Vec<Asked> {
        let mut asked = Vec::new();
        let mut count = 0;
        while !*stopped.borrow() {
            count += 1;
            let flow = if self.random.chance(200) { "gated" } else { "work" };
            let input = json!({ "caller": self.number, "count": count });
            let call_id = format!("{}-{count}", self.number);
            // What was not answered may have been accepted: asked again by its id, it is the same run.
            let Some(id) = self.accepted(flow, &call_id, &input).await else { break };
            let mut run = Asked { id, flow, input, cancelled: false };
            if flow == "gated" {
                self.told(&format!("/runs/{}/signal?name=go", run.id), "7").await;
            } else if self.random.chance(50) {
                run.cancelled = self.told(&format!("/runs/{}/cancel", run.id), "").await;
            }
            asked.push(run);
        }
        asked
    }

    fn any(&mut self) -> Option<String> {
        let there: Vec<String> = self.addresses.lock().expect("nobody panics").iter().flatten().cloned().collect();
        let place = self.random.below(there.len().max(1) as u64) as usize;
        there.get(place).cloned()
    }

    async fn pause(&mut self) {
        let pause = 20 + self.random.below(80);
        due(Duration::from_millis(pause)).await;
    }

    /// The id of the run that was begun.
    async fn accepted(&mut self, flow: &str, call_id: &str, input: &Value) -> Option<String> {
        for _ in 0..3000 {
            if let Some(address) = self.any() {
                let url = format!("{address}/async-function/{flow}");
                let request = self.client.post(url).header("X-Call-Id", call_id).json(input);
                if let Ok(answer) = request.send().await
                    && answer.status() == 202
                    && let Ok(body) = answer.json::<Value>().await
                {
                    return body["id"].as_str().map(str::to_owned);
                }
            }
            self.pause().await;
        }
        None
    }

    /// Gives an order until somebody takes it; whether it was taken, and not refused.
    async fn told(&mut self, path: &str, body: &'static str) -> bool {
        for _ in 0..3000 {
            if let Some(address) = self.any()
                && let Ok(answer) = self.client.post(format!("{address}{path}")).body(body).send().await
            {
                match answer.status().as_u16() {
                    202 => return true,
                    // It has ended.
                    404 | 409 => return false,
                    _ => {}
                }
            }
            self.pause().await;
        }
        false
    }
}
