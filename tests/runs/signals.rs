//! Runs that wait for somebody to say something, or for a time.

use crate::patience::soon;
use crate::support::{Door, Gateway, Reply, Said};
use futures::StreamExt;
use reqwest::Method;
use serde_json::json;
use stageline_flow::run::Logged;
use stageline_store::Name;

const ASKS: &str = "
flows:
  asks:
    nodes:
      slow: {}
      answer: {after: [slow], wait: {signal: 'go ahead/é', timeout: 1h}}
      told: {input: '{{ answer }}'}
  impatient:
    nodes:
      answer: {wait: {signal: ok, timeout: 50ms}}
  two:
    nodes:
      one: {wait: {signal: a, timeout: 1h}}
      other: {after: [one], wait: {signal: a, timeout: 1h}}
    output: ['{{ one }}', '{{ other }}']
  later:
    nodes:
      pause: {wait: {for: '{{ input }}'}}
";

#[tokio::test]
async fn what_is_said_before_a_node_waits_for_it_is_kept() {
    let gateway = Gateway::open().await;
    let slow = gateway.holds("slow");
    gateway.function("told", |call| async move { Said::json(&call.json()) });
    let door = Door::of(ASKS, &gateway).await;
    let run = door.begin("asks", &json!(null)).await;
    gateway.called("slow", 1).await;
    let said = door.request(Method::POST, &format!("/runs/{run}/signal"));
    let reply = Reply::of(said.query(&[("name", "go ahead/é")]).json(&json!({ "by": "Ann" }))).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    assert!(gateway.calls("told").is_empty());
    slow.add_permits(1);
    let reply = door.ended(&run).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "by": "Ann" })));
    assert_eq!(gateway.names(), ["slow", "told"]);
    assert_eq!(door.post(&format!("/runs/{run}/signal?name=a"), "").await.status, 409);
}

#[tokio::test]
async fn a_node_goes_on_when_it_hears_what_it_waits_for_and_other_words_are_none() {
    let gateway = Gateway::open().await;
    gateway.says("slow", Said::text("")).function("told", |call| async move { Said::text(call.text()) });
    let door = Door::of(ASKS, &gateway).await;
    let run = door.begin("asks", &json!(null)).await;
    door.events(&run).await.until("waits", "answer").await;
    assert_eq!(door.post(&format!("/runs/{run}/signal?name=go"), "no").await.status, 202);
    assert_eq!(door.get(&format!("/runs/{run}")).await.status, 202);
    assert_eq!(door.post(&format!("/runs/{run}/signal?name=go+ahead%2F%C3%A9"), "yes").await.status, 202);
    assert_eq!(door.ended(&run).await.text(), "yes");
}

#[tokio::test]
async fn each_word_is_heard_once_in_the_order_in_which_they_were_said() {
    let gateway = Gateway::open().await;
    let door = Door::of(ASKS, &gateway).await;
    let run = door.begin("two", &json!(null)).await;
    assert_eq!(door.post(&format!("/runs/{run}/signal?name=a"), "first").await.status, 202);
    door.events(&run).await.until("waits", "other").await;
    assert_eq!(door.get(&format!("/runs/{run}")).await.status, 202, "one word was heard twice");
    assert_eq!(door.post(&format!("/runs/{run}/signal?name=a"), "second").await.status, 202);
    assert_eq!(door.ended(&run).await.json(), json!(["first", "second"]));
}

#[tokio::test]
async fn who_is_told_nothing_in_time_fails() {
    let gateway = Gateway::open().await;
    let door = Door::of(ASKS, &gateway).await;
    let reply = door.post("/flows/impatient", "").await;
    let (class, words, node) = reply.failure();
    assert_eq!((reply.status, class, &*node), (504, json!("timeout"), "answer"));
    assert!(words.contains("ok"), "{words}");
}

#[tokio::test]
async fn a_run_waits_for_a_time_that_its_caller_says() {
    let gateway = Gateway::open().await;
    let door = Door::of(ASKS, &gateway).await;
    let reply = door.post("/flows/later", "20ms").await;
    assert_eq!((reply.status, reply.text()), (200, ""), "{reply:?}");
    for wrong in ["soon", "-1s", "1000000000000d"] {
        let reply = door.post("/flows/later", wrong).await;
        assert_eq!((reply.status, reply.failure().0), (422, json!("value")), "{wrong}: {reply:?}");
    }
}

#[tokio::test]
async fn a_run_that_nobody_holds_while_it_waits_is_woken_by_what_it_waits_for() {
    let gateway = Gateway::open().await;
    gateway.says("slow", Said::text("")).function("told", |call| async move { Said::text(call.text()) });
    let door = Door::of(ASKS, &gateway).await;
    let run = door.begin("asks", &json!(null)).await;
    let mut said = door.keeper.follow(&Name::new("run", &run).unwrap(), 0);
    let let_go = async {
        loop {
            let (_, record) = said.next().await.unwrap().unwrap();
            if record.iter().flat_map(|moment| &moment.said).any(|said| matches!(said, Logged::Released)) {
                break;
            }
        }
    };
    soon("the engine to let go of it", let_go).await;
    assert_eq!(door.told(&run).await["status"], "waiting");
    assert_eq!(door.post(&format!("/runs/{run}/signal?name=go+ahead%2F%C3%A9"), "yes").await.status, 202);
    assert_eq!(door.ended(&run).await.text(), "yes");
    assert_eq!(gateway.names(), ["slow", "told"]);
}
