//! Conditions, groups, flows within flows, and what is done at the end of runs.

use crate::support::{Door, Gateway, Said};
use serde_json::{Value, json};

const SHAPES: &str = "
flows:
  choice:
    nodes:
      ask: {}
      small: {when: '{{ ask.size < 10 }}', input: '{{ ask }}'}
      large: {when: '{{ ask.size >= 10 }}', nodes: {cut: {input: '{{ ask }}'}, wrap: {input: '{{ cut }}'}}}
      both: {set: {small: '{{ small }}', large: '{{ large }}'}}
  outer:
    nodes:
      each: {foreach: '{{ input }}', flow: inner}
    output: {all: '{{ each }}'}
  inner:
    nodes:
      ask: {}
      twice: {set: '{{ ask.size * 2 }}'}
    output: '{{ twice }}'
  fails:
    nodes:
      ask: {}
      beside: {async: true, timeout: 1h}
    on_failure:
      alert: {input: {node: '{{ error.node }}', class: '{{ error.class }}', why: '{{ error.reason }}'}}
    finally:
      tidy: {input: '{{ run.state }}'}
";

fn sized(gateway: &Gateway) {
    for name in ["ask", "small", "cut", "wrap"] {
        gateway.function(name, |call| async move { Said::json(&call.json()) });
    }
}

#[tokio::test]
async fn what_a_condition_is_against_is_not_called_and_gives_nothing() {
    let gateway = Gateway::open().await;
    sized(&gateway);
    let door = Door::of(SHAPES, &gateway).await;
    let (three, ten) = (json!({ "size": 3 }), json!({ "size": 10 }));
    let reply = door.post_json("/flows/choice", &three).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "small": three, "large": null })));
    assert_eq!(gateway.names(), ["ask", "small"]);
    let reply = door.post_json("/flows/choice", &ten).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "small": null, "large": ten })));
    assert_eq!(gateway.names()[2..], ["ask", "cut", "wrap"]);
    assert_eq!(gateway.calls("cut")[0].header("x-call-id"), format!("{}.large.cut", reply.run()));
}

#[tokio::test]
async fn a_flow_within_a_flow_is_the_same_run_once_for_each_item() {
    let gateway = Gateway::open().await;
    sized(&gateway);
    let door = Door::of(SHAPES, &gateway).await;
    let items: Vec<Value> = (0..5).map(|size| json!({ "size": size })).collect();
    let reply = door.post_json("/flows/outer", &json!(items)).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "all": [0, 2, 4, 6, 8] })));
    assert_eq!(gateway.calls("ask").len(), 5);
    assert!(gateway.calls("ask").iter().all(|call| call.header("x-call-id").starts_with(reply.run())));
    assert_eq!(door.get("/runs").await.json()["runs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_nobody_waits_for_may_end_before_a_failure_is_told_and_the_end_is_tidied_once() {
    let gateway = Gateway::open().await;
    gateway.says("ask", Said::status(400, "no")).says("alert", Said::text("")).says("tidy", Said::text(""));
    let beside = gateway.holds("beside");
    let door = Door::of(SHAPES, &gateway).await;
    let run = door.begin("fails", &json!("x")).await;
    gateway.called("beside", 1).await;
    door.events(&run).await.until("failed", "ask").await;
    assert!(gateway.calls("alert").is_empty());
    beside.add_permits(1);
    let reply = door.ended(&run).await;
    assert_eq!((reply.status, &*reply.failure().2), (422, "ask"));
    assert!(gateway.place("-beside") < gateway.place("+alert"), "{:?}", gateway.log());
    assert!(gateway.place("-alert") < gateway.place("+tidy"), "{:?}", gateway.log());
    let alert = gateway.calls("alert")[0].json();
    assert_eq!((&alert["node"], &alert["class"]), (&json!("ask"), &json!("status")));
    assert!(alert["why"].as_str().unwrap().contains("no"), "{alert}");
    assert_eq!((gateway.calls("tidy").len(), gateway.calls("tidy")[0].text()), (1, "failed"));
}
