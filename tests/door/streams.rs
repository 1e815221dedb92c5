//! `POST /` answered as a stream of events.

use crate::support::{Connection, Door, Script, Setup, post};
use serde_json::{Value, json};
use stageline_base::{Fault, FaultClass, Task};
use stageline_core::Observed;
use stageline_door::Limits;
use stageline_door::{AnswerEvent, FinishReason};
use std::time::Duration;

const ASK: &str =
    "POST / HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nx-call-id: c\r\ncontent-length: 1\r\n\r\nx";

fn done(text: &str) -> AnswerEvent {
    AnswerEvent::Finished { reason: FinishReason::Length, text: text.to_string() }
}

/// An event's lines before its data, and its data.
fn event(text: &str) -> (String, Value) {
    let (before, data) = text.strip_suffix("\n\n").unwrap().split_once("data: ").unwrap();
    (before.to_string(), serde_json::from_str(data).unwrap())
}

#[tokio::test]
async fn each_token_is_an_event_when_it_comes_and_the_last_one_says_so() {
    let mut door = Door::open(Setup::default()).await;
    let mut connection = Connection::open(door.address).await;
    connection.send(ASK).await;
    let served = door.served().await;
    served.token(7, "He").await;
    let head = connection.read_until("\r\n\r\n").await;
    for line in ["HTTP/1.1 200 OK", "content-type: text/event-stream", "cache-control: no-cache"] {
        assert!(head.lines().any(|l| l == line), "{line} is not in {head}");
    }
    // Each event is there before the next one is made.
    assert_eq!(event(&connection.chunk().await), ("id: 0\n".into(), json!({"text": "He", "token_id": 7})));
    let observed = Some(Observed { digest: 1, top: vec![(8, 2.0)] });
    served.send(AnswerEvent::Token { id: 8, text: "y\n\n".into(), observed }).await;
    let logits = json!({"digest": "0000000000000001", "top": [{"id": 8, "logit": 2.0}]});
    let want = json!({"text": "y\n\n", "token_id": 8, "logits": logits});
    assert_eq!(event(&connection.chunk().await), ("id: 1\n".into(), want));
    served.send(done("!")).await;
    let last = json!({"text": "!", "finish_reason": "length", "prompt_tokens": 5, "answer_tokens": 2, "call_id": "c"});
    assert_eq!(event(&connection.chunk().await), ("event: done\n".into(), last));
    assert_eq!(connection.chunk().await, "");
    served.dropped().await;
    assert_eq!(door.metrics.door.ends(None), 1);
}

