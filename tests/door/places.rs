//! What is there besides `POST /`, and what is not.

use crate::support::{Connection, Door, Script, Setup, exchange, post};
use stageline_door::Limits;
use stageline_door::{AnswerEvent, FinishReason, Readiness};

#[tokio::test]
async fn health_is_ok_while_alive_whatever_readiness_says() {
    let door = Door::open(Setup::default()).await;
    door.readiness.send_replace(Readiness::NotReady("loading weights".into()));
    let reply = door.get("/_/health").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "OK"));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[tokio::test]
async fn readiness_says_why_not() {
    let door = Door::open(Setup::default()).await;
    assert_eq!(door.get("/_/ready").await.status, 200);
    door.readiness.send_replace(Readiness::NotReady("stage 2 is missing".into()));
    let reply = door.get("/_/ready").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(reply.error(), ("unavailable".into(), "stage 2 is missing".into()));
}

#[tokio::test]
async fn a_draining_door_still_serves() {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "bye".into() };
    let door = Door::open(Setup { script: Script::Answer(vec![done]), ..Setup::default() }).await;
    door.readiness.send_replace(Readiness::NotReady("draining".into()));
    assert_eq!(door.get("/_/ready").await.status, 503);
    assert_eq!(door.post(r#"{"prompt": "x"}"#).await.json()["text"], "bye");
}

#[tokio::test]
async fn a_full_door_says_so_and_has_room_again_when_a_request_ends() {
    for unready_when_full in [false, true] {
        let limits = Limits { max_inflight: Some(1), unready_when_full, ..Limits::default() };
        let mut door = Door::open(Setup { limits, ..Setup::default() }).await;
        let first = tokio::spawn(exchange(door.address, b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx"));
        let served = door.served().await;
        let ready = door.get("/_/ready").await;
        assert_eq!(ready.status, if unready_when_full { 429 } else { 200 });
        let refused = door.post(r#"{"prompt": "x"}"#).await;
        for reply in [Some(refused), unready_when_full.then_some(ready)].into_iter().flatten() {
            assert_eq!(reply.status, 429);
            assert_eq!(reply.error().0, "overloaded");
            let said = (reply.header("retry-after"), reply.header("x-openfaas-internal"));
            assert_eq!(said, (Some("1"), Some("stageline")));
        }
        assert_eq!(door.get("/_/health").await.status, 200);
        served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: String::new() }).await;
        assert_eq!(first.await.unwrap().status, 200);
        assert_eq!(door.get("/_/ready").await.status, 200);
    }
}

#[tokio::test]
async fn a_later_stage_names_the_door() {
    let door = Door::open(Setup { stage: 2, ..Setup::default() }).await;
    let reply = door.post(r#"{"prompt": "x"}"#).await;
    assert_eq!(reply.status, 421);
    let (class, message) = reply.error();
    assert_eq!(class, "misdirected");
    assert!(message.contains("send prompts to stage 0 of pipeline tiny"), "{message}");
    assert_eq!(reply.json()["error"]["stage"], 2);
    for path in ["/_/health", "/_/ready", "/metrics"] {
        assert_eq!(door.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn other_methods_and_paths_are_refused_in_json() {
    let door = Door::open(Setup::default()).await;
    for (path, allowed) in [("/", "POST"), ("/_/health", "GET"), ("/_/ready", "GET"), ("/metrics", "GET")] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            if method != allowed {
                let reply = door.send(format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n\r\n")).await;
                assert_eq!((reply.status, reply.header("allow")), (405, Some(allowed)), "{method} {path}");
                assert_eq!(reply.error().0, "invalid_request");
            }
        }
        let mut connection = Connection::open(door.address).await;
        connection.send(format!("HEAD {path} HTTP/1.1\r\nconnection: close\r\n\r\n")).await;
        let reply = String::from_utf8(connection.read_to_end().await).unwrap();
        assert!(reply.starts_with("HTTP/1.1 405 ") && reply.ends_with("\r\n\r\n"), "HEAD {path}: {reply}");
    }
    for path in ["/x", "/_/", "//", "/_/health/", "/v1/chat/completions?x=y"] {
        let reply = door.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.error().1.contains("POST /"));
    }
    let query = door.send(post("", "x").replace("POST / ", "GET /?q=1 ")).await;
    assert_eq!(query.status, 405);
}

#[tokio::test]
async fn every_whole_answer_says_how_long_it_took() {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "bye".into() };
    let door = Door::open(Setup { script: Script::Answer(vec![done]), ..Setup::default() }).await;
    let stage = Door::open(Setup { stage: 1, ..Setup::default() }).await;
    let events = door.send(post("accept: text/event-stream\r\n", "x")).await;
    assert_eq!((events.status, events.header("x-duration-seconds")), (200, None));
    let replies = [
        (200, door.post(r#"{"prompt": "x"}"#).await),
        (400, door.post("{").await),
        (404, door.get("/x").await),
        (405, door.get("/").await),
        (421, stage.post(r#"{"prompt": "x"}"#).await),
    ];
    for (status, reply) in replies {
        assert_eq!(reply.status, status);
        assert!(reply.header("x-duration-seconds").unwrap().parse::<f64>().unwrap() >= 0.0, "{reply:?}");
    }
}

#[tokio::test]
async fn an_id_that_a_gateway_sends_is_on_a_stream_once() {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "bye".into() };
    let door = Door::open(Setup { script: Script::Answer(vec![done]), ..Setup::default() }).await;
    // The gateway adds its own to what we send where it accepts a stream, and replaces ours elsewhere.
    for (headers, status, ours) in [
        ("accept: text/event-stream\r\nx-call-id: theirs\r\n", 200, None),
        ("accept: text/event-stream\r\nx-call-id: theirs\r\nx-timeout: soon\r\n", 400, None),
        ("x-call-id: theirs\r\n", 200, Some("theirs")),
    ] {
        let reply = door.send(post(headers, "x")).await;
        assert_eq!((reply.status, reply.header("x-call-id")), (status, ours), "{headers}");
        assert!(reply.body.contains("theirs"), "{reply:?}");
    }
    let made = door.send(post("accept: text/event-stream\r\n", "x")).await;
    assert_eq!(made.header("x-call-id").map(str::len), Some(32));
}

#[tokio::test]
async fn what_operators_need_may_have_a_port_of_its_own() {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "bye".into() };
    let door = Door::open(Setup { script: Script::Answer(vec![done]), apart: true, ..Setup::default() }).await;
    let admin = door.admin.unwrap();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for (path, here, there) in [("/_/health", 200, 200), ("/_/ready", 200, 200), ("/metrics", 404, 200)] {
        assert_eq!(door.get(path).await.status, here, "{path}");
        assert_eq!(exchange(admin, get(path).as_bytes()).await.status, there, "{path}");
    }
    assert_eq!(door.post(r#"{"prompt": "x"}"#).await.status, 200);
    assert_eq!(exchange(admin, post("", "x").as_bytes()).await.status, 404);
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let token = AnswerEvent::Token { id: 1, text: "a".into(), observed: None };
    let done = AnswerEvent::Finished { reason: FinishReason::Length, text: String::new() };
    let door = Door::open(Setup { script: Script::Answer(vec![token, done]), ..Setup::default() }).await;
    assert_eq!(door.post(r#"{"prompt": "x"}"#).await.status, 200);
    assert_eq!(door.post("{").await.status, 400);
    let reply = door.get("/metrics").await;
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        r#"stageline_requests_total{pipeline="tiny",outcome="ok"} 1"#,
        r#"stageline_requests_total{pipeline="tiny",outcome="invalid_request"} 1"#,
        r#"stageline_prompt_tokens_total{pipeline="tiny"} 5"#,
        r#"stageline_answer_tokens_total{pipeline="tiny"} 1"#,
        r#"stageline_requests_in_flight{pipeline="tiny"} 0"#,
        r#"stageline_first_token_seconds_count{pipeline="tiny"} 1"#,
    ] {
        assert!(reply.body.lines().any(|l| l == line), "{line} is not in\n{}", reply.body);
    }
}
