//! Durable requests as their clients see them, with a store of this process.

use crate::patience::soon;
use crate::support::{Door, Reply, Served, Setup, keeping, post};
use serde_json::{Value, json};
use stageline_door::durable::KeeperSetup;
use stageline_door::keys::Keys;
use stageline_door::outgoing::{Allowed, Outgoing};
use stageline_door::{AnswerEvent, FinishReason};
use stageline_proto::inference::{self as pb, generate_event::Event};
use stageline_store::{MemoryStore, Name};
use std::sync::Arc;
use std::time::Duration;

pub const LATER: &str = "prefer: respond-async\r\n";
/// The header that names a durable request.
const ID: &str = "x-stageline-request";

pub async fn door() -> Door {
    door_of(keeping()).await
}

pub async fn door_of(keeping: KeeperSetup) -> Door {
    Door::open(Setup { keeping: Some(keeping), ..Setup::default() }).await
}

/// Sends a prompt with these headers.
pub async fn ask(door: &Door, headers: &str, prompt: &str) -> Reply {
    door.send(post(headers, prompt)).await
}

/// The path of a request that was accepted.
pub fn path_of(reply: &Reply) -> String {
    assert_eq!((reply.status, reply.header("preference-applied")), (202, Some("respond-async")), "{reply:?}");
    let path = reply.header("location").expect("where the answer will be").to_owned();
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!((path.clone(), reply.header(ID)), (format!("/requests/{id}"), Some(&*id)));
    path
}

/// Gets `path` with these headers.
async fn get(door: &Door, headers: &str, path: &str) -> Reply {
    door.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")).await
}

async fn delete(door: &Door, headers: &str, path: &str) -> Reply {
    door.send(format!("DELETE {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")).await
}

/// What is at `path` once that has this status.
pub async fn once(door: &Door, status: u16, path: &str) -> Reply {
    let looking = async {
        let mut beat = tokio::time::interval(Duration::from_millis(5));
        loop {
            beat.tick().await;
            let reply = door.get(path).await;
            if reply.status == status {
                return reply;
            }
        }
    };
    soon(&format!("{path} to have status {status}"), looking).await
}

pub async fn finish(served: &Served) {
    served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: String::new() }).await;
}

/// The ids of a stream's events, and the name of its last one.
fn events(reply: &Reply) -> (Vec<(u64, u64)>, String) {
    let mut tokens = Vec::new();
    let mut last = String::new();
    for event in reply.body.split_terminator("\n\n") {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let data: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
        match field("event: ") {
            Some(name) => last = name.to_owned(),
            None => tokens.push((field("id: ").unwrap().parse().unwrap(), data["token_id"].as_u64().unwrap())),
        }
    }
    (tokens, last)
}

