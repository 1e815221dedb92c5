//! Who is told how durable requests ended, and what is tried anew.

use crate::durable::{LATER, ask, door, door_of, finish, once, path_of};
use crate::patience::soon;
use crate::support::{Door, keeping, post};
use serde_json::json;
use stageline_door::AnswerEvent;
use stageline_door::durable::KeeperSetup;
use stageline_door::outgoing::Outgoing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Reads one request and answers it with `status`; the request.
async fn receive(listener: &TcpListener, status: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut text = String::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        text += std::str::from_utf8(&piece[..read]).unwrap();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            body.len() == length.unwrap_or(0)
        });
        if whole || read == 0 {
            break;
        }
    }
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    text
}

#[tokio::test]
async fn who_is_to_be_told_is_told_until_it_listens_and_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/told?a=b", listener.local_addr().unwrap());
    let outgoing = Outgoing { allow: Vec::new(), secret: Some(b"secret".to_vec()) };
    let mut door = door_of(KeeperSetup { outgoing, ..keeping() }).await;
    let reply = ask(&door, &format!("{LATER}x-call-id: one\r\nx-callback-url: {url}\r\n"), "x").await;
    let path = path_of(&reply);
    let served = door.served().await;
    served.token(7, "a").await;
    finish(&served).await;
    let first = soon("a callback", receive(&listener, "503 Service Unavailable")).await;
    let told = soon("the callback again", receive(&listener, "204 No Content")).await;
    assert!(first.starts_with("POST /told?a=b HTTP/1.1\r\n"), "{first}");
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    assert_eq!((header("x-function-status"), header("x-function-name")), (Some("200"), Some("tiny")));
    assert_eq!((header("x-call-id"), header("content-type")), (Some("one"), Some("application/json")));
    assert!(header("x-duration-seconds").is_some_and(|seconds| seconds.parse::<f64>().is_ok()), "{head}");
    assert!(header("x-stageline-signature").is_some_and(|text| text.starts_with("t=")), "{head}");
    let kept = once(&door, 200, &path).await;
    assert_eq!(body, kept.body);
}

#[tokio::test]
async fn the_setting_is_told_where_nobody_is_named_and_failures_are_told_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut door = door_of(KeeperSetup { callback_url: Some(url), ..keeping() }).await;
    path_of(&ask(&door, LATER, "x").await);
    let served = door.served().await;
    served.send(AnswerEvent::Failed(stageline_base::Fault::internal("it broke"))).await;
    // It is asked to go elsewhere, and does not.
    let told = soon("a callback", receive(&listener, "302 Found")).await;
    assert!(told.contains("x-function-status: 500") && told.contains("it broke"), "{told}");
    // A queue worker that tells nobody itself.
    let address = door.address;
    let worker = post("user-agent: openfaas-ce/nats-queue-worker\r\nx-call-id: w\r\n", "x");
    let asked = tokio::spawn(async move { crate::support::exchange(address, worker.as_bytes()).await });
    let served = door.served().await;
    finish(&served).await;
    assert_eq!(asked.await.unwrap().status, 200);
    let told = soon("a callback", receive(&listener, "200 OK")).await;
    assert!(told.contains("x-call-id: w\r\n") && told.contains("x-function-status: 200"), "{told}");
}

#[tokio::test]
async fn what_failed_is_run_again_on_request_and_what_nobody_was_told_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut door = door().await;
    let retry = async |door: &Door, path: &str| {
        door.send(format!("POST {path}/retry HTTP/1.1\r\nconnection: close\r\n\r\n")).await
    };
    let path = path_of(&ask(&door, LATER, "x").await);
    let served = door.served().await;
    assert_eq!(retry(&door, &path).await.status, 400, "it has not ended");
    served.send(AnswerEvent::Failed(stageline_base::Fault::internal("it broke"))).await;
    once(&door, 500, &path).await;
    assert_eq!(retry(&door, &path).await.status, 202);
    let served = door.served().await;
    served.token(7, "a").await;
    finish(&served).await;
    assert_eq!(once(&door, 200, &path).await.json()["token_ids"], json!([7]));
    assert_eq!(retry(&door, &path).await.status, 400, "nobody is to be told");
    assert_eq!(retry(&door, "/requests/x").await.status, 404);
    // Nobody is told of this one at first.
    let path = path_of(&ask(&door, &format!("{LATER}x-callback-url: {url}\r\n"), "y").await);
    let served = door.served().await;
    served.token(8, "a").await;
    finish(&served).await;
    soon("a callback", receive(&listener, "404 Not Found")).await;
    let dead = async || door.get("/requests").await.json()["requests"][0]["status"] == "dead";
    soon("it to be a dead letter", async { while !dead().await {} }).await;
    assert_eq!(retry(&door, &path).await.status, 202);
    let told = soon("a callback", receive(&listener, "200 OK")).await;
    assert!(told.contains("\"token_ids\":[8]"), "{told}");
    assert!(door.served_nothing(), "it ran again");
}
