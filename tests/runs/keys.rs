//! Calls that are made twice, and that are one run.

use crate::support::{Door, Gateway, Reply, Said};
use reqwest::Method;

const ONE: &str = "
flows:
  one:
    nodes: {work: {}}
  other:
    nodes: {work: {}}
";

async fn with(door: &Door, path: &str, (name, value): (&str, &str), body: &'static str) -> Reply {
    Reply::of(door.request(Method::POST, path).header(name, value).header("content-type", "text/plain").body(body))
        .await
}

#[tokio::test]
async fn a_key_makes_one_run_of_calls_and_refuses_another_body() {
    let gateway = Gateway::open().await;
    gateway.appends("work", " done");
    let door = Door::of(ONE, &gateway).await;
    let key = ("idempotency-key", "k-1");
    let first = with(&door, "/flows/one", key, "a").await;
    let second = with(&door, "/function/one", key, "a").await;
    assert_eq!((first.status, first.text()), (200, "a done"));
    assert_eq!((second.status, second.text(), second.run()), (200, "a done", first.run()));
    let later = with(&door, "/async-function/one", key, "a").await;
    assert_eq!((later.status, later.run()), (202, first.run()));
    assert_eq!(gateway.calls("work").len(), 1);
    // Another body, another kind of body, another flow.
    assert_eq!(with(&door, "/flows/one", key, "b").await.status, 422);
    assert_eq!(with(&door, "/flows/other", key, "a").await.status, 422);
    let kind = door.request(Method::POST, "/flows/one").header("idempotency-key", "k-1").body("a");
    assert_eq!(Reply::of(kind).await.status, 422);
    assert_eq!(gateway.calls("work").len(), 1);
    // Another key is another run.
    assert_ne!(with(&door, "/flows/one", ("idempotency-key", "k-2"), "a").await.run(), first.run());
    assert_eq!(gateway.calls("work").len(), 2);
}

#[tokio::test]
async fn calls_of_one_id_are_one_run_and_all_wait_for_its_end() {
    let gateway = Gateway::open().await;
    let go = gateway.holds("work");
    let door = Door::of(ONE, &gateway).await;
    let key = ("x-call-id", "id-1");
    let later = with(&door, "/async-function/one", key, "a").await;
    gateway.called("work", 1).await;
    let letting_go = async { go.add_permits(1) };
    let (waited, ()) = tokio::join!(with(&door, "/flows/one", key, "a"), letting_go);
    assert_eq!((waited.status, waited.text(), waited.run()), (200, "work let go", later.run()));
    assert_eq!(gateway.calls("work").len(), 1);
    assert_eq!(with(&door, "/flows/one", key, "b").await.status, 422);
    // An id is no key of that name.
    go.add_permits(1);
    let other = with(&door, "/flows/one", ("idempotency-key", "id-1"), "a").await;
    assert_ne!(other.run(), later.run());
    // As faas-flow calls it.
    let moved = with(&door, "/flows/one", ("x-faas-flow-reqid", "id-1"), "a").await;
    assert_eq!((moved.run(), moved.header("x-call-id")), (later.run(), Some("id-1")));
}

#[tokio::test]
async fn many_calls_of_one_key_at_once_are_one_run() {
    let gateway = Gateway::open().await;
    gateway.appends("work", " done");
    let door = Door::of(ONE, &gateway).await;
    let calls = (0..40).map(|_| with(&door, "/flows/one", ("idempotency-key", "k"), "a"));
    let replies = futures::future::join_all(calls).await;
    for reply in &replies {
        assert_eq!((reply.status, reply.text(), reply.run()), (200, "a done", replies[0].run()));
    }
    assert_eq!(gateway.calls("work").len(), 1);
}

#[tokio::test]
async fn what_is_no_key_is_refused_before_anybody_is_called() {
    let gateway = Gateway::open().await;
    gateway.says("work", Said::text(""));
    let door = Door::of(ONE, &gateway).await;
    let long = "x".repeat(256);
    for wrong in ["", &*long] {
        assert_eq!(with(&door, "/flows/one", ("idempotency-key", wrong), "a").await.status, 400, "{wrong}");
    }
    assert!(gateway.names().is_empty());
}
