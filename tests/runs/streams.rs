//! What happens in a run, told as it happens, cut and taken up again.

use crate::support::{Door, Events, Gateway, Reply, Said};
use reqwest::Method;
use serde_json::json;

const ROW: &str = "
flows:
  row:
    nodes:
      first: {}
      second: {input: '{{ first }}'}
      third: {input: '{{ second }}'}
";

/// The ids of events must be these.
fn ids_are(events: &[(u64, String, serde_json::Value)], ids: std::ops::Range<u64>) {
    assert_eq!(events.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), ids.collect::<Vec<_>>(), "{events:?}");
}

async fn row() -> (Gateway, Door, std::sync::Arc<tokio::sync::Semaphore>) {
    let gateway = Gateway::open().await;
    gateway.appends("first", "1").appends("third", "3");
    let second = gateway.holds("second");
    let door = Door::of(ROW, &gateway).await;
    (gateway, door, second)
}

async fn from(door: &Door, run: &str, last: u64) -> Events {
    Events::of(door.request(Method::GET, &format!("/runs/{run}/events")).header("last-event-id", last.to_string()))
        .await
}

#[tokio::test]
async fn events_come_as_they_happen_each_with_its_place() {
    let (_gateway, door, second) = row().await;
    let run = door.begin("row", &json!("x")).await;
    let mut events = door.events(&run).await;
    let mut seen = events.some(4).await;
    let names: Vec<&str> = seen.iter().map(|(_, name, _)| &**name).collect();
    assert_eq!(names, ["accepted", "called", "done", "called"]);
    second.add_permits(1);
    seen.extend(events.all().await);
    let count = seen.len() as u64;
    ids_are(&seen, 0..count);
    let nodes: Vec<String> =
        seen.iter().map(|(_, name, said)| format!("{name} {}", said["node"].as_str().unwrap_or_default())).collect();
    let row = ["first", "second", "third"].map(|node| [format!("called {node}"), format!("done {node}")]).concat();
    assert_eq!(nodes[1..7], row);
    assert_eq!(nodes[7..9], ["output ", "ended "]);
    assert_eq!(seen[8].2["status"], "succeeded");
}

#[tokio::test]
async fn a_stream_that_was_cut_goes_on_behind_what_the_client_has() {
    let (_gateway, door, second) = row().await;
    let run = door.begin("row", &json!("x")).await;
    let mut events = door.events(&run).await;
    let mut seen = events.some(3).await;
    drop(events);
    let mut events = from(&door, &run, 2).await;
    seen.extend(events.some(1).await);
    // A part of it happens while nobody looks.
    drop(events);
    second.add_permits(1);
    door.ended(&run).await;
    seen.extend(from(&door, &run, 3).await.all().await);
    ids_are(&seen, 0..seen.len() as u64);
    let whole = door.events(&run).await.all().await;
    assert_eq!(seen, whole, "what was told in pieces is not what is told at once");
    for last in 0..whole.len() as u64 {
        assert_eq!(from(&door, &run, last).await.all().await[..], whole[last as usize + 1..], "behind {last}");
    }
    // As a query, for those who can set no header.
    let query = door.request(Method::GET, &format!("/runs/{run}/events?starting_after=1"));
    assert_eq!(Events::of(query).await.all().await[..], whole[2..]);
}

#[tokio::test]
async fn followers_of_a_run_see_it_all_whenever_they_come() {
    let (_gateway, door, second) = row().await;
    let run = door.begin("row", &json!("x")).await;
    let early = door.events(&run).await;
    door.events(&run).await.until("called", "second").await;
    let middle = door.events(&run).await;
    second.add_permits(1);
    let (early, middle) = tokio::join!(early.all(), middle.all());
    assert_eq!(early, middle);
    assert_eq!(early, door.events(&run).await.all().await);
}

#[tokio::test]
async fn a_call_is_answered_with_the_events_of_its_run_where_it_asks_for_them() {
    let (_gateway, door, second) = row().await;
    second.add_permits(1);
    let request = door.request(Method::POST, "/flows/row").header("accept", "text/event-stream").body("x");
    let events = Events::of(request).await;
    let run = events.headers["x-stageline-run"].to_str().unwrap().to_owned();
    assert_eq!(events.headers["cache-control"], "no-cache");
    let seen = events.all().await;
    ids_are(&seen, 0..seen.len() as u64);
    assert_eq!((&*seen.last().unwrap().1, &seen.last().unwrap().2["status"]), ("ended", &json!("succeeded")));
    assert_eq!(seen, door.events(&run).await.all().await);
}

#[tokio::test]
async fn a_run_that_is_retried_is_told_on_and_waited_for_to_its_new_end() {
    let (gateway, door, _second) = row().await;
    gateway.says("second", Said::status(400, "broken"));
    let ask = async || {
        let request = door.request(Method::POST, "/flows/row").header("idempotency-key", "k").body("x");
        Reply::of(request).await
    };
    let reply = ask().await;
    assert_eq!(reply.status, 422);
    let run = reply.run().to_owned();
    let before = door.events(&run).await.all().await;
    let second = gateway.holds("second");
    door.order(&run, "retry").await;
    gateway.called("second", 2).await;
    let again = door.events(&run);
    let mut again = again.await;
    let mut seen = again.some(before.len()).await;
    assert_eq!(seen, before);
    second.add_permits(1);
    seen.extend(again.all().await);
    ids_are(&seen, 0..seen.len() as u64);
    assert_eq!(seen.last().unwrap().2["status"], "succeeded", "{seen:?}");
    assert_eq!(ask().await.status, 200);
    assert_eq!(seen, door.events(&run).await.all().await);
}

#[tokio::test]
async fn what_is_no_place_is_refused() {
    let (_gateway, door, second) = row().await;
    second.add_permits(1);
    let run = door.post("/flows/row", "x").await.run().to_owned();
    for wrong in ["-1", "x", "1.5", "18446744073709551615", "99999999999999999999"] {
        let request = door.request(Method::GET, &format!("/runs/{run}/events")).header("last-event-id", wrong);
        assert_eq!(Reply::of(request).await.status, 400, "{wrong}");
    }
    // Behind the end there is nothing, and no waiting.
    assert_eq!(from(&door, &run, 1_000_000).await.all().await, []);
}
