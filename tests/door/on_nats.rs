//! The door on NATS, with a scripted pipeline behind it and a real nats-server before it.

use crate::nats::NatsServer;
use crate::patience::soon;
use crate::support::{Door, Script, Setup, keeping, logged};
use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, Message};
use futures::StreamExt;
use serde_json::{Value, json};
use stageline_base::{Fault, FaultClass};
use stageline_door::api::nats::NatsDoor;
use stageline_door::keys::Keys;
use stageline_door::{AnswerEvent, FinishReason};
use stageline_transport::{NatsNet, NatsSettings, connect_client};
use stageline_wire::Subjects;
use std::path::Path;
use tokio_util::sync::CancellationToken;

const SUBJECT: &str = "stageline.v1.tiny.ask";
/// The header that names a durable request.
const ID: &str = "X-Stageline-Request";
/// What a door must be allowed to listen to.
const ALLOWED: &str = ", \"stageline.>\"";

/// Settings of a broker whose door may listen to what `may` names.
fn settings(may: &str) -> String {
    format!(
        "authorization {{ users = [
            {{ user: door, password: d, permissions: {{ publish: \">\", subscribe: [\"_STAGELINE.>\"{may}] }} }}
            {{ user: client, password: c }}
        ] }}"
    )
}

struct Site {
    broker: NatsServer,
    door: Door,
    net: NatsNet,
    client: Client,
    stop: CancellationToken,
}

impl Site {
    /// A door that answers every request that it takes, behind the broker that `conf` sets up.
    async fn open(conf: &Path) -> Self {
        Self::with(conf, Setup { keeping: Some(keeping()), ..Setup::default() }).await
    }

    /// The same of a door that is set up so.
    async fn with(conf: &Path, setup: Setup) -> Self {
        let broker = NatsServer::with(&["-c", conf.to_str().unwrap()]).await;
        let place = broker.url().replace("nats://", "");
        let subjects = Subjects::new("tiny", &"ab".repeat(32)).unwrap();
        let net = NatsNet::connect(NatsSettings::new(format!("nats://door:d@{place}"), subjects)).await.unwrap();
        let client = connect_client("client", &format!("nats://client:c@{place}"), None, None).await.unwrap();
        let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() };
        let door = Door::open(Setup { script: Script::Answer(vec![done]), ..setup }).await;
        let stop = CancellationToken::new();
        let on_nats = NatsDoor::new(net.client().clone(), net.errors(), door.site.clone());
        tokio::spawn(on_nats.serve(SUBJECT.into(), stop.clone()));
        Self { broker, door, net, client, stop }
    }

    async fn ask(&self, headers: HeaderMap, body: &'static [u8]) -> Option<Message> {
        self.client.request_with_headers(SUBJECT, headers, body.into()).await.ok()
    }

    /// The replies to a request that asks for events.
    async fn events(&self, headers: HeaderMap, body: &'static [u8]) -> Vec<Message> {
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.unwrap();
        self.client.publish_with_reply_and_headers(SUBJECT, inbox, headers, body.into()).await.unwrap();
        let mut events = Vec::new();
        while events.last().is_none_or(|event| header(event, "Stageline-Event") == Some("token")) {
            events.push(soon("an event", replies.next()).await.unwrap());
        }
        events
    }

    /// Waits until a request is answered.
    async fn answers(&self) {
        soon("an answer", async { while self.ask(HeaderMap::new(), b"{\"prompt\": \"x\"}").await.is_none() {} }).await;
    }
}

/// A folder with the broker's settings.
fn folder(may: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("nats.conf");
    std::fs::write(&conf, settings(may)).unwrap();
    (folder, conf)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_head_says_of_a_payload_counts_as_over_http() {
    let (_folder, conf) = folder(ALLOWED);
    let site = Site::open(&conf).await;
    site.answers().await;
    for (lines, body, status) in [
        (&[("Content-Encoding", "gzip")][..], &b"{\"prompt\": \"x\"}"[..], "415"),
        (&[("content-type", "multipart/form-data; boundary=b")], b"--b--", "415"),
        (&[("Content-Type", "text/plain; charset=utf-16")], b"x", "415"),
        (&[("Content-Type", "text/plain"), ("content-type", "application/json")], b"{}", "400"),
        (&[("X-Timeout", "10")], b"{\"prompt\": \"x\"}", "400"),
        (&[("X-Timeout", "1s"), ("X-TIMEOUT", "2s")], b"{\"prompt\": \"x\"}", "400"),
        (&[], b"\xef\xbb\xbf{\"prompt\": \"x\"}", "200"),
        (&[], b"{\0\"\0", "400"),
        (&[], b"", "400"),
        (&[("Content-Type", "text/plain")], b"caf\xe9", "400"),
        (&[("X-Call-Id", "a\tb: c")], b"{\"prompt\": \"x\"}", "200"),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.insert(*name, *value);
        }
        let reply = soon("a reply", site.ask(headers, body)).await.unwrap();
        let said = reply.headers.as_ref().and_then(|headers| headers.get("Stageline-Status")).unwrap();
        assert_eq!(said.as_str(), status, "{lines:?}: {}", String::from_utf8_lossy(&reply.payload));
    }
}