#[tokio::test]
async fn without_a_store_nothing_is_kept() {
    let mut door = Door::open(Setup::default()).await;
    let refused = ask(&door, LATER, "x").await;
    assert_eq!(refused.status, 501);
    assert!(refused.body.contains("--store FILE"), "{refused:?}");
    assert_eq!(door.get("/requests/0123456789abcdef0123456789abcdef").await.status, 501);
    let address = door.address;
    for _ in 0..2 {
        let served = async {
            let served = door.served().await;
            assert!(!served.request.patient);
            finish(&served).await;
        };
        let request = post("idempotency-key: k\r\n", "x");
        let (reply, ()) = tokio::join!(crate::support::exchange(address, request.as_bytes()), served);
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test]
async fn what_is_to_be_answered_later_is_accepted_at_once_and_read_where_it_says() {
    let mut door = door().await;
    let reply = ask(&door, &format!("{LATER}x-call-id: one\r\n"), "x").await;
    assert_eq!((reply.header("x-call-id"), reply.json()["call_id"].as_str()), (Some("one"), Some("one")));
    let path = path_of(&reply);
    let served = door.served().await;
    assert!(served.request.patient && served.request.sampling.seed.is_some() && served.request.generated.is_empty());
    assert_eq!(served.request.call_id, "one");
    served.token(7, "a").await;
    let standing = soon("the token", async {
        loop {
            let standing = once(&door, 202, &path).await.json();
            if standing["answer_tokens"] == 1 {
                return standing;
            }
        }
    });
    assert_eq!(standing.await["status"], "running");
    served.token(8, "b").await;
    finish(&served).await;
    let whole = once(&door, 200, &path).await;
    assert_eq!(whole.json()["token_ids"], json!([7, 8]));
    assert_eq!((whole.json()["prompt_tokens"].as_u64(), whole.header("x-call-id")), (Some(5), Some("one")));
    for wrong in ["/requests/0123456789abcdef0123456789abcdef", "/requests/x", "/requests/A", "/requests/a.b"] {
        assert_eq!(door.get(wrong).await.status, 404, "{wrong}");
    }
}

#[tokio::test]
async fn a_request_that_comes_again_joins_the_first() {
    let mut door = door().await;
    let address = door.address;
    let send = move |request: String| async move { crate::support::exchange(address, request.as_bytes()).await };
    let asking = || tokio::spawn(send(post("idempotency-key: k\r\n", "x")));
    let (first, second) = (asking(), asking());
    let served = door.served().await;
    served.token(7, "a").await;
    finish(&served).await;
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let id = first.header(ID).expect("the request's id").to_owned();
    for reply in [first, second] {
        assert_eq!((reply.status, reply.json()["token_ids"].clone()), (200, json!([7])));
        assert_eq!(reply.header(ID), Some(&*id));
    }
    assert_eq!(door.get(&format!("/requests/{id}")).await.header(ID), Some(&*id));
    let again = ask(&door, "idempotency-key: k\r\naccept: text/event-stream\r\n", "x").await;
    assert_eq!(again.header(ID), Some(&*id));
    assert_eq!(events(&again), (vec![(0, 7)], "done".to_owned()));
    let other = ask(&door, "idempotency-key: k\r\n", "y").await;
    assert_eq!((other.status, other.header(ID)), (422, None));
    assert!(other.body.contains("Idempotency-Key was used for another body"), "{other:?}");
    assert!(door.served_nothing(), "it ran twice");
    for wrong in ["idempotency-key: \r\n", "idempotency-key: a\r\nidempotency-key: b\r\n"] {
        assert_eq!(ask(&door, wrong, "x").await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_stream_goes_on_behind_the_last_event_that_its_client_has() {
    let mut door = door().await;
    let path = path_of(&ask(&door, LATER, "x").await);
    let served = door.served().await;
    for id in 0..5 {
        served.token(100 + id, "a").await;
    }
    finish(&served).await;
    once(&door, 200, &path).await;
    let from = async |headers: &str, query: &str| {
        get(&door, &format!("accept: text/event-stream\r\n{headers}"), &format!("{path}{query}")).await
    };
    let all: Vec<(u64, u64)> = (0..5).map(|at| (at, 100 + at)).collect();
    assert_eq!(events(&from("", "").await), (all.clone(), "done".to_owned()));
    assert_eq!(events(&from("last-event-id: 1\r\n", "").await).0, all[2..]);
    assert_eq!(events(&from("last-event-id: 1\r\n", "?starting_after=3").await).0, all[4..]);
    assert_eq!(events(&from("", "?starting_after=4").await), (vec![], "done".to_owned()));
    for (headers, query) in [("", "?starting_after=5"), ("last-event-id: 99\r\n", ""), ("last-event-id: x\r\n", "")] {
        assert_eq!(from(headers, query).await.status, 400, "{headers} {query}");
    }
}

#[tokio::test]
async fn only_who_made_a_request_knows_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "alice one\nbob two\nadmin three\n").unwrap();
    let keys = Some(Keys::open(&file).unwrap());
    let mut door = Door::open(Setup { keeping: Some(keeping()), keys, ..Setup::default() }).await;
    let of = |key: &str| format!("authorization: Bearer {key}\r\n");
    for none in ["", "authorization: Basic one\r\n", "authorization: Bearer no\r\n", "x-api-key: \r\n"] {
        let refused = ask(&door, none, "x").await;
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{none}");
        assert!(refused.body.contains("\"unauthenticated\""), "{refused:?}");
    }
    let path = path_of(&ask(&door, &format!("{LATER}{}", of("one")), "x").await);
    let served = door.served().await;
    let seen = async |key: &str| get(&door, &of(key), &path).await.status;
    assert_eq!([seen("one").await, seen("two").await, seen("three").await], [202, 404, 202]);
    assert_eq!(get(&door, "", &path).await.status, 401);
    assert_eq!(delete(&door, &of("two"), &path).await.status, 404);
    // The same key of another is another request.
    let headers = format!("{LATER}idempotency-key: k\r\n");
    let paths = [of("one"), of("two")].map(|who| format!("{headers}{who}"));
    let paths = [path_of(&ask(&door, &paths[0], "x").await), path_of(&ask(&door, &paths[1], "y").await)];
    assert_ne!(paths[0], paths[1]);
    assert_eq!(delete(&door, &of("three"), &path).await.status, 204);
    served.dropped().await;
    assert_eq!(door.get("/_/ready").await.status, 200);
    assert_eq!(door.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn calls_of_the_queue_worker_join_by_their_id() {
    let mut door = door().await;
    let address = door.address;
    let worker = "user-agent: openfaas-ce/nats-queue-worker\r\nx-call-id: one\r\nx-callback-url: http://a/\r\n";
    let asking = || {
        let request = post(worker, "x");
        tokio::spawn(async move { crate::support::exchange(address, request.as_bytes()).await })
    };
    let (first, second) = (asking(), asking());
    let served = door.served().await;
    finish(&served).await;
    assert_eq!([first.await.unwrap().status, second.await.unwrap().status], [200, 200]);
    assert_eq!(ask(&door, worker, "y").await.status, 422);
    assert!(door.served_nothing(), "it ran twice");
    // Others that bring an id are others' business.
    let plain =
        tokio::spawn(
            async move { crate::support::exchange(address, post("x-call-id: one\r\n", "y").as_bytes()).await },
        );
    let served = door.served().await;
    assert!(!served.request.patient);
    finish(&served).await;
    assert_eq!(plain.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_cancelled_request_ends_its_run() {
    let mut door = door().await;
    let path = path_of(&ask(&door, &format!("{LATER}idempotency-key: k\r\n"), "x").await);
    let served = door.served().await;
    served.token(1, "a").await;
    // Whoever is told that it goes on is told as what, too.
    let late = ask(&door, "idempotency-key: k\r\nx-timeout: 20ms\r\n", "x").await;
    assert_eq!((late.status, late.header(ID)), (504, path.strip_prefix("/requests/")));
    assert_eq!(delete(&door, "", &path).await.status, 204);
    soon("the run's end", served.dropped()).await;
    let ended = once(&door, 499, &path).await;
    assert_eq!(ended.json()["error"]["class"], "cancelled");
    let events = get(&door, "accept: text/event-stream\r\n", &path).await;
    assert!(events.body.contains("event: error"), "{events:?}");
    assert_eq!(delete(&door, "", &path).await.status, 204);
    assert_eq!(door.send(format!("PUT {path} HTTP/1.1\r\nconnection: close\r\n\r\n")).await.status, 405);
}

#[tokio::test]
async fn the_owner_here_hears_of_a_cancellation_at_once() {
    // It looks at its log every third of a lease, and a run that says nothing has it write nothing.
    let store = MemoryStore::new(Duration::from_secs(3600), 100);
    let mut door = door_of(KeeperSetup { store: Arc::new(store), ..keeping() }).await;
    let path = path_of(&ask(&door, LATER, "x").await);
    let served = door.served().await;
    assert_eq!(delete(&door, "", &path).await.status, 204);
    soon("the run's end", served.dropped()).await;
}

#[tokio::test]
async fn an_answer_is_kept_for_a_while_and_it_is_said_that_it_was() {
    let mut door = door_of(KeeperSetup { keep: Duration::from_millis(1), ..keeping() }).await;
    let path = path_of(&ask(&door, LATER, "x").await);
    let served = door.served().await;
    finish(&served).await;
    let gone = once(&door, 410, &path).await;
    assert!(gone.body.contains("not kept any more"), "{gone:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_before_it_is_kept() {
    let mut door = door_of(KeeperSetup {
        outgoing: Outgoing { allow: vec![Allowed { host: "a.example".into(), port: None }], secret: None },
        ..keeping()
    })
    .await;
    let json = format!("{LATER}content-type: application/json\r\n");
    for (headers, body, words) in [
        (json.clone(), r#"{"promt": "x"}"#, "promt"),
        (json.clone(), r#"{"prompt": "x", "temperature": 1000}"#, "temperature"),
        (json.clone(), r#"{"prompt": "x", "deadline_ms": 600001}"#, "at most 600000"),
        (format!("{json}x-callback-url: http://b.example/\r\n"), r#"{"prompt": "x"}"#, "callback_allow"),
        (format!("{json}x-callback-url: gopher://a.example/\r\n"), r#"{"prompt": "x"}"#, "http://"),
    ] {
        let refused = ask(&door, &headers, body).await;
        assert_eq!(refused.status, 400, "{body}: {refused:?}");
        assert!(refused.body.contains(words), "{refused:?}");
    }
    assert!(door.served_nothing());
}

#[tokio::test]
async fn over_grpc_a_key_joins_and_an_answer_can_be_followed() {
    let mut door = door().await;
    let generate = |prompt: &str, key: Option<&str>| {
        let input = Some(pb::generate_request::Input::Prompt(prompt.into()));
        let mut request = tonic::Request::new(pb::GenerateRequest { input, ..Default::default() });
        if let Some(key) = key {
            request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
        }
        request
    };
    let mut client = door.client().await;
    let mut other = client.clone();
    let first = tokio::spawn(async move { other.generate(generate("x", Some("k"))).await });
    let served = door.served().await;
    assert!(served.request.patient);
    for id in 0..4 {
        served.token(100 + id, "a").await;
    }
    finish(&served).await;
    let first = first.await.unwrap().unwrap();
    let id = first.metadata().get("request-id").expect("its id").to_str().unwrap().to_owned();
    assert_eq!(heard(first.into_inner()).await, (5, vec![(0, 100), (1, 101), (2, 102), (3, 103)]));
    let again = client.generate(generate("x", Some("k"))).await.unwrap();
    assert_eq!(heard(again.into_inner()).await.1.len(), 4);
    let wrong = client.generate(generate("y", Some("k"))).await.unwrap_err();
    assert_eq!(wrong.code(), tonic::Code::InvalidArgument, "{wrong}");
    assert!(door.served_nothing(), "it ran twice");
    let follow = |id: &str, starting_after| pb::FollowRequest { id: id.to_owned(), starting_after };
    let rest = client.follow(follow(&id, Some(1))).await.unwrap();
    assert_eq!(heard(rest.into_inner()).await, (5, vec![(2, 102), (3, 103)]));
    for wrong in [follow(&id, Some(4)), follow("x", None), follow("", None)] {
        assert_eq!(client.follow(wrong).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
    // The same over HTTP.
    let events = get(&door, "accept: text/event-stream\r\n", &format!("/requests/{id}")).await;
    assert_eq!(self::events(&events).0.len(), 4);
}

/// The prompt's tokens, and the answer's, with their places.
async fn heard(mut events: tonic::Streaming<pb::GenerateEvent>) -> (u32, Vec<(u32, u32)>) {
    let (mut prompt, mut tokens) = (0, Vec::new());
    while let Some(event) = events.message().await.unwrap() {
        match event.event.unwrap() {
            Event::Started(started) => prompt = started.prompt_tokens,
            Event::Token(token) => tokens.push((token.index, token.token_id)),
            Event::Finished(finished) => {
                assert_eq!(finished.answer_tokens as usize, tokens.last().map_or(0, |(at, _)| *at as usize + 1))
            }
        }
    }
    (prompt, tokens)
}

#[tokio::test]
async fn a_job_of_the_work_queue_is_a_request_and_what_is_none_is_kept_with_the_reason() {
    let keeping = keeping();
    let store = keeping.store.clone();
    let mut door = door_of(keeping).await;
    let inbox = Name::new("inbox", "requests").unwrap();
    let push = async |job: &str| store.push(&inbox, job.to_owned().into()).await.unwrap();
    push(r#"{"prompt": "x", "max_tokens": 3}"#).await;
    let served = door.served().await;
    assert_eq!((served.request.max_tokens, served.request.patient), (Some(3), true));
    finish(&served).await;
    let job = r#"{"request": {"prompt": "y"}, "call_id": "mine", "idempotency_key": "k"}"#;
    push(job).await;
    push(job).await;
    let served = door.served().await;
    assert_eq!(served.request.call_id, "mine");
    finish(&served).await;
    push("what is this?").await;
    push(r#"{"promt": "x"}"#).await;
    push(r#"{"request": {"prompt": "z"}, "idempotency_key": "k"}"#).await;
    let listed = soon("all of them to be listed", async {
        loop {
            let listed = door.get("/requests?limit=50").await.json()["requests"].as_array().unwrap().clone();
            if listed.len() == 5 && listed.iter().all(|request| request["ended_unix_ms"].is_u64()) {
                return listed;
            }
        }
    })
    .await;
    let of = |status: &str| listed.iter().filter(|request| request["status"] == status).collect::<Vec<_>>();
    assert_eq!((of("answered").len(), of("dead").len()), (2, 3), "{listed:#?}");
    let whys: String = of("dead").iter().map(|request| request["why"].as_str().unwrap()).collect();
    assert!(
        whys.contains("neither an object of JSON") && whys.contains("promt") && whys.contains("another body"),
        "{whys}"
    );
    let dead = of("dead")[0]["id"].as_str().unwrap();
    let retried = door.send(format!("POST /requests/{dead}/retry HTTP/1.1\r\nconnection: close\r\n\r\n")).await;
    assert_eq!(retried.status, 400, "{retried:?}");
    assert!(door.served_nothing(), "a job ran twice");
    assert_eq!(door.get("/requests?limit=0").await.status, 400);
    assert_eq!(door.get("/requests?limit=1").await.json()["requests"].as_array().unwrap().len(), 1);
}
