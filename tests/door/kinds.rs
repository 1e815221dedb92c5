//! Bodies of kinds that strangers send, and what their heads say of them.

use crate::support::{Connection, Door, Script, Setup, exchange, post};
use stageline_base::FaultClass;
use stageline_door::{AnswerEvent, FinishReason, Input, Request};

/// A door that answers every request that it takes.
async fn door() -> Door {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() };
    Door::open(Setup { script: Script::Answer(vec![done]), ..Setup::default() }).await
}

/// A `POST /` of bytes.
fn posted(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// What the pipeline is asked by `request`.
async fn asked(request: Vec<u8>) -> Request {
    let mut door = Door::open(Setup::default()).await;
    let address = door.address;
    let client = tokio::spawn(async move { exchange(address, &request).await });
    let asked = tokio::select! {
        served = door.served() => {
            let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: String::new() };
            served.send(done).await;
            served.request
        }
        refused = client => panic!("it was refused: {refused:?}"),
    };
    asked
}

#[tokio::test]
async fn what_is_compressed_or_in_parts_is_refused_with_words_that_say_what_to_send() {
    let door = door().await;
    let parts = "--b\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\nHi\r\n--b--\r\n";
    for (headers, body, words) in [
        ("content-encoding: gzip\r\n", "x", "send it as it is"),
        ("content-type: application/json\r\ncontent-encoding: br\r\n", "{\"prompt\": \"x\"}", "Content-Encoding: br"),
        ("content-encoding: identity, deflate\r\n", "x", "Content-Encoding: deflate"),
        ("content-encoding: zstd\r\n", "x", "Content-Encoding: zstd"),
        ("content-type: multipart/form-data; boundary=b\r\n", parts, "curl --data-binary"),
        ("content-type: text/plain; charset=utf-16\r\n", "x", "send UTF-8"),
        ("content-type: application/json; charset=\"Shift_JIS\"\r\n", "{}", "charset=shift_jis"),
        ("content-type: text/plain; charset=iso-8859-1\r\n", "caf\u{e9}", "charset=iso-8859-1"),
    ] {
        let reply = door.send(post(headers, body)).await;
        assert_eq!((reply.status, reply.header("accept-encoding")), (415, Some("identity")), "{headers}");
        let (class, message) = reply.error();
        assert!(class == "invalid_request" && message.contains(words), "{headers}: {message}");
    }
    assert_eq!(door.metrics.door.ends(None), 0);
    // What is refused for its head alone leaves the connection as it was.
    let mut connection = Connection::open(door.address).await;
    for (headers, status) in [("content-encoding: gzip\r\n", 415), ("", 200)] {
        connection.send(format!("POST / HTTP/1.1\r\ncontent-length: 1\r\n{headers}\r\nx")).await;
        assert_eq!(connection.reply().await.status, status);
    }
}

#[tokio::test]
async fn a_transfer_that_http_1_has_not_is_not_taken_for_a_text() {
    let door = door().await;
    let reply = door.send("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").await;
    assert_eq!((reply.status, reply.error().0.as_str()), (501, "invalid_request"));
}

#[tokio::test]
async fn utf_8_is_what_is_read_with_a_mark_or_without() {
    let text = |text: &str| Input::Text(text.into());
    for (headers, body, want) in [
        ("", "\u{feff}Once, \u{e9}".as_bytes(), "Once, \u{e9}"),
        ("", "\u{feff}{\"prompt\": \"x\"}".as_bytes(), "x"),
        ("content-type: application/json; charset=utf-8\r\n", "\u{feff} {\"prompt\": \"x\"}".as_bytes(), "x"),
        ("content-type: text/plain; charset=ISO-8859-1\r\n", b"all ASCII", "all ASCII"),
        ("content-encoding: identity\r\n", b"x", "x"),
        ("content-type: application/json\r\ncontent-type: application/json\r\n", b"{\"prompt\": \"x\"}", "x"),
        // A form is JSON if it is JSON, as it is or escaped; all else is the text that it is.
        ("content-type: application/x-www-form-urlencoded\r\n", b"%7B%22prompt%22%3A+%22a%20b%22%7D", "a b"),
        ("content-type: application/x-www-form-urlencoded\r\n", b"prompt=a+b", "prompt=a+b"),
        ("content-type: application/x-www-form-urlencoded\r\n", b"100%7B", "100%7B"),
        ("content-type: text/plain\r\n", b"%7B%22prompt%22%3A1%7D", "%7B%22prompt%22%3A1%7D"),
    ] {
        assert_eq!(asked(posted(headers, body)).await.input, text(want), "{headers}{body:?}");
    }
    let door = door().await;
    for (headers, body, words) in [
        ("", &b"\xff\xfeH\0i\0"[..], "UTF-16"),
        ("", b"\xfe\xff\0H\0i", "UTF-16"),
        ("", b"H\0i\0", "UTF-16"),
        ("content-type: application/json\r\n", b"\0{\0\"", "UTF-16"),
        ("", b"caf\xe9", "not UTF-8 (at byte 3)"),
        ("content-type: application/json\r\n", b"{\"prompt\": \"caf\xe9\"}", "not UTF-8 (at byte 15)"),
        ("", b"binary \0\x01", "a zero byte (at 7)"),
        ("", b"", "the body is empty"),
        ("", b"\xef\xbb\xbf", "the body is empty"),
        ("content-type: application/json\r\n", b"", "the body is empty"),
    ] {
        let reply = door.send(posted(headers, body)).await;
        assert_eq!(reply.status, 400, "{body:?}");
        assert!(reply.error().1.contains(words), "{body:?}: {}", reply.error().1);
    }
    assert_eq!(door.metrics.door.ends(None), 0);
}