fn line((name, value): (&str, &str)) -> (HeaderName, HeaderValue) {
    (name.parse().unwrap(), value.into())
}

/// A header of a reply.
fn header<'m>(reply: &'m Message, name: &str) -> Option<&'m str> {
    reply.headers.as_ref()?.get(name).map(|value| value.as_str())
}

/// The one header of a reply, and its payload.
fn said(reply: &Message) -> (String, String, Value) {
    let headers: Vec<_> = reply.headers.iter().flat_map(|headers| headers.iter()).collect();
    let [(name, values)] = headers[..] else { panic!("{headers:?}") };
    (name.to_string(), values[0].as_str().into(), serde_json::from_slice(&reply.payload).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_one_reply_or_a_reply_an_event() {
    let (_folder, conf) = folder(ALLOWED);
    let site = Site::open(&conf).await;
    site.answers().await;
    let token = AnswerEvent::Token { id: 7, text: "a\ndata: b\n\n".into(), observed: None };
    let done = AnswerEvent::Finished { reason: FinishReason::Length, text: "!".into() };
    let headers = |accept: &str| HeaderMap::from_iter([("X-Call-Id", "c"), ("Accept", accept)].map(line));
    let body = br#"{"prompt": "x"}"#;
    site.door.script(Script::Answer(vec![token.clone(), done]));
    let whole = json!({
        "text": "a\ndata: b\n\n!", "token_ids": [7], "finish_reason": "length", "prompt_tokens": 5, "call_id": "c",
    });
    let reply = soon("a reply", site.ask(headers("*/*"), body)).await.unwrap();
    assert_eq!(said(&reply), ("Stageline-Status".into(), "200".into(), whole));
    let ask = async || {
        let events = site.events(headers("text/event-stream"), body).await;
        events.iter().map(said).collect::<Vec<_>>()
    };
    let event = |name: &str, data: Value| ("Stageline-Event".to_string(), name.to_string(), data);
    let first = event("token", json!({"text": "a\ndata: b\n\n", "token_id": 7}));
    let last = json!({"text": "!", "finish_reason": "length", "prompt_tokens": 5, "answer_tokens": 1, "call_id": "c"});
    assert_eq!(ask().await, [first.clone(), event("done", last)]);
    let fault = Fault::new(FaultClass::DeviceFailed, "out of memory");
    site.door.script(Script::Answer(vec![token, AnswerEvent::Failed(fault.clone())]));
    let events = ask().await;
    assert_eq!((&events[0], events[1].1.as_str()), (&first, "error"));
    assert_eq!(events[1].2["error"]["call_id"], "c");
    // What fails before its first piece has a status.
    site.door.script(Script::Answer(vec![AnswerEvent::Failed(fault)]));
    let reply = soon("a reply", site.ask(headers("text/event-stream"), body)).await.unwrap();
    let (name, status, error) = said(&reply);
    assert_eq!((name.as_str(), status.as_str()), ("Stageline-Status", "500"));
    assert_eq!(error["error"]["message"], "out of memory");
    assert_eq!(site.door.metrics.door.ends(Some(FaultClass::DeviceFailed)), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reply_of_a_durable_request_names_it() {
    let (_folder, conf) = folder(ALLOWED);
    let site = Site::open(&conf).await;
    site.answers().await;
    let headers = |more: (&str, &str)| HeaderMap::from_iter([("Idempotency-Key", "k"), more].map(line));
    let body = br#"{"prompt": "x"}"#;
    let later = soon("a reply", site.ask(headers(("Prefer", "respond-async")), body)).await.unwrap();
    let id = header(&later, ID).expect("the request's id");
    let standing: Value = serde_json::from_slice(&later.payload).unwrap();
    assert_eq!((header(&later, "Stageline-Status"), standing["id"].as_str()), (Some("202"), Some(id)));
    let whole = soon("a reply", site.ask(headers(("Accept", "*/*")), body)).await.unwrap();
    assert_eq!((header(&whole, "Stageline-Status"), header(&whole, ID)), (Some("200"), Some(id)));
    for event in site.events(headers(("Accept", "text/event-stream")), body).await {
        assert_eq!(header(&event, ID), Some(id), "{event:?}");
    }
    // What ends badly, too.
    site.door.script(Script::Refuse(Fault::new(FaultClass::DeviceFailed, "x")));
    let headers = HeaderMap::from_iter([("Idempotency-Key", "bad")].map(line));
    let bad = soon("a reply", site.ask(headers, body)).await.unwrap();
    assert_eq!(header(&bad, "Stageline-Status"), Some("500"));
    assert!(header(&bad, ID).is_some_and(|other| other != id), "{bad:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_requests_are_asked_for_by_a_header() {
    let (_folder, conf) = folder(ALLOWED);
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "alice one\nbob two\n").unwrap();
    let keys = Some(Keys::open(keys.path()).unwrap());
    let site = Site::with(&conf, Setup { keeping: Some(keeping()), keys, ..Setup::default() }).await;
    let ask = async |key: &str, more: &[(&str, &str)], body: &'static [u8]| {
        let key = format!("Bearer {key}");
        let headers = [&[("Authorization", key.as_str())][..], more].concat().into_iter().map(line).collect();
        let reply = soon("a reply", site.ask(headers, body)).await.unwrap();
        let body: Value = serde_json::from_slice(&reply.payload).unwrap_or_default();
        (header(&reply, "Stageline-Status").unwrap().to_owned(), header(&reply, ID).map(str::to_owned), body)
    };
    soon("the door", async { while site.ask(HeaderMap::new(), b"").await.is_none() {} }).await;
    let (status, id, _) = ask("one", &[("Prefer", "respond-async")], br#"{"prompt": "x"}"#).await;
    let id = id.expect("the request's id");
    assert_eq!(status, "202");
    let about = async |key: &str, asked: &str| ask(key, &[("Stageline-Request", asked)], b"").await;
    let shown = format!("GET /requests/{id}");
    let whole = async || Some(about("one", &shown).await).filter(|(status, ..)| status == "200");
    let whole = soon("the answer", async {
        loop {
            if let Some(whole) = whole().await {
                return whole;
            }
        }
    });
    let (_, named, answer) = whole.await;
    assert_eq!((named.as_deref(), answer["finish_reason"].as_str()), (Some(&*id), Some("stop")));
    // Whole, whatever is accepted: it is one reply.
    let events = [("Stageline-Request", &*shown), ("Accept", "text/event-stream")];
    assert_eq!(ask("one", &events, b"").await.2, answer);
    let (_, _, list) = about("one", "GET /requests?limit=1").await;
    assert_eq!(list["requests"][0]["id"], *id);
    assert_eq!(about("two", "GET /requests").await.2, json!({"requests": []}));
    for (key, asked, want) in [
        ("two", &*shown, "404"),
        ("none", &*shown, "401"),
        ("one", "GET /requests?limit=x", "400"),
        ("one", "GET /metrics", "400"),
        ("one", "POST /", "400"),
        ("one", &format!("POST /requests/{id}/retry"), "400"),
        ("two", &format!("DELETE /requests/{id}"), "404"),
        ("one", &format!("DELETE /requests/{id}"), "204"),
    ] {
        let (status, _, said) = about(key, asked).await;
        assert_eq!(status, want, "{key} {asked}: {said}");
    }
    let said = about("one", "GET /metrics").await.2;
    assert!(said.to_string().contains("Stageline-Request may be GET /requests?limit=N"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_and_no_request_is_refused_for_one() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (_folder, conf) = folder(ALLOWED);
    let mut site = Site::open(&conf).await;
    site.answers().await;
    site.door.script(Script::Hand);
    for (name, brought, kept) in
        [("Traceparent", TRACE, true), ("traceparent", "00-\u{e9}\u{1}", false), ("traceparent", "", false)]
    {
        let (client, headers) = (site.client.clone(), HeaderMap::from_iter([line((name, brought))]));
        let asking = tokio::spawn(async move {
            client.request_with_headers(SUBJECT, headers, b"{\"prompt\": \"x\"}"[..].into()).await
        });
        let served = soon("the request", site.door.served()).await;
        let trace = served.request.trace.unwrap();
        assert_eq!((trace.to_string() == TRACE, trace.sampled()), (kept, kept), "{brought}: {trace}");
        served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: String::new() }).await;
        assert_eq!(said(&asking.await.unwrap().unwrap()).1, "200");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_the_broker_took_away_is_taken_up_again() {
    let (_folder, conf) = folder("");
    let site = Site::open(&conf).await;
    // Not allowed yet: the broker takes no subscription, and says so to nobody in particular.
    let told = || logged().contains("the door's subscription at NATS has ended: it is taken up again");
    soon("the log", async {
        while !told() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let reload = |may: &str| {
        std::fs::write(&conf, settings(may)).unwrap();
        site.broker.reload();
    };
    reload(ALLOWED);
    site.answers().await;
    // Taken away while it is at work, and given back.
    let mut errors = site.net.errors();
    reload("");
    soon("the broker's word", errors.recv()).await.unwrap();
    reload(ALLOWED);
    site.answers().await;
    site.stop.cancel();
    assert!(site.door.metrics.door.ends(None) >= 2);
}
