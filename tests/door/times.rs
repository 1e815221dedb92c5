//! What is slow to arrive: a request's time counts from its head, whichever way it comes.

use crate::support::{Connection, Door, Script, Setup};
use stageline_base::FaultClass;
use stageline_door::Limits;
use stageline_door::{AnswerEvent, FinishReason};
use stageline_metrics::Shed;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tonic::{Code, Status};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(30);

/// A door where only the client's deadline, or only `body_timeout`, may be what ends a body.
async fn door(body_timeout: Duration) -> Door {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() };
    let limits = Limits { body_timeout, default_deadline: LONG, max_deadline: LONG, ..Limits::default() };
    Door::open(Setup { limits, script: Script::Answer(vec![done]), ..Setup::default() }).await
}

const STARTS: [&str; 3] =
    ["content-length: 5\r\n\r\n", "content-length: 5\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"];

#[tokio::test]
async fn a_body_that_has_not_come_by_its_clients_deadline_is_answered_504() {
    let door = door(LONG).await;
    for start in STARTS {
        let mut connection = Connection::open(door.address).await;
        connection.send(format!("POST / HTTP/1.1\r\nx-timeout: 30ms\r\n{start}")).await;
        let reply = connection.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (504, Some("close")), "{start:?}");
        assert_eq!(reply.error().0, "deadline_exceeded");
        connection.read_to_end().await;
    }
    assert_eq!(door.metrics.door.ends(Some(FaultClass::DeadlineExceeded)), 3);
    assert_eq!(door.metrics.door.connections_shed[Shed::SlowBody as usize].get(), 3);
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_408() {
    let door = door(SHORT).await;
    for start in STARTS {
        // Whoever waits longer than the server does is told the same.
        for timeout in ["", "x-timeout: 1h\r\n"] {
            let mut connection = Connection::open(door.address).await;
            connection.send(format!("POST / HTTP/1.1\r\n{timeout}{start}")).await;
            let reply = connection.reply().await;
            assert_eq!((reply.status, reply.header("connection")), (408, Some("close")), "{start:?}");
            let (class, message) = reply.error();
            assert!(class == "deadline_exceeded" && message.contains("0.03 s"), "{message}");
            connection.read_to_end().await;
        }
    }
    assert_eq!(door.metrics.door.connections_shed[Shed::SlowBody as usize].get(), 6);
}

#[tokio::test]
async fn a_body_that_drips_gains_no_time() {
    let door = door(LONG).await;
    let mut connection = Connection::open(door.address).await;
    connection.send("POST / HTTP/1.1\r\nx-timeout: 30ms\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let reply = loop {
        connection.send("1\r\nx\r\n").await;
        match tokio::time::timeout(Duration::from_millis(1), connection.arrives()).await {
            Ok(()) => break connection.reply().await,
            Err(_) => continue,
        }
    };
    assert_eq!(reply.status, 504);
}

#[tokio::test]
async fn what_the_pipeline_is_given_is_what_the_body_has_left() {
    for (headers, body) in [("x-timeout: 10s\r\n", "x"), ("", "{\"prompt\": \"x\", \"deadline_ms\": 10000}")] {
        let mut door = Door::open(Setup::default()).await;
        let mut connection = Connection::open(door.address).await;
        let length = body.len();
        let head = format!("POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n{headers}\r\n");
        connection.send(head).await;
        connection.read_until("\r\n\r\n").await;
        // Its head has been read.
        let read = Instant::now();
        while read.elapsed() < SHORT {
            tokio::task::yield_now().await;
        }
        connection.send(body).await;
        let served = door.served().await;
        assert!(served.request.deadline.unwrap() <= Duration::from_secs(10) - SHORT, "{:?}", served.request.deadline);
    }
}

#[tokio::test]
async fn a_message_that_stalls_ends_its_call_at_either_time() {
    for (door, timeout) in [(door(LONG).await, Some("30m")), (door(SHORT).await, None)] {
        // No client of gRPC's own: that would end the call by itself.
        let stream = TcpStream::connect(door.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let mut request = http::Request::post("http://door/stageline.v1.Inference/Generate")
            .header("content-type", "application/grpc")
            .header("x-call-id", "mine");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let (response, mut message) = client.send_request(request.body(()).unwrap(), false).unwrap();
        message.send_data(bytes::Bytes::from_static(&[0, 0, 0, 0, 9, 1]), false).unwrap();
        let response = response.await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert_eq!(response.headers()["x-call-id"], "mine");
        assert_eq!(door.metrics.door.ends(Some(FaultClass::DeadlineExceeded)), 1);
        assert_eq!(door.metrics.door.connections_shed[Shed::SlowBody as usize].get(), 1);
    }
}
