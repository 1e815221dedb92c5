//! Clients that take nothing of what is sent to them: they hold no place past their deadline, and keep no process.

use crate::patience::soon;
use crate::programs::Program;
use crate::real_models::{SMOLLM2, model_dir};
use crate::support::{Connection, Door, Script, Setup, post};
use stageline_base::FaultClass;
use stageline_door::Limits;
use stageline_door::{AnswerEvent, FinishReason};
use stageline_metrics::Shed;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(2);

/// A door for two requests at once that may take so long.
async fn door() -> Door {
    let limits = Limits {
        max_inflight: Some(2),
        default_deadline: DEADLINE,
        // Only the deadline may be what ends these.
        write_timeout: Duration::from_secs(3600),
        ..Limits::default()
    };
    Door::open(Setup { limits, ..Setup::default() }).await
}

/// A client of HTTP/2 that answers pings and gives each stream so much of a window.
async fn window(address: SocketAddr, bytes: u32) -> (h2::client::SendRequest<bytes::Bytes>, JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::Builder::new().initial_window_size(bytes).handshake(stream).await.unwrap();
    let carrying = tokio::spawn(async move {
        // Whatever ends it.
        let _ = connection.await;
    });
    (client.ready().await.unwrap(), carrying)
}

/// Posts a text and gives what its answer will be.
fn ask(
    client: &mut h2::client::SendRequest<bytes::Bytes>,
    address: SocketAddr,
    accept: &str,
) -> h2::client::ResponseFuture {
    let request = http::Request::post(format!("http://{address}/")).header("accept", accept).body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data("x".into(), true).unwrap();
    answer
}

/// Waits until the door takes a request again and answers it.
async fn has_room(door: &Door) {
    door.script(Script::Answer(vec![AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() }]));
    let asking = async { while door.send(post("", "x")).await.status == 429 {} };
    soon("room", asking).await;
    assert_eq!(door.send(post("", "x")).await.status, 200);
}

/// Waits until two clients have been given up for taking nothing, which is counted when all else is done with them.
async fn both_given_up(door: &Door) {
    let counted = async {
        while door.metrics.door.connections_shed[Shed::NotReading as usize].get() < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon("both to be given up", counted).await;
    assert_eq!(door.metrics.door.connections_shed[Shed::NotReading as usize].get(), 2);
}

/// Two answers that wait for a window of so many bytes.
async fn two_that_wait(bytes: u32, accept: &str) {
    let mut door = door().await;
    let (mut client, carrying) = window(door.address, bytes).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let answer = ask(&mut client, door.address, accept);
        let served = door.served().await;
        served.token(1, "a word").await;
        served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: "more words".into() }).await;
        answers.push(soon("a head", answer).await.unwrap());
    }
    assert_eq!(door.send(post("", "x")).await.status, 429, "{bytes} {accept}");
    has_room(&door).await;
    for answer in answers {
        // The stream is reset: the door keeps nothing of it.
        let mut body = answer.into_body();
        let ends = async { while let Some(Ok(_)) = body.data().await {} };
        soon("the stream's end", ends).await;
    }
    both_given_up(&door).await;
    door.stop();
    soon("the door's end", &mut door.serving).await.unwrap();
    drop(client);
    soon("the connection's end", carrying).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_stays_shut_holds_no_place_past_the_deadline() {
    // Shut; with room for a part of a whole answer; for a part of a stream.
    tokio::join!(
        two_that_wait(0, "text/event-stream"),
        two_that_wait(0, "*/*"),
        two_that_wait(1, "*/*"),
        two_that_wait(10, "text/event-stream"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_nobody_reads_holds_no_place_past_the_deadline() {
    let mut door = door().await;
    let mut mute = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(door.address).await;
        connection.send(post("accept: text/event-stream\r\n", "x")).await;
        let served = door.served().await;
        let text = "x".repeat(1 << 16);
        tokio::spawn(async move {
            // More than all buffers hold: it ends when the answer is dropped.
            while served.events.send(AnswerEvent::Token { id: 1, text: text.clone(), observed: None }).await.is_ok() {}
        });
        mute.push(connection);
    }
    has_room(&door).await;
    both_given_up(&door).await;
    // Who asked whether there is room has its answer a moment before its request is over.
    let over = async {
        while door.metrics.door.requests_in_flight.get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("all requests to be over", over).await;
    assert_eq!(door.metrics.door.ends(Some(FaultClass::Cancelled)), 2);
    drop(mute);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_request_along() {
    let mut door = door().await;
    for _ in 0..3 {
        let (mut client, carrying) = window(door.address, 65_535).await;
        let answer = ask(&mut client, door.address, "text/event-stream");
        let served = door.served().await;
        // The client is gone before there is a word of an answer.
        carrying.abort();
        drop((client, answer));
        soon("the answer to be dropped", served.dropped()).await;
    }
    has_room(&door).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_ends_whoever_takes_nothing() {
    let model = model_dir(SMOLLM2);
    let arguments = ["up", model.to_str().unwrap(), "--http", "127.0.0.1:0"];
    let limits = ["--exec-timeout", "1s", "--healthcheck-interval", "0s"];
    let mut program = Program::fake(&[&arguments[..], &limits[..]].concat());
    let address: SocketAddr = program.ready(0, 1).await.parse().unwrap();
    let (mut client, carrying) = window(address, 0).await;
    let answers: Vec<_> = (0..8).map(|_| ask(&mut client, address, "text/event-stream")).collect();
    let mut held = Vec::new();
    for answer in answers {
        let head = soon("a head", answer).await.unwrap();
        assert_eq!(head.status(), 200);
        // Dropped, its stream would be reset.
        held.push(head);
    }
    program.terminate();
    assert!(program.exit().await.success());
    drop(held);
    carrying.abort();
}
