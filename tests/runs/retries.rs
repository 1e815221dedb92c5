//! Calls that fail: which are made again, when, and which are not; runs that failed, once more.

use crate::support::{Door, Gateway, Said};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const ONE: &str = "
flows:
  one:
    nodes:
      work: {timeout: 1s, retry: {min: 1ms, max: 5ms}}
";

/// Four nodes in a row, and one beside them.
const ROW: &str = "
flows:
  row:
    nodes:
      first: {}
      second: {input: '{{ first }}'}
      third: {input: '{{ second }}'}
      beside: {after: [first]}
    output: {third: '{{ third }}', beside: '{{ beside }}'}
";

#[tokio::test]
async fn a_call_is_made_again_after_what_passes_under_one_id_and_not_before_it_may() {
    let gateway = Gateway::open().await;
    gateway.function("work", |call| async move {
        match call.before {
            0 => Said::status(503, "busy").header("retry-after", "1"),
            1 => Said::status(500, "no replica").header("x-openfaas-internal", "gateway"),
            2 => std::future::pending().await,
            _ => Said::text("done"),
        }
    });
    let door = Door::of(ONE, &gateway).await;
    let reply = door.post("/flows/one", "x").await;
    assert_eq!((reply.status, reply.text()), (200, "done"), "{reply:?}");
    let calls = gateway.calls("work");
    let attempts: Vec<&str> = calls.iter().map(|call| call.header("x-stageline-attempt")).collect();
    assert_eq!(attempts, ["1", "2", "3", "4"]);
    for call in &calls {
        assert_eq!((call.header("x-call-id"), call.text()), (&*format!("{}.work", reply.run()), "x"));
    }
    assert!(calls[0].at + Duration::from_secs(1) <= calls[1].at, "it was called before it asked to be");
    assert_eq!(gateway.log()[4..6], ["+work", "!work"], "nobody hung up on the call that took too long");
    let told = door.told(reply.run()).await;
    let events = told["events"].as_array().unwrap().iter().filter(|event| event["event"] == "failed");
    let classes: Vec<Value> = events.map(|event| json!([event["class"], event["status"]])).collect();
    assert_eq!(classes, [json!(["status", 503]), json!(["status", 500]), json!(["timeout", null])]);
}

#[tokio::test]
async fn what_does_not_pass_by_itself_fails_at_once() {
    let gateway = Gateway::open().await;
    let door = Door::of(ONE, &gateway).await;
    // The function's own 500 is an answer that it would give again.
    for (status, answered) in [(400, 422), (404, 422), (413, 422), (422, 422), (500, 502)] {
        let before = gateway.calls("work").len();
        gateway.says("work", Said::status(status, "not this"));
        let reply = door.post("/flows/one", format!("{status}")).await;
        let (class, words, node) = reply.failure();
        assert_eq!((reply.status, class, &*node), (answered, json!("status"), "work"));
        assert!(words.contains("not this") && words.contains(&status.to_string()), "{words}");
        assert_eq!(gateway.calls("work").len(), before + 1, "{status}");
    }
}

#[tokio::test]
async fn attempts_have_an_end_and_two_timeouts_are_enough() {
    let gateway = Gateway::open().await;
    let door = Door::of(ONE, &gateway).await;
    gateway.says("work", Said::status(502, ""));
    let reply = door.post("/flows/one", "a").await;
    assert_eq!((reply.status, gateway.calls("work").len()), (502, 4));
    gateway.function("work", |_| std::future::pending());
    let reply = door.post("/flows/one", "b").await;
    assert_eq!((reply.status, reply.failure().0), (504, json!("timeout")));
    assert_eq!(gateway.calls("work").len(), 6);
}

#[tokio::test]
async fn a_failed_run_is_retried_from_what_failed_and_what_is_behind_it() {
    let gateway = Gateway::open().await;
    gateway.appends("first", "1").appends("third", "3").says("beside", Said::text("beside"));
    let go = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&go);
    gateway.function("second", move |_| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            Said::status(400, "broken")
        }
    });
    let door = Door::of(ROW, &gateway).await;
    let run = door.begin("row", &json!("x")).await;
    // It fails when the one beside it is done, which then is not to be done again.
    door.events(&run).await.until("done", "beside").await;
    go.add_permits(1);
    let reply = door.ended(&run).await;
    assert_eq!((reply.status, &*reply.failure().2), (422, "second"));
    gateway.appends("second", "2");
    door.order(&run, "retry").await;
    let reply = door.ended(&run).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "third": "x123", "beside": "beside" })));
    let count = |name: &str| gateway.calls(name).len();
    assert_eq!((count("first"), count("second"), count("third"), count("beside")), (1, 2, 1, 1));
    let ids: Vec<String> = gateway.calls("second").iter().map(|call| call.header("x-call-id").to_owned()).collect();
    assert_ne!(ids[0], ids[1], "who joins repeated calls would give the old answer again");
    assert_eq!(door.told(&run).await["tries"], 2);
}

#[tokio::test]
async fn a_run_is_done_again_from_a_node_that_is_named() {
    let gateway = Gateway::open().await;
    gateway.appends("first", "1").appends("second", "2").appends("third", "3").says("beside", Said::text("beside"));
    let door = Door::of(ROW, &gateway).await;
    let reply = door.post("/flows/row", "x").await;
    assert_eq!(reply.status, 200);
    let run = reply.run().to_owned();
    let refused = door.post(&format!("/runs/{run}/retry"), "").await;
    assert_eq!(refused.status, 409, "it has succeeded: {refused:?}");
    let unknown = door.post(&format!("/runs/{run}/retry?from=nobody"), "").await;
    assert_eq!(unknown.status, 400);
    assert!(unknown.text().contains("nobody"), "{unknown:?}");
    gateway.appends("second", "-two");
    door.order(&run, "retry?from=second").await;
    let reply = door.ended(&run).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "third": "x1-two3", "beside": "beside" })));
    let count = |name: &str| gateway.calls(name).len();
    assert_eq!((count("first"), count("second"), count("third"), count("beside")), (1, 2, 2, 1));
}

#[tokio::test]
async fn a_value_stands_in_for_a_node_that_failed() {
    let text = "
flows:
  one:
    nodes:
      work: {on_error: {output: {why: '{{ error.status }}', words: '{{ error.reason }}'}}}
      next: {input: '{{ work }}'}
";
    let gateway = Gateway::open().await;
    gateway.says("work", Said::status(400, "no")).function("next", |call| async move { Said::json(&call.json()) });
    let reply = Door::of(text, &gateway).await.post("/flows/one", "x").await;
    let whole = json!({ "why": 400, "words": "it was answered with status 400: no" });
    assert_eq!((reply.status, reply.json()), (200, whole));
}
