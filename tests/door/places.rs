//! What is there besides `POST /`, and what is not.

use crate::support::{Connection, Door, Script, Setup, exchange, post};
use stageline::door::http::HttpLimits;
use stageline::door::{AnswerEvent, FinishReason, Readiness};

#[tokio::test]
async fn health_is_ok_while_alive_whatever_readiness_says() {
    let door = Door::open(Setup::default()).await;
    *door.readiness.lock().unwrap() = Readiness::NotReady("loading weights".into());
    let reply = door.get("/_/health").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "OK"));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[tokio::test]
async fn readiness_says_why_not() {
    let door = Door::open(Setup::default()).await;
    assert_eq!(door.get("/_/ready").await.status, 200);
    *door.readiness.lock().unwrap() = Readiness::NotReady("stage 2 is missing".into());
    let reply = door.get("/_/ready").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(reply.error(), ("unavailable".into(), "stage 2 is missing".into()));
}

#[tokio::test]
async fn a_draining_door_still_serves() {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "bye".into() };
    let door = Door::open(Setup { script: Script::Answer(vec![done]), ..Setup::default() }).await;
    *door.readiness.lock().unwrap() = Readiness::NotReady("draining".into());
    assert_eq!(door.get("/_/ready").await.status, 503);
    assert_eq!(door.post(r#"{"prompt": "x"}"#).await.json()["text"], "bye");
}

#[tokio::test]
async fn a_full_door_says_so_and_has_room_again_when_a_request_ends() {
    let limits = HttpLimits { max_inflight: 1, ..HttpLimits::default() };
    let mut door = Door::open(Setup { limits, ..Setup::default() }).await;
    let first = tokio::spawn(exchange(door.address, b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx"));
    let served = door.served().await;
    for reply in [door.post(r#"{"prompt": "x"}"#).await, door.get("/_/ready").await] {
        assert_eq!(reply.status, 429);
        assert_eq!(reply.error().0, "overloaded");
        assert_eq!((reply.header("retry-after"), reply.header("x-openfaas-internal")), (Some("1"), Some("stageline")));
    }
    assert_eq!(door.get("/_/health").await.status, 200);
    served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: String::new() }).await;
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(door.get("/_/ready").await.status, 200);
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