#[tokio::test]
async fn a_head_that_says_two_things_or_nothing_that_can_be_read_is_refused() {
    let door = door().await;
    for (headers, words) in [
        ("content-type: text/plain\r\ncontent-type: application/json\r\n", "content-type is there twice"),
        ("x-timeout: 1s\r\nx-timeout: 2s\r\n", "x-timeout is there twice"),
        ("x-timeout: 10\r\n", "such as 10s"),
        ("x-timeout: soon\r\n", "such as 10s"),
        ("x-timeout: -1s\r\n", "such as 10s"),
        ("x-timeout: 0s\r\n", "above 0"),
        ("x-timeout:\r\n", "such as 10s"),
        ("x-timeout: 1s\u{e9}\r\n", "such as 10s"),
    ] {
        let reply = door.send(post(headers, "x")).await;
        assert_eq!(reply.status, 400, "{headers}");
        assert!(reply.error().1.contains(words), "{headers}: {}", reply.error().1);
    }
    for timeout in ["10s", "1m30s", "60000ms", "+1h", "1.5h", "9999h"] {
        let reply = door.send(post(&format!("x-timeout: {timeout}\r\n"), "x")).await;
        assert_eq!(reply.status, 200, "{timeout}");
    }
}

#[tokio::test]
async fn an_id_ends_no_header_and_no_line_of_the_log() {
    let door = door().await;
    for (sent, back) in [("a\tb c", "a_b_c"), ("a%0d%0ab: c", "a%0d%0ab:_c"), ("caf\u{e9}\u{2028}", "caf_____")] {
        let reply = door.send(post(&format!("x-call-id: {sent}\r\nx-call-id: other\r\n"), "x")).await;
        assert_eq!((reply.status, reply.header("x-call-id")), (200, Some(back)), "{sent}");
        assert_eq!(reply.json()["call_id"], back);
    }
    // A bare carriage return, or a line that goes on: no part of it becomes a header of its own.
    for sent in ["a\rset-cookie: b", "a\r\n set-cookie: b"] {
        let mut connection = Connection::open(door.address).await;
        connection.send(post(&format!("x-call-id: {sent}\r\n"), "x")).await;
        let reply = String::from_utf8(connection.read_to_end().await).unwrap();
        assert!(!reply.to_ascii_lowercase().contains("\nset-cookie"), "{reply}");
    }
}

#[tokio::test]
async fn chunks_with_trailers_and_clients_that_ask_first_are_served() {
    let door = door().await;
    let chunks =
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n1;a=b\r\nx\r\n0\r\nx-sum: 1\r\n\r\n";
    let mut connection = Connection::open(door.address).await;
    for _ in 0..2 {
        connection.send(chunks).await;
        assert_eq!(connection.reply().await.status, 200);
    }
    connection.send("POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n").await;
    assert!(connection.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
    connection.send("x").await;
    assert_eq!(connection.reply().await.status, 200);
    // What is refused for its head is not asked for.
    connection
        .send("POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-encoding: gzip\r\ncontent-length: 9\r\n\r\n")
        .await;
    let reply = connection.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (415, Some("close")));
    assert_eq!(door.metrics.door.ends(Some(FaultClass::InvalidRequest)), 1);
}
