//! What goes from node to node: any bytes, of any length that is allowed.

use crate::support::{Door, Gateway, Reply, Said, Setup};
use reqwest::Method;
use serde_json::json;
use stageline_door::Limits;

const TWO: &str = "
flows:
  two:
    nodes:
      first: {}
      second: {input: '{{ first }}'}
  join:
    nodes:
      one: {}
      other: {}
      both: {input: {one: '{{ one }}', other: '{{ other }}'}}
  field:
    nodes:
      first: {}
      second: {input: '{{ first.field }}'}
";

/// What a value may be that is kept in a run's log.
const INLINE: usize = 64 << 10;

/// Functions that give back what they are given, as what it came.
fn echo(gateway: &Gateway) {
    for name in ["first", "second", "one", "other", "both"] {
        gateway.function(name, |call| async move { Said::body(call.header("content-type"), call.body.clone()) });
    }
}

/// Bytes that are no text, no two runs of them alike.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect()
}

async fn send(door: &Door, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> Reply {
    Reply::of(door.request(Method::POST, path).header("content-type", kind).body(body)).await
}

#[tokio::test]
async fn bytes_of_any_kind_and_length_pass_through_unread() {
    let gateway = Gateway::open().await;
    echo(&gateway);
    let door = Door::of(TWO, &gateway).await;
    for length in [1, INLINE - 1, INLINE, INLINE + 1, 100 << 10, 5 << 20] {
        let body = noise(length);
        let reply = send(&door, "/flows/two", "audio/x-own; rate=16000", body.clone()).await;
        let kind = reply.header("content-type");
        assert_eq!((reply.status, kind), (200, Some("audio/x-own; rate=16000")), "{length} bytes");
        assert!(reply.body == body, "{length} bytes became others");
        let call = gateway.calls("second").pop().unwrap();
        assert!(call.body == body && call.header("content-type") == "audio/x-own; rate=16000", "{length} bytes");
        // It is kept as it is.
        let kept = door.get(&format!("/runs/{}", reply.run())).await;
        assert!(kept.body == body, "{length} bytes are kept as others");
    }
}

#[tokio::test]
async fn json_is_the_same_on_either_side_of_what_is_kept_in_the_log() {
    let gateway = Gateway::open().await;
    echo(&gateway);
    let door = Door::of(TWO, &gateway).await;
    for length in [INLINE - 1, INLINE, INLINE + 1] {
        for body in [format!("\"{}\"", "x".repeat(length - 2)), format!("[\"{}\"]", "x".repeat(length - 4))] {
            let reply = send(&door, "/flows/two", "application/json", body.clone().into_bytes()).await;
            let call = gateway.calls("second").pop().unwrap();
            let seen = (call.header("content-type").to_owned(), call.body == body, reply.body == body);
            assert_eq!(
                seen,
                ("application/json".to_owned(), true, true),
                "{length} bytes that begin with {}",
                &body[..2]
            );
        }
    }
}

#[tokio::test]
async fn a_text_of_json_is_a_text_to_expressions_and_what_they_give_is_sent_as_one() {
    let gateway = Gateway::open().await;
    echo(&gateway);
    let door = Door::of(TWO, &gateway).await;
    let reply = send(&door, "/flows/join", "application/json", "\"a\\nb\"").await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "one": "a\nb", "other": "a\nb" })));
    let reply = door.post_json("/flows/field", &json!({ "field": "a\nb" })).await;
    let call = gateway.calls("second").pop().unwrap();
    assert_eq!((call.text(), call.header("content-type")), ("a\nb", "text/plain; charset=utf-8"));
    assert_eq!(reply.text(), "a\nb");
}

#[tokio::test]
async fn numbers_keep_their_digits() {
    let gateway = Gateway::open().await;
    echo(&gateway);
    let door = Door::of(TWO, &gateway).await;
    let body = "{\"a\": 1.10, \"b\": 12345678901234567890123, \"c\": 1e400}";
    let reply = send(&door, "/flows/two", "application/json", body).await;
    assert_eq!((reply.status, reply.text()), (200, body));
}

#[tokio::test]
async fn what_is_neither_json_nor_text_cannot_be_joined_and_the_node_says_so() {
    let gateway = Gateway::open().await;
    echo(&gateway);
    let door = Door::of(TWO, &gateway).await;
    for length in [7, INLINE + 1] {
        let reply = send(&door, "/flows/join", "application/octet-stream", noise(length)).await;
        let (class, words, node) = reply.failure();
        assert_eq!((reply.status, class, &*node), (422, json!("value"), "both"), "{reply:?}");
        assert!(words.contains("neither JSON nor text") && words.contains(&length.to_string()), "{words}");
    }
    assert!(gateway.calls("both").is_empty());
    let reply = send(&door, "/flows/join", "text/plain", b"a text".to_vec()).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "one": "a text", "other": "a text" })));
    // A long text is looked into as a short one is.
    let long = "x".repeat(INLINE + 1);
    let reply = send(&door, "/flows/join", "text/plain", long.clone()).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "one": long, "other": long })));
}

#[tokio::test]
async fn a_field_is_read_of_a_value_that_is_kept_beside_the_log() {
    let gateway = Gateway::open().await;
    echo(&gateway);
    let door = Door::of(TWO, &gateway).await;
    let body = json!({ "field": { "deep": 1 }, "more": "x".repeat(INLINE) });
    let reply = door.post_json("/flows/field", &body).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "deep": 1 })));
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused_at_the_door_and_fails_a_node() {
    const MOST: usize = 1 << 20;
    let gateway = Gateway::open().await;
    echo(&gateway);
    let setup = Setup { max_value_bytes: MOST as u64, ..Setup::new(TWO, &gateway) };
    let door = Door::open(setup).await;
    let reply = send(&door, "/flows/two", "audio/wav", noise(MOST)).await;
    assert_eq!((reply.status, reply.body.len()), (200, MOST));
    let before = gateway.names().len();
    let reply = send(&door, "/flows/two", "audio/wav", noise(MOST + 1)).await;
    assert_eq!(reply.status, 413, "{reply:?}");
    assert!(reply.text().contains(&MOST.to_string()), "{reply:?}");
    assert_eq!(gateway.names().len(), before);
    // With a length that is said before, and without.
    for chunked in [false, true] {
        gateway.function("first", move |_| async move {
            let said = Said::body("audio/wav", noise(MOST + 1));
            if chunked { said.in_pieces() } else { said }
        });
        let reply = door.post("/flows/two", format!("{chunked}")).await;
        let (class, words, node) = reply.failure();
        assert_eq!((reply.status, class, &*node), (422, json!("too_large"), "first"), "{reply:?}");
        assert!(words.contains(&MOST.to_string()), "{words}");
    }
    // Once: it would not be smaller a second time.
    assert_eq!(gateway.calls("first").len(), before / 2 + 2);
}

#[tokio::test]
async fn the_doors_own_limit_holds_too() {
    let gateway = Gateway::open().await;
    echo(&gateway);
    let limits = Limits { max_body_bytes: 1000, ..Limits::default() };
    let door = Door::open(Setup { limits, ..Setup::new(TWO, &gateway) }).await;
    let reply = send(&door, "/flows/two", "audio/wav", noise(1001)).await;
    assert_eq!((reply.status, gateway.names().len()), (413, 0), "{reply:?}");
    let reply = send(&door, "/flows/two", "audio/wav", noise(1000)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}
