//! Callers and functions that send what nobody expects, and files that ask for too much.

use crate::support::{Door, Gateway, Reply, Said, Setup};
use reqwest::Method;
use serde_json::json;

const FIELDS: &str = "
flows:
  field:
    nodes:
      work: {input: '{{ input.name.first }}'}
  each:
    nodes:
      double: {set: '{{ item * 2 }}', foreach: '{{ input }}', parallel: 1000}
  count:
    nodes:
      all: {set: '{{ input | length }}'}
  header:
    nodes:
      work: {headers: {X-Said: '{{ input }}'}, query: {q: '{{ input }}'}, input: null}
  answer:
    nodes:
      work: {}
      read: {set: '{{ work.ok }}'}
";

async fn send(door: &Door, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> Reply {
    Reply::of(door.request(Method::POST, path).header("content-type", kind).body(body)).await
}

async fn fields() -> (Gateway, Door) {
    let gateway = Gateway::open().await;
    gateway.says("work", Said::text("done"));
    let door = Door::of(FIELDS, &gateway).await;
    (gateway, door)
}

#[tokio::test]
async fn a_body_that_is_not_what_an_expression_needs_fails_its_node_with_a_reason() {
    let (gateway, door) = fields().await;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for (kind, body) in [
        ("application/json", "{\"name\": "),
        ("application/json", "\"text\""),
        ("application/json", "[]"),
        ("application/json", "{\"name\": \"a\"}"),
        ("application/json", "{}"),
        ("application/json", "{\"name\": {\"first\": 1}, \"other\": 1e999}"),
        ("application/json", &deep),
        ("text/plain", "name=a"),
        ("application/octet-stream", "\u{0}\u{1}"),
    ] {
        let reply = send(&door, "/flows/field", kind, body.to_owned()).await;
        let (class, words, node) = reply.failure();
        let short = &body[..body.len().min(40)];
        assert_eq!((reply.status, &*node), (422, "work"), "{short}: {reply:?}");
        assert!(class == "expression" || class == "value", "{short}: {class}");
        assert!(!words.is_empty() && words.len() < 1000, "{short}: {words}");
    }
    assert!(gateway.names().is_empty());
    let reply = send(&door, "/flows/field", "application/json", "{\"name\": {\"first\": \"Ann\"}}").await;
    assert_eq!((reply.status, gateway.calls("work")[0].text()), (200, "Ann"));
}

#[tokio::test]
async fn so_many_items_are_done_and_one_more_is_refused_with_words() {
    let (_gateway, door) = fields().await;
    let items = |count: i64| (0..count).collect::<Vec<_>>();
    let reply = door.post_json("/flows/each", &json!(items(10_001))).await;
    let (class, words, node) = reply.failure();
    assert_eq!((reply.status, class, &*node), (422, json!("value"), "double"), "{reply:?}");
    assert!(words.contains("10001") && words.contains("10000"), "{words}");
    for wrong in [json!("text"), json!(7), json!(null)] {
        let reply = door.post_json("/flows/each", &wrong).await;
        assert_eq!((reply.status, &*reply.failure().2), (422, "double"), "{wrong}: {reply:?}");
    }
    let reply = door.post_json("/flows/each", &json!(items(10_000))).await;
    let doubled: Vec<i64> = items(10_000).into_iter().map(|item| item * 2).collect();
    assert_eq!((reply.status, reply.json()), (200, json!(doubled)));
}

#[tokio::test]
async fn an_expression_that_would_eat_steps_or_memory_fails_its_node() {
    let gateway = Gateway::open().await;
    for expression in [
        "range(1000000000) | list | length",
        "range(100000000) | sum",
        "'x' * 1000000000",
        "('x' * 60000000) ~ ('y' * 60000000)",
        "[0] * 100000000",
        "input | map('upper') | list | join | replace('X', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy') | replace('y', 'zzzzzzzzzzzzzzzz')",
        "2 ** 100000000",
    ] {
        let text = format!("flows:\n  one:\n    nodes:\n      eats: {{set: \"{{{{ {expression} }}}}\"}}\n");
        let read = stageline_flow::file::read(&text);
        let Some(_) = read.file else {
            // Said before anything is run: that is even better.
            assert!(!read.problems.is_empty());
            continue;
        };
        let door = Door::of(text, &gateway).await;
        let reply = door.post_json("/flows/one", &json!(["x".repeat(100_000)])).await;
        let (class, words, node) = reply.failure();
        assert_eq!((reply.status, class, &*node), (422, json!("expression"), "eats"), "{expression}: {reply:?}");
        assert!(words.len() < 1000, "{expression}: {words}");
        // The engine lives.
        assert_eq!(door.get("/_/health").await.status, 200);
    }
}

#[tokio::test]
async fn a_header_takes_no_more_than_http_does() {
    let (gateway, door) = fields().await;
    let reply = door.post("/flows/header", "a\r\nx-evil: 1").await;
    let (class, words, node) = reply.failure();
    assert_eq!((reply.status, class, &*node), (422, json!("value"), "work"));
    assert!(words.contains("X-Said"), "{words}");
    assert!(gateway.names().is_empty());
    let reply = door.post("/flows/header", "a&b=c #").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let call = &gateway.calls("work")[0];
    assert_eq!((call.header("x-said"), &*call.query), ("a&b=c #", "q=a%26b%3Dc+%23"));
}

#[tokio::test]
async fn an_answer_that_is_not_what_the_next_node_needs_fails_that_one() {
    let (gateway, door) = fields().await;
    for said in [
        Said::text("no json"),
        Said::body("application/json", "{\"ok\""),
        Said::body("application/json", "[1]"),
        Said::body("audio/wav", vec![255_u8; 100]),
    ] {
        gateway.says("work", said.clone());
        let reply = door.post("/flows/answer", "x").await;
        assert_eq!((reply.status, &*reply.failure().2), (422, "read"), "{said:?}: {reply:?}");
    }
    // Nothing is nothing, and so is a field of it.
    gateway.says("work", Said::status(200, ""));
    let reply = door.post("/flows/answer", "x").await;
    assert!(matches!(reply.status, 200 | 422), "{reply:?}");
}

#[tokio::test]
async fn paths_and_queries_that_are_nothing_are_answered_with_words() {
    let (gateway, door) = fields().await;
    for (method, path, status) in [
        (Method::POST, "/flows/%2e%2e%2fetc", 404),
        (Method::POST, "/flows/no-flow", 404),
        (Method::POST, "/nothing", 404),
        (Method::GET, "/runs?limit=0", 400),
        (Method::GET, "/runs?limit=x", 400),
        (Method::GET, "/runs?limit=99999999999999999999", 400),
        (Method::DELETE, "/flows/field", 405),
        (Method::PUT, "/runs/x", 405),
    ] {
        let reply = Reply::of(door.request(method.clone(), path)).await;
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
    }
    assert_eq!(door.get("/runs?limit=1&flow=none&status=nothing").await.json(), json!({ "runs": [] }));
    assert!(gateway.names().is_empty());
}

#[tokio::test]
async fn a_wait_that_is_longer_than_its_caller_waits_goes_on_without_it() {
    let gateway = Gateway::open().await;
    let go = gateway.holds("work");
    let limits = stageline_door::Limits {
        max_deadline: std::time::Duration::from_millis(100),
        max_body_bytes: 1 << 20,
        ..stageline_door::Limits::default()
    };
    let door = Door::open(Setup { limits, ..Setup::new(FIELDS, &gateway) }).await;
    let reply = door.post("/flows/answer", "x").await;
    assert_eq!(reply.status, 504, "{reply:?}");
    assert!(reply.text().contains(&format!("/runs/{}", reply.run())), "{reply:?}");
    gateway.called("work", 1).await;
    go.add_permits(1);
    door.settled(reply.run()).await;
}
