//! Runs that are told to end, to rest and to go on; and who may tell them, and may know of them.

use crate::support::{Door, Events, Gateway, Reply, Said, Setup};
use reqwest::Method;
use serde_json::{Value, json};
use stageline_door::keys::Keys;

const SHOP: &str = "
flows:
  shop:
    nodes:
      pay: {undo: {function: refund}}
      ship: {after: [pay], undo: {function: recall, input: '{{ output }}'}}
      slow: {after: [ship], undo: {function: never-done}}
      next: {after: [slow]}
    finally:
      tidy: {input: '{{ run.state }}'}
";

/// A shop whose third node waits for permits.
async fn shop() -> (Gateway, Door, std::sync::Arc<tokio::sync::Semaphore>) {
    let gateway = Gateway::open().await;
    gateway.says("pay", Said::text("paid")).says("ship", Said::text("shipped")).says("next", Said::text("next"));
    for name in ["refund", "recall", "tidy"] {
        gateway.says(name, Said::status(200, ""));
    }
    let slow = gateway.holds("slow");
    let door = Door::of(SHOP, &gateway).await;
    (gateway, door, slow)
}

/// The names of all events, with the node or the order that they are of.
async fn story(events: Events) -> Vec<String> {
    let told = events.all().await.into_iter().map(|(_, name, said)| {
        let order = &said["order"];
        let order = order.as_str().or_else(|| order.as_object()?.keys().next().map(String::as_str));
        format!("{name} {}", said["node"].as_str().or(order).unwrap_or_default())
    });
    told.map(|line| line.trim_end().to_owned()).collect()
}

#[tokio::test]
async fn a_cancelled_run_hangs_up_calls_nobody_takes_nothing_back_and_does_what_is_for_its_end() {
    let (gateway, door, _slow) = shop().await;
    let run = door.begin("shop", &json!(null)).await;
    gateway.called("slow", 1).await;
    door.order(&run, "cancel").await;
    let reply = door.ended(&run).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["class"]), (499, &json!("cancelled")), "{reply:?}");
    // Who was being called has been hung up on.
    gateway.logged("!slow").await;
    assert_eq!(gateway.names(), ["pay", "ship", "slow", "tidy"]);
    assert_eq!(gateway.calls("tidy")[0].text(), "cancelled");
    let again = door.post(&format!("/runs/{run}/cancel"), "").await;
    assert_eq!(again.status, 409, "it has ended: {again:?}");
    assert_eq!(door.told(&run).await["status"], "cancelled");
}

#[tokio::test]
async fn what_was_done_is_taken_back_in_reverse_where_that_is_asked_for() {
    let (gateway, door, _slow) = shop().await;
    let run = door.begin("shop", &json!(null)).await;
    gateway.called("slow", 1).await;
    door.order(&run, "cancel?undo=true").await;
    door.ended(&run).await;
    assert_eq!(gateway.names(), ["pay", "ship", "slow", "recall", "refund", "tidy"]);
    assert!(gateway.place("-recall") < gateway.place("+refund"), "{:?}", gateway.log());
    assert_eq!((gateway.calls("recall")[0].text(), gateway.calls("refund")[0].text()), ("shipped", "paid"));
    assert_eq!(gateway.calls("refund")[0].header("x-call-id"), format!("{run}.~undo.pay"));
}

#[tokio::test]
async fn a_run_that_fails_takes_back_what_it_did() {
    let (gateway, door, _slow) = shop().await;
    gateway.says("slow", Said::status(400, "no"));
    let reply = door.post("/flows/shop", "").await;
    assert_eq!((reply.status, &*reply.failure().2), (422, "slow"));
    assert_eq!(gateway.names(), ["pay", "ship", "slow", "recall", "refund", "tidy"]);
    assert_eq!(gateway.calls("tidy")[0].text(), "failed");
}

#[tokio::test]
async fn a_run_that_is_deleted_is_cancelled() {
    let (gateway, door, _slow) = shop().await;
    let run = door.begin("shop", &json!(null)).await;
    gateway.called("slow", 1).await;
    let reply = Reply::of(door.request(Method::DELETE, &format!("/runs/{run}"))).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    assert_eq!(door.ended(&run).await.status, 499);
    assert_eq!(gateway.names(), ["pay", "ship", "slow", "tidy"]);
}

#[tokio::test]
async fn a_paused_run_notes_what_ends_and_calls_nobody_until_it_goes_on() {
    let (gateway, door, slow) = shop().await;
    let run = door.begin("shop", &json!(null)).await;
    gateway.called("slow", 1).await;
    door.order(&run, "pause").await;
    door.order(&run, "pause").await;
    assert_eq!(door.told(&run).await["status"], "paused");
    slow.add_permits(1);
    // The next is called in the same breath in which this is noted, or not before it goes on.
    door.events(&run).await.until("done", "slow").await;
    assert!(gateway.calls("next").is_empty());
    door.order(&run, "resume").await;
    assert_eq!(door.ended(&run).await.text(), "next");
    let story = story(door.events(&run).await).await;
    let place =
        |line: &str| story.iter().position(|other| other == line).unwrap_or_else(|| panic!("{line}: {story:?}"));
    assert!(place("ordered pause") < place("done slow"), "{story:?}");
    assert!(
        place("done slow") < place("ordered resume") && place("ordered resume") < place("called next"),
        "{story:?}"
    );
    assert_eq!(story.iter().filter(|line| *line == "ordered pause").count(), 1, "{story:?}");
}

