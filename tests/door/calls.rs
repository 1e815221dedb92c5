//! `POST /` answered whole.

use crate::support::{Connection, Door, Script, Setup, exchange, logged, post};
use proptest::prelude::*;
use serde_json::json;
use stageline_base::{Fault, FaultClass, Task};
use stageline_core::Observed;
use stageline_door::Limits;
use stageline_door::{AnswerEvent, FinishReason, Input};
use std::time::Duration;

fn token(id: u32, text: &str) -> AnswerEvent {
    AnswerEvent::Token { id, text: text.to_string(), observed: None }
}

fn done(text: &str) -> AnswerEvent {
    AnswerEvent::Finished { reason: FinishReason::Stop, text: text.to_string() }
}

#[tokio::test]
async fn a_request_reaches_the_pipeline_and_its_answer_the_client() {
    let mut door = Door::open(Setup::default()).await;
    let body = r#"{"prompt": "Hi", "max_tokens": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.9,
        "repetition_penalty": 1.1, "seed": 9, "stop": "\n", "deadline_ms": 1500, "top_logits": 1}"#;
    let request = post("content-type: application/json\r\nx-call-id: mine\r\n", body);
    let address = door.address;
    let client = tokio::spawn(async move { exchange(address, request.as_bytes()).await });
    let served = door.served().await;
    let r = &served.request;
    assert_eq!((r.call_id.as_str(), &r.input), ("mine", &Input::Text("Hi".into())));
    let drawn = r.sampling;
    assert_eq!((r.max_tokens, drawn.temperature, drawn.top_k, drawn.top_p), (Some(7), Some(0.5), Some(3), Some(0.9)));
    assert_eq!((drawn.repetition_penalty, drawn.seed, drawn.top_logits), (Some(1.1), Some(9), Some(1)));
    assert_eq!(r.stop, ["\n"]);
    // Counted from the head, of which some time has passed.
    assert!(r.deadline.is_some_and(|left| !left.is_zero() && left <= Duration::from_millis(1500)), "{:?}", r.deadline);
    let observed = Some(Observed { digest: 0xab, top: vec![(4, 1.5), (2, -0.25)] });
    served.send(AnswerEvent::Token { id: 4, text: "He".into(), observed }).await;
    served.token(2, "").await;
    served.send(done("y")).await;
    let reply = client.await.unwrap();
    let want = json!({
        "text": "Hey", "token_ids": [4, 2], "prompt_tokens": 5, "finish_reason": "stop", "call_id": "mine",
        "logits": [{"digest": "00000000000000ab", "top": [{"id": 4, "logit": 1.5}, {"id": 2, "logit": -0.25}]}],
    });
    assert_eq!((reply.status, reply.json()), (200, want));
    assert_eq!(reply.header("x-call-id"), Some("mine"));
    assert!(reply.header("x-duration-seconds").unwrap().parse::<f64>().unwrap() >= 0.0);
    served.dropped().await;
}

#[tokio::test]
async fn text_is_the_prompt_and_an_id_is_made() {
    let mut door = Door::open(Setup::default()).await;
    for kind in ["", "content-type: text/plain\r\n", "content-type: application/x-www-form-urlencoded\r\n"] {
        let (address, request) = (door.address, post(kind, "Once, é"));
        let client = tokio::spawn(async move { exchange(address, request.as_bytes()).await });
        let served = door.served().await;
        assert_eq!(served.request.input, Input::Text("Once, é".into()));
        assert!(
            served.request.deadline.is_some_and(|left| !left.is_zero() && left <= Limits::default().default_deadline)
        );
        served.send(done("x")).await;
        let reply = client.await.unwrap();
        let made = reply.header("x-call-id").unwrap().to_string();
        assert_eq!((made.len(), &reply.json()["call_id"]), (32, &json!(made)));
    }
}

