//! Nodes that are done for each of many items.

use crate::support::{Call, Door, Gateway, Said};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Semaphore;

const EACH: &str = "
flows:
  each:
    nodes:
      square: {foreach: '{{ input }}', parallel: 5}
  some:
    nodes:
      square: {foreach: '{{ input }}', tolerate: 10%}
  strict:
    nodes:
      square: {foreach: '{{ input }}', parallel: 1}
  named:
    nodes:
      square: {foreach: '{{ input.all }}', input: {number: '{{ item }}', key: '{{ key }}', index: '{{ index }}'}}
";

fn square(call: &Call) -> Said {
    let number = call.json().as_i64().unwrap();
    Said::json(&json!(number * number))
}

#[tokio::test]
async fn as_many_items_as_may_be_are_under_way_at_once_and_their_outputs_keep_their_order() {
    let gateway = Gateway::open().await;
    let go = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&go);
    gateway.function("square", move |call: Call| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            square(&call)
        }
    });
    let door = Door::of(EACH, &gateway).await;
    let items: Vec<i64> = (0..200).collect();
    let run = door.begin("each", &json!(items)).await;
    gateway.called("square", 5).await;
    // One by one: a sixth would stay beside the five.
    for ended in 1..=195 {
        go.add_permits(1);
        gateway.called("square", 5 + ended).await;
    }
    go.add_permits(5);
    let reply = door.ended(&run).await;
    let squares: Vec<i64> = items.iter().map(|number| number * number).collect();
    assert_eq!((reply.status, reply.json()), (200, json!(squares)));
    assert_eq!((gateway.most_at_once("square"), gateway.calls("square").len()), (5, 200));
    let id = format!("{run}.square.");
    let ids: std::collections::BTreeSet<String> =
        gateway.calls("square").iter().map(|call| call.header("x-call-id").to_owned()).collect();
    assert!(ids.len() == 200 && ids.iter().all(|known| known.starts_with(&id)), "{ids:?}");
}

#[tokio::test]
async fn so_many_items_may_fail_and_one_more_fails_the_node() {
    let gateway = Gateway::open().await;
    gateway.function("square", |call| async move {
        match call.json().as_i64().unwrap() {
            number if number < 0 => Said::status(400, "negative"),
            _ => square(&call),
        }
    });
    let door = Door::of(EACH, &gateway).await;
    let items = |failing: &[usize]| -> Value {
        (0..20).map(|at| json!(if failing.contains(&(at as usize)) { -1 } else { at })).collect()
    };
    let reply = door.post_json("/flows/some", &items(&[3, 7])).await;
    let squares: Value = (0..20).map(|at| if [3, 7].contains(&at) { Value::Null } else { json!(at * at) }).collect();
    assert_eq!((reply.status, reply.json()), (200, squares));
    let reply = door.post_json("/flows/some", &items(&[3, 7, 11])).await;
    assert_eq!(reply.status, 422, "{reply:?}");
    assert!(reply.failure().2.starts_with("square"), "{reply:?}");
    // One at a time, and none after the first that fails.
    let before = gateway.calls("square").len();
    let reply = door.post_json("/flows/strict", &items(&[3])).await;
    assert_eq!((reply.status, gateway.calls("square").len()), (422, before + 4), "{reply:?}");
}

#[tokio::test]
async fn a_map_stays_a_map_and_nothing_stays_nothing() {
    let gateway = Gateway::open().await;
    gateway.function("square", |call| async move { Said::json(&call.json()) });
    let door = Door::of(EACH, &gateway).await;
    let all = json!({ "zebra": 3, "ape": { "b": 1 }, "": null });
    let reply = door.post_json("/flows/named", &json!({ "all": all })).await;
    let given = reply.json();
    let names: Vec<&String> = given.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 3, "{given}");
    for (name, item) in all.as_object().unwrap() {
        assert_eq!((&given[name]["number"], &given[name]["key"]), (item, &json!(name)), "{given}");
    }
    for (nothing, kept) in [(json!([]), json!([])), (json!({}), json!({}))] {
        let reply = door.post_json("/flows/named", &json!({ "all": nothing })).await;
        assert_eq!((reply.status, reply.json()), (200, kept));
    }
}