#[tokio::test]
async fn a_paused_run_can_be_cancelled() {
    let (gateway, door, _slow) = shop().await;
    let run = door.begin("shop", &json!(null)).await;
    gateway.called("slow", 1).await;
    door.order(&run, "pause").await;
    door.order(&run, "cancel").await;
    assert_eq!(door.ended(&run).await.status, 499);
    assert_eq!(gateway.names(), ["pay", "ship", "slow", "tidy"]);
}

#[tokio::test]
async fn a_run_that_fails_while_it_rests_takes_nothing_back_before_it_goes_on_or_is_cancelled() {
    for order in ["resume", "cancel"] {
        let (gateway, door, _slow) = shop().await;
        let go = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
        let held = std::sync::Arc::clone(&go);
        gateway.function("slow", move |_| {
            let held = std::sync::Arc::clone(&held);
            async move {
                held.acquire().await.unwrap().forget();
                Said::status(400, "no")
            }
        });
        let run = door.begin("shop", &json!(null)).await;
        gateway.called("slow", 1).await;
        door.order(&run, "pause").await;
        go.add_permits(1);
        door.events(&run).await.until("failed", "slow").await;
        assert!(gateway.calls("recall").is_empty());
        door.order(&run, order).await;
        assert_eq!((door.ended(&run).await.status, gateway.calls("tidy").len()), (422, 1), "{order}");
        assert_eq!(gateway.names(), ["pay", "ship", "slow", "recall", "refund", "tidy"]);
        let story = story(door.events(&run).await).await;
        let place =
            |line: &str| story.iter().position(|other| other == line).unwrap_or_else(|| panic!("{line}: {story:?}"));
        assert!(place("failed slow") < place(&format!("ordered {order}")), "{story:?}");
        assert!(place(&format!("ordered {order}")) < place("called ~undo.ship"), "{story:?}");
    }
}

#[tokio::test]
async fn what_is_no_run_or_no_order_is_not_there() {
    let (gateway, door, slow) = shop().await;
    slow.add_permits(1);
    let run = door.post("/flows/shop", "").await.run().to_owned();
    let nobody = "0".repeat(32);
    for id in [&*nobody, "x", "a.b", "%00", &"f".repeat(5000)] {
        for (method, path) in [
            (Method::GET, format!("/runs/{id}")),
            (Method::GET, format!("/runs/{id}/events")),
            (Method::DELETE, format!("/runs/{id}")),
            (Method::POST, format!("/runs/{id}/pause")),
            (Method::POST, format!("/runs/{id}/signal?name=a")),
            (Method::POST, format!("/runs/{id}/retry")),
        ] {
            let reply = Reply::of(door.request(method.clone(), &path)).await;
            assert_eq!(reply.status, 404, "{method} {path}: {reply:?}");
        }
    }
    assert_eq!(door.post(&format!("/runs/{run}/explode"), "").await.status, 404);
    assert_eq!(door.post(&format!("/runs/{run}/signal"), "").await.status, 400, "no name");
    for order in ["pause", "resume", "cancel", "signal?name=a"] {
        let reply = door.post(&format!("/runs/{run}/{order}"), "").await;
        assert_eq!(reply.status, 409, "{order}: it has ended: {reply:?}");
    }
    assert_eq!(gateway.names(), ["pay", "ship", "slow", "next", "tidy"]);
}

#[tokio::test]
async fn a_run_is_its_principals_and_admins_and_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "alice key-a\nbob key-b\nadmin key-c\n").unwrap();
    let gateway = Gateway::open().await;
    let slow = gateway.holds("work");
    let text = "{flows: {one: {nodes: {work: {}}}}}";
    let door = Door::open(Setup { keys: Some(Keys::open(&file).unwrap()), ..Setup::new(text, &gateway) }).await;
    let ask = async |key: &str, method: Method, path: &str| {
        let request = door.request(method, path).header("x-call-id", "same");
        Reply::of(if key.is_empty() { request } else { request.header("x-api-key", key) }).await
    };
    assert_eq!(ask("", Method::POST, "/async-function/one").await.status, 401);
    assert_eq!(ask("key-x", Method::GET, "/runs").await.status, 401);
    let begun = ask("key-a", Method::POST, "/async-function/one").await;
    let run = begun.run().to_owned();
    // The same id of somebody else is another run.
    let other = ask("key-b", Method::POST, "/async-function/one").await.run().to_owned();
    assert_ne!(run, other);
    gateway.called("work", 2).await;
    let path = format!("/runs/{run}");
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::GET, format!("{path}/events")),
        (Method::POST, format!("{path}/pause")),
        (Method::POST, format!("{path}/signal?name=a")),
        (Method::DELETE, path.clone()),
    ] {
        assert_eq!(ask("key-b", method.clone(), &path).await.status, 404, "{method} {path}");
    }
    for key in ["key-a", "key-c"] {
        assert_eq!(ask(key, Method::GET, &path).await.status, 202, "{key}");
    }
    let listed = async |key: &str| {
        let runs = ask(key, Method::GET, "/runs").await.json()["runs"].clone();
        let mut ids: Vec<String> =
            runs.as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let both = {
        let mut both = vec![run.clone(), other.clone()];
        both.sort();
        both
    };
    assert_eq!(
        (listed("key-a").await, listed("key-b").await, listed("key-c").await),
        (vec![run.clone()], vec![other], both)
    );
    assert_eq!(ask("key-c", Method::POST, &format!("{path}/cancel")).await.status, 202);
    slow.add_permits(2);
    let standing: Value = ask("key-a", Method::GET, &format!("{path}?full")).await.json();
    assert_eq!(standing["principal"], "alice");
}