#[tokio::test]
async fn an_encoder_answers_with_a_vector() {
    let pieces = vec![AnswerEvent::Vector(vec![0.5, -1.0]), done("")];
    let door = Door::open(Setup { task: Task::EMBED, script: Script::Answer(pieces), ..Setup::default() }).await;
    for request in [
        post("x-call-id: c\r\n", "a text"),
        post("x-call-id: c\r\ncontent-type: application/json\r\n", r#"{"input": "a text"}"#),
    ] {
        let want = json!({"embedding": [0.5, -1.0], "prompt_tokens": 5, "call_id": "c"});
        assert_eq!(door.send(request).await.json(), want);
    }
    let (_, message) = door.post(r#"{"prompt": "x"}"#).await.error();
    assert!(message.contains("this pipeline embeds"), "{message}");
}

#[tokio::test]
async fn every_class_of_fault_has_its_status_before_and_during_an_answer() {
    let door = Door::open(Setup::default()).await;
    for class in FaultClass::ALL {
        let fault = Fault::new(class, "what failed").at_stage(3);
        let during = vec![token(1, "a"), AnswerEvent::Failed(fault.clone())];
        for script in [Script::Refuse(fault), Script::Answer(during)] {
            door.script(script);
            let reply = door.post(r#"{"prompt": "x"}"#).await;
            assert_eq!(reply.status, class.row().http, "{class:?}");
            assert_eq!(reply.error(), (class.row().name.to_string(), "what failed".to_string()));
            let error = &reply.json()["error"];
            assert_eq!((&error["stage"], &error["call_id"]), (&json!(3), &json!(reply.header("x-call-id").unwrap())));
            let again = matches!(reply.status, 429 | 503).then_some("1");
            assert_eq!(reply.header("retry-after"), again, "{class:?}");
        }
        assert_eq!(door.metrics.door.ends(Some(class)), 2, "{class:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_defect() {
    let door = Door::open(Setup { script: Script::Answer(vec![token(1, "a")]), ..Setup::default() }).await;
    let reply = door.post(r#"{"prompt": "x"}"#).await;
    assert_eq!((reply.status, reply.error().0.as_str()), (500, "internal"));
}

#[tokio::test]
async fn a_body_in_chunks_is_read_to_its_end() {
    let mut door = Door::open(Setup::default()).await;
    let head = "POST / HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut connection = Connection::open(door.address).await;
    connection.send(format!("{head}3\r\nabc\r\n")).await;
    connection.send("1;ext=1\r\nd\r\n10\r\n0123456789abcdef\r\n0\r\nx-trailer: y\r\n\r\n").await;
    let served = door.served().await;
    assert_eq!(served.request.input, Input::Text("abcd0123456789abcdef".into()));
    served.send(done("x")).await;
    assert_eq!(connection.reply().await.status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let limits = Limits { max_body_bytes: 1000, ..Limits::default() };
    let door = Door::open(Setup { limits, script: Script::Answer(vec![done("ok")]), ..Setup::default() }).await;
    let chunked = |bytes: usize| {
        let chunk = format!("64\r\n{}\r\n", "x".repeat(100));
        format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(bytes / 100))
    };
    for request in [post("", &"x".repeat(1000)), chunked(1000)] {
        assert_eq!(door.send(request).await.status, 200);
    }
    let waits = "POST / HTTP/1.1\r\ncontent-length: 5000000\r\nexpect: 100-continue\r\n\r\n".to_string();
    for request in [post("", &"x".repeat(1001)), chunked(1100), chunked(100_000), waits] {
        let reply = door.send(request).await;
        assert_eq!(reply.status, 413);
        assert_eq!(reply.error(), ("too_large".into(), "the body may be at most 1000 bytes long".into()));
    }
}

#[tokio::test]
async fn a_client_that_is_asked_to_go_on_sends_its_body() {
    let door = Door::open(Setup { script: Script::Answer(vec![done("ok")]), ..Setup::default() }).await;
    let mut connection = Connection::open(door.address).await;
    connection.send("POST / HTTP/1.1\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n").await;
    assert!(connection.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    connection.send("x").await;
    assert_eq!(connection.reply().await.status, 200);
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let door = Door::open(Setup { script: Script::Answer(vec![done("ok")]), ..Setup::default() }).await;
    let mut connection = Connection::open(door.address).await;
    let ask = "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx";
    connection.send(ask).await;
    assert_eq!(connection.reply().await.status, 200);
    // Two more at once, and one that is refused in between.
    connection.send(format!("{ask}POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n{ask}")).await;
    assert_eq!(connection.reply().await.status, 200);
    assert_eq!(connection.reply().await.status, 400);
    assert_eq!(connection.reply().await.status, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_drops_its_answer() {
    let mut door = Door::open(Setup::default()).await;
    let mut connection = Connection::open(door.address).await;
    connection.send("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx").await;
    let served = door.served().await;
    served.token(1, "a").await;
    drop(connection);
    served.dropped().await;
    assert_eq!(door.metrics.door.ends(Some(FaultClass::Cancelled)), 1);
    assert_eq!(door.metrics.door.requests_in_flight.get(), 0);
}

#[tokio::test]
async fn every_log_line_of_a_request_carries_its_id_and_its_trace() {
    let door = Door::open(Setup::default()).await;
    let fault = Fault::internal("broke");
    let scripts = [
        Script::Answer(vec![done("ok")]),
        Script::Answer(vec![token(1, "a"), AnswerEvent::Failed(fault.clone())]),
        Script::Refuse(fault),
    ];
    for script in scripts {
        for kind in ["accept: text/event-stream\r\n", ""] {
            door.script(script.clone());
            door.send(post(&format!("{kind}x-call-id: a\tb\u{e9}{}\r\n", "c".repeat(200)), "x")).await;
        }
    }
    // The lines of all tests so far: those of this one are among them.
    let log = logged();
    let id = format!("request{{call_id=a_b__{} traceparent=00-", "c".repeat(128 - 5));
    assert!(log.lines().filter(|line| line.contains(&id)).count() >= 10, "{log}");
    for line in log.lines() {
        assert!(line.contains("request{call_id=") && line.contains(" traceparent=00-"), "{line}");
    }
}

#[test]
fn a_broken_body_is_refused_in_json() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pieces = vec![token(1, "a"), done("b")];
    let door = runtime.block_on(Door::open(Setup { script: Script::Answer(pieces), ..Setup::default() }));
    let whole = r#"{"prompt": "a\u00e9\n", "max_tokens": 12, "stop": ["x", "y"], "temperature": 0.5, "top_logits": 3}"#;
    // A change at a place: cut there, or put a byte in, or take one out.
    let change = (0..whole.len(), prop_oneof![Just(None), any::<u8>().prop_map(Some)], any::<bool>());
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((at, byte, cut) in change)| {
        let mut body = whole.as_bytes().to_vec();
        match byte {
            Some(byte) => body.insert(at, byte),
            None if cut => body.truncate(at),
            None => drop(body.remove(at)),
        }
        let head = format!("POST / HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let reply = runtime.block_on(door.send([head.as_bytes(), &body].concat()));
        match reply.status {
            200 => prop_assert_eq!(&reply.json()["text"], "ab"),
            400 => prop_assert_eq!(reply.error().0, "invalid_request"),
            other => prop_assert!(false, "status {}", other),
        }
    });
}
