//! Clients that mean no good, or break off.

use crate::support::{Connection, Door, Script, Setup};
use stageline_door::Limits;
use stageline_door::{AnswerEvent, FinishReason};
use std::time::Duration;

fn door_that_answers(limits: Limits) -> Setup {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() };
    Setup { limits, script: Script::Answer(vec![done]), ..Setup::default() }
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_the_door_stays_open() {
    let door = Door::open(door_that_answers(Limits::default())).await;
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let long_header = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(1 << 20));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 17));
    let cases: [&[u8]; 15] = [
        b"\r\n\r\n\r\n\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"GET /\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\n: x\r\n\r\n",
        b"POST / HTTP/1.1\r\na b: x\r\n\r\n",
        b"POST / HTTP/1.1\r\na: x\0y\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\nx",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\nx",
        b"POST \x80\xff HTTP/1.1\r\n\r\n",
        many_headers.as_bytes(),
        long_header.as_bytes(),
        long_path.as_bytes(),
    ];
    for case in cases {
        let mut connection = Connection::open(door.address).await;
        connection.send(case).await;
        let reply = String::from_utf8_lossy(&connection.read_to_end().await).into_owned();
        let shown = String::from_utf8_lossy(&case[..case.len().min(60)]);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{shown:?}: {reply}");
        assert_eq!(door.get("/_/health").await.status, 200, "after {shown:?}");
    }
    assert_eq!(door.metrics.door.ends(None), 0, "one of these was taken for a request");
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_smuggle_a_request() {
    let door = Door::open(door_that_answers(Limits::default())).await;
    let mut connection = Connection::open(door.address).await;
    let smuggled = "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\ny";
    connection
        .send(format!("POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"))
        .await;
    connection.read_to_end().await;
    // At most the first is served (it is empty, so it is refused); what follows it on the connection is not.
    assert_eq!(door.metrics.door.ends(None), 0);
}

#[tokio::test]
async fn broken_chunks_are_refused_in_json() {
    let door = Door::open(door_that_answers(Limits::default())).await;
    let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    for chunks in ["zz\r\nx\r\n", "fffffffffffffffff\r\nx\r\n", "1\r\nxy\r\n0\r\n\r\n", "-1\r\n\r\n"] {
        let reply = door.send(format!("{head}{chunks}")).await;
        assert_eq!((reply.status, reply.error().0.as_str()), (400, "invalid_request"), "{chunks:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_slow_to_arrive_holds_no_place_and_leaves_nothing_behind() {
    let limits = Limits { max_inflight: Some(1), ..Limits::default() };
    let door = Door::open(door_that_answers(limits)).await;
    let mut connection = Connection::open(door.address).await;
    connection.send("POST / HTTP/1.1\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n").await;
    // Asked to go on, it is known to be served.
    connection.read_until("\r\n\r\n").await;
    connection.send("abc").await;
    assert_eq!(door.post(r#"{"prompt": "x"}"#).await.status, 200);
    assert_eq!(door.metrics.door.requests_in_flight.get(), 1);
    drop(connection);
    while door.metrics.door.requests_in_flight.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(door.metrics.door.ends(None), 1);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut() {
    let limits = Limits { head_timeout: Duration::from_millis(30), ..Limits::default() };
    let door = Door::open(door_that_answers(limits)).await;
    for start in ["", "POST / HTTP/1.1\r\nhost:"] {
        let mut connection = Connection::open(door.address).await;
        connection.send(start).await;
        let reply = String::from_utf8(connection.read_to_end().await).unwrap();
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 408"), "{reply}");
    }
}

#[tokio::test]
async fn a_length_that_is_far_too_long_is_refused_before_any_of_it_has_come() {
    // No time bound may be what ends these.
    let body_timeout = Duration::from_secs(3600);
    let door = Door::open(door_that_answers(Limits { body_timeout, ..Limits::default() })).await;
    let stage =
        Door::open(Setup { limits: Limits { body_timeout, ..Limits::default() }, stage: 1, ..Setup::default() }).await;
    for head in [
        "content-length: 100000000000000000\r\n\r\n",
        "content-length: 9223372036854775807\r\n\r\nabc",
        "content-length: 5000000\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n7fffffffffffffff\r\nabc",
    ] {
        for (door, path, status) in [(&door, "/", 413), (&stage, "/", 421), (&door, "/x", 404)] {
            let mut connection = Connection::open(door.address).await;
            connection.send(format!("POST {path} HTTP/1.1\r\n{head}")).await;
            let reply = connection.reply().await;
            assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{path} {head:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_request_leaves_a_connection_that_goes_on() {
    let limits = Limits { max_body_bytes: 1000, ..Limits::default() };
    let door = Door::open(door_that_answers(limits.clone())).await;
    let stage = Door::open(Setup { limits, stage: 1, ..Setup::default() }).await;
    for (door, path, length, status) in [(&door, "/", 1500, 413), (&stage, "/", 100, 421), (&door, "/x", 100, 404)] {
        let mut connection = Connection::open(door.address).await;
        for _ in 0..2 {
            connection
                .send(format!("POST {path} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{}", "x".repeat(length)))
                .await;
            let reply = connection.reply().await;
            assert_eq!((reply.status, reply.header("connection")), (status, None), "{path}");
        }
    }
}

#[tokio::test]
async fn the_connection_that_has_waited_longest_makes_room() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let mut door = Door::open(Setup { limits, ..Setup::default() }).await;
    let mut serving = Connection::open(door.address).await;
    serving.send("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx").await;
    let served = door.served().await;
    let mut waiting = Connection::open(door.address).await;
    for start in ["", "POST / HTTP/1.1\r\nhost:", "POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nx"] {
        waiting.send("GET /_/health HTTP/1.1\r\n\r\n").await;
        assert_eq!(waiting.reply().await.status, 200);
        waiting.send(start).await;
        let mut next = Connection::open(door.address).await;
        next.send("GET /_/health HTTP/1.1\r\n\r\n").await;
        assert_eq!(next.reply().await.status, 200, "after {start:?}");
        assert!(waiting.read_to_end().await.is_empty());
        waiting = next;
    }
    served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() }).await;
    assert_eq!(serving.reply().await.status, 200);
}

#[tokio::test]
async fn where_all_connections_serve_health_is_answered_and_prompts_are_refused() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let mut door = Door::open(Setup { limits, ..Setup::default() }).await;
    let mut serving = Connection::open(door.address).await;
    serving.send("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx").await;
    let served = door.served().await;
    for path in ["/_/health", "/_/ready", "/metrics"] {
        assert_eq!(door.get(path).await.status, 200, "{path}");
    }
    let refused = door.post(r#"{"prompt": "x"}"#).await;
    assert_eq!((refused.status, refused.error().0.as_str()), (429, "overloaded"));
    served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() }).await;
    assert_eq!(serving.reply().await.status, 200);
}