#[tokio::test]
async fn the_field_asks_for_a_stream_too_and_an_encoders_vector_is_an_event() {
    let pieces = vec![AnswerEvent::Vector(vec![0.5]), done("")];
    let door = Door::open(Setup { task: Task::EMBED, script: Script::Answer(pieces), ..Setup::default() }).await;
    let reply = door.post(r#"{"input": "x", "stream": true}"#).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events: Vec<_> = reply.body.split_inclusive("\n\n").map(event).collect();
    assert_eq!(events[0], (String::new(), json!({"embedding": [0.5]})));
    assert_eq!((events[1].0.as_str(), events.len()), ("event: done\n", 2));
}

#[tokio::test]
async fn a_fault_before_the_first_piece_has_its_status() {
    let door = Door::open(Setup::default()).await;
    let fault = Fault::new(FaultClass::Unavailable, "stage 1 is missing");
    for script in [Script::Refuse(fault.clone()), Script::Answer(vec![AnswerEvent::Failed(fault)])] {
        door.script(script);
        let reply = door.send(ASK).await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
        assert_eq!(reply.error(), ("unavailable".into(), "stage 1 is missing".into()));
    }
    door.script(Script::Answer(vec![]));
    assert_eq!(door.send(ASK).await.status, 500);
}

#[tokio::test]
async fn a_fault_in_the_middle_is_the_last_event() {
    let door = Door::open(Setup::default()).await;
    let token = AnswerEvent::Token { id: 1, text: "a".into(), observed: None };
    let fault = Fault::new(FaultClass::DeviceFailed, "out of memory").at_stage(1);
    for (pieces, class) in [
        (vec![token.clone(), AnswerEvent::Failed(fault)], FaultClass::DeviceFailed),
        // A door that forgets to end its answer.
        (vec![token], FaultClass::Internal),
    ] {
        door.script(Script::Answer(pieces));
        let reply = door.send(ASK).await;
        assert_eq!(reply.status, 200);
        let events: Vec<_> = reply.body.split_inclusive("\n\n").map(event).collect();
        let (kind, data) = &events[1];
        assert_eq!((kind.as_str(), &data["error"]["class"]), ("event: error\n", &json!(class.row().name)));
        assert_eq!((&data["error"]["call_id"], events.len()), (&json!("c"), 2));
        assert_eq!(door.metrics.door.ends(Some(class)), 1);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_drops_its_answer() {
    let mut door = Door::open(Setup::default()).await;
    for tokens in 0..3 {
        let mut connection = Connection::open(door.address).await;
        connection.send(ASK).await;
        let served = door.served().await;
        for token in 0..tokens {
            served.token(token, "a").await;
            connection.read_until("\"token_id\":").await;
        }
        drop(connection);
        served.dropped().await;
    }
    assert_eq!(door.metrics.door.ends(Some(FaultClass::Cancelled)), 3);
    assert_eq!(door.metrics.door.requests_in_flight.get(), 0);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let limits = Limits { write_timeout: Duration::from_millis(50), ..Limits::default() };
    let mut door = Door::open(Setup { limits, ..Setup::default() }).await;
    let mut connection = Connection::open(door.address).await;
    connection.send(ASK).await;
    let served = door.served().await;
    let text = "x".repeat(1 << 16);
    // More than all buffers between hold: sending ends only when the answer is dropped.
    while served.events.send(AnswerEvent::Token { id: 1, text: text.clone(), observed: None }).await.is_ok() {}
    served.dropped().await;
    drop(connection);
}

#[tokio::test]
async fn who_is_still_sending_when_the_door_stops_is_told_so() {
    let mut door = Door::open(Setup::default()).await;
    let mut sending = Connection::open(door.address).await;
    sending.send("POST / HTTP/1.1\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n").await;
    sending.read_until("100 Continue\r\n\r\n").await;
    sending.send("some").await;
    door.stop();
    let reply = sending.reply().await;
    assert_eq!((reply.status, reply.error().0.as_str()), (503, "unavailable"), "{reply:?}");
    assert!(reply.error().1.contains("shutting down") && reply.header("retry-after").is_some(), "{reply:?}");
}

#[tokio::test]
async fn a_door_that_stops_finishes_what_it_serves() {
    let mut door = Door::open(Setup::default()).await;
    let mut connection = Connection::open(door.address).await;
    let mut idle = Connection::open(door.address).await;
    idle.send("GET /_/health HTTP/1.1\r\n\r\n").await;
    assert_eq!(idle.reply().await.status, 200);
    connection.send(ASK).await;
    let served = door.served().await;
    served.token(1, "a").await;
    connection.read_until("\"token_id\":").await;
    door.stop();
    // An idle connection is closed at once; no new one is taken.
    assert!(idle.read_to_end().await.is_empty());
    assert!(tokio::net::TcpStream::connect(door.address).await.is_err());
    served.send(done("end")).await;
    connection.read_until("event: done\n").await;
    connection.read_to_end().await;
    door.serving.await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_dropped_cuts_its_connections() {
    let mut door = Door::open(Setup::default()).await;
    let mut connection = Connection::open(door.address).await;
    connection.send(post("accept: text/event-stream\r\n", "x")).await;
    let served = door.served().await;
    door.serving.abort();
    served.dropped().await;
    connection.read_to_end().await;
}
