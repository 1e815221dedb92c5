//! Functions that flows call: what one answers hangs on nothing but its name and what it is sent.

use crate::due;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;

pub struct Functions {
    pub address: String,
    calls: Arc<AtomicU64>,
}

fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// What a function answers.
pub fn answer(name: &str, sent: &Value) -> Value {
    json!({ "v": digest(&format!("{name}{sent}")) % 1_000_000 })
}

async fn called(
    State(calls): State<Arc<AtomicU64>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    calls.fetch_add(1, Relaxed);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let hash = digest(&format!("{}{}", header("x-call-id"), header("x-stageline-attempt")));
    // How long it takes is drawn by the call's id, so that a seed tells one story.
    due(Duration::from_millis(hash % 60)).await;
    if hash.is_multiple_of(17) {
        return (StatusCode::SERVICE_UNAVAILABLE, "it is busy").into_response();
    }
    let sent = serde_json::from_slice(&body).unwrap_or_default();
    axum::Json(answer(&name, &sent)).into_response()
}

impl Functions {
    pub async fn start() -> Self {
        let calls = Arc::<AtomicU64>::default();
        let router = Router::new().route("/function/{name}", post(called)).with_state(Arc::clone(&calls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, calls }
    }

    /// How often one was called.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }
}

/// The flows of the test, whose functions are at `gateway`.
pub fn flows(gateway: &str) -> String {
    format!(
        "provider:
  gateway: {gateway}
flows:
  work:
    timeout: 10m
    nodes:
      a: {{function: a}}
      b: {{function: b, input: \"{{{{ a }}}}\"}}
      each:
        function: c
        foreach: \"{{{{ [1, 2, 3] }}}}\"
        input: {{a: \"{{{{ a.v }}}}\", item: \"{{{{ item }}}}\"}}
      odd:
        when: \"{{{{ b.v % 2 == 1 }}}}\"
        function: d
        input: \"{{{{ b }}}}\"
      join: {{function: e, input: {{b: \"{{{{ b.v }}}}\", each: \"{{{{ each }}}}\", odd: \"{{{{ odd }}}}\"}}}}
    finally:
      tidy: {{function: tidy, input: \"{{{{ run.state }}}}\"}}
  gated:
    timeout: 10m
    nodes:
      a: {{function: a}}
      gate: {{wait: {{signal: go, timeout: 9m}}, after: [a]}}
      b: {{function: b, input: {{a: \"{{{{ a.v }}}}\", said: \"{{{{ gate }}}}\"}}}}
"
    )
}

/// What a run of a flow gives that was called with `input`.
pub fn right(flow: &str, input: &Value) -> Value {
    let a = answer("a", input);
    if flow == "gated" {
        return answer("b", &json!({ "a": a["v"], "said": "7" }));
    }
    let b = answer("b", &a);
    let each: Vec<Value> = (1..=3).map(|item| answer("c", &json!({ "a": a["v"], "item": item }))).collect();
    let is_odd = b["v"].as_u64().is_some_and(|value| value % 2 == 1);
    let odd = if is_odd { answer("d", &b) } else { Value::Null };
    answer("e", &json!({ "b": b["v"], "each": each, "odd": odd }))
}
