//! Several engines on one store: what their targets bear, and who goes on when one of them ends.

use crate::support::{Call, Door, Gateway, Said, Setup, file, memory};
use serde_json::{Value, json};
use stageline_store::Store;
use std::sync::Arc;
use tokio::sync::Semaphore;

const LIMITED: &str = "
targets:
  work: {concurrency: 3}
flows:
  one:
    nodes: {work: {timeout: 1h}}
";

const ROW: &str = "
flows:
  row:
    nodes:
      first: {}
      each: {after: [first], function: item, foreach: '{{ input }}', parallel: 2}
      last: {input: '{{ each }}'}
    finally:
      tidy: {}
";

async fn engine(text: &str, gateway: &Gateway, me: &'static str, store: &Arc<dyn Store>) -> Door {
    Door::open(Setup { me, store: Arc::clone(store), ..Setup::new(text, gateway) }).await
}

#[tokio::test]
async fn a_target_bears_as_many_calls_as_its_file_says_from_all_engines_together() {
    let gateway = Gateway::open().await;
    let go = gateway.holds("work");
    let store = memory();
    // Neither takes more than half of the runs.
    let half = |me| Setup { me, at_once: 15, store: Arc::clone(&store), ..Setup::new(LIMITED, &gateway) };
    let doors = [Door::open(half("one")).await, Door::open(half("other")).await];
    let mut runs = Vec::new();
    for run in 0..30 {
        runs.push(doors[run % 2].begin("one", &json!(run)).await);
    }
    gateway.called("work", 3).await;
    // One by one: whoever came without a place would stay beside the three.
    for ended in 1..=27 {
        go.add_permits(1);
        gateway.called("work", 3 + ended).await;
    }
    go.add_permits(3);
    for run in &runs {
        assert_eq!(doors[0].ended(run).await.status, 200);
    }
    assert_eq!((gateway.most_at_once("work"), gateway.calls("work").len()), (3, 30));
}

#[tokio::test]
async fn an_engine_that_owns_one_run_at_once_does_them_one_after_the_other() {
    let gateway = Gateway::open().await;
    let go = gateway.holds("slow");
    let text = "
flows:
  usual: {nodes: {slow: {}}}
  first: {priority: 1, nodes: {fast: {}}}
";
    gateway.says("fast", Said::text("fast"));
    let door = Door::open(Setup { at_once: 1, ..Setup::new(text, &gateway) }).await;
    let runs = [door.begin("usual", &json!("a")).await, door.begin("usual", &json!("b")).await];
    gateway.called("slow", 1).await;
    // What goes first waits for none of them.
    assert_eq!(door.post("/flows/first", "c").await.text(), "fast");
    go.add_permits(2);
    for run in &runs {
        assert_eq!(door.ended(run).await.status, 200);
    }
    assert_eq!(gateway.log(), ["+slow", "+fast", "-fast", "-slow", "+slow", "-slow"]);
}

#[tokio::test]
async fn an_engine_that_comes_while_another_calls_takes_no_place_that_is_taken() {
    let gateway = Gateway::open().await;
    let go = gateway.holds("work");
    let store = memory();
    let one = engine(LIMITED, &gateway, "one", &store).await;
    let mut runs = Vec::new();
    for run in 0..6 {
        runs.push(one.begin("one", &json!(run)).await);
    }
    gateway.called("work", 3).await;
    let other = engine(LIMITED, &gateway, "other", &store).await;
    for run in 6..12 {
        runs.push(other.begin("one", &json!(run)).await);
    }
    // One by one: each call that comes has had one end before it.
    for ended in 1..=9 {
        go.add_permits(1);
        gateway.called("work", 3 + ended).await;
        assert_eq!(gateway.most_at_once("work"), 3, "after {ended}");
    }
    go.add_permits(3);
    for run in &runs {
        assert_eq!(other.ended(run).await.status, 200);
    }
    assert_eq!((gateway.most_at_once("work"), gateway.calls("work").len()), (3, 12));
}

#[tokio::test]
async fn a_run_whose_engine_was_killed_is_gone_on_with_and_nothing_that_was_done_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    for store in [memory(), file(folder.path())] {
        is_gone_on_with(store).await;
    }
}

async fn is_gone_on_with(store: Arc<dyn Store>) {
    let gateway = Gateway::open().await;
    let go = Arc::new(Semaphore::new(0));
    gateway.says("first", Said::text("first")).says("tidy", Said::status(200, ""));
    let held = Arc::clone(&go);
    gateway.function("item", move |call: Call| {
        let held = Arc::clone(&held);
        async move {
            // The third and the fourth hang.
            if call.json().as_i64().unwrap() >= 2 {
                held.acquire().await.unwrap().forget();
            }
            Said::json(&call.json())
        }
    });
    gateway.function("last", |call| async move { Said::json(&call.json()) });
    let mut one = engine(ROW, &gateway, "one", &store).await;
    let run = one.begin("row", &json!([0, 1, 2, 3, 4])).await;
    gateway.called("item", 4).await;
    let mut events = one.events(&run).await;
    let mut done = 0;
    while done < 3 {
        // What is not in its log was not done.
        done += usize::from(events.next().await.unwrap().1 == "done");
    }
    one.kill_engine().await;
    let other = engine(ROW, &gateway, "other", &store).await;
    gateway.called("item", 6).await;
    go.add_permits(5);
    let reply = other.ended(&run).await;
    assert_eq!((reply.status, reply.json()), (200, json!([0, 1, 2, 3, 4])));
    let count = |name: &str| gateway.calls(name).len();
    assert_eq!((count("first"), count("item"), count("last"), count("tidy")), (1, 7, 1, 1));
    let mut made: Vec<(Value, String, String)> = gateway
        .calls("item")
        .iter()
        .map(|call| (call.json(), call.header("x-call-id").to_owned(), call.header("x-stageline-attempt").to_owned()))
        .collect();
    made.sort_by_key(|(item, ..)| item.as_i64());
    let items: Vec<i64> = made.iter().map(|(item, ..)| item.as_i64().unwrap()).collect();
    assert_eq!(items, [0, 1, 2, 2, 3, 3, 4]);
    // The end of an engine is no attempt, and whoever is called twice can see it.
    assert!(made[2] == made[3] && made[4] == made[5], "{made:?}");
    assert_eq!(one.ended(&run).await.json(), json!([0, 1, 2, 3, 4]), "the other's door");
}

#[tokio::test]
async fn orders_are_taken_at_any_door_and_heard_by_whoever_owns_the_run() {
    let gateway = Gateway::open().await;
    gateway.says("first", Said::text("first")).says("tidy", Said::status(200, ""));
    let _held = gateway.holds("item");
    let store = memory();
    let one = engine(ROW, &gateway, "one", &store).await;
    let run = one.begin("row", &json!([0, 1, 2])).await;
    gateway.called("item", 2).await;
    let other = engine(ROW, &gateway, "other", &store).await;
    other.order(&run, "cancel").await;
    assert_eq!(one.ended(&run).await.status, 499);
    gateway.logged("!item").await;
    assert_eq!(gateway.names(), ["first", "item", "item", "tidy"]);
}

#[tokio::test]
async fn a_run_goes_by_the_file_that_it_began_with() {
    let gateway = Gateway::open().await;
    let go = gateway.holds("slow");
    gateway.appends("old", " old").appends("new", " new");
    let text =
        |last: &str| format!("{{flows: {{one: {{nodes: {{slow: {{}}, {last}: {{input: '{{{{ slow }}}}'}}}}}}}}}}");
    let store = memory();
    let mut one = engine(&text("old"), &gateway, "one", &store).await;
    let begun = one.begin("one", &json!("x")).await;
    gateway.called("slow", 1).await;
    one.kill_engine().await;
    let other = engine(&text("new"), &gateway, "other", &store).await;
    gateway.called("slow", 2).await;
    let later = other.begin("one", &json!("y")).await;
    go.add_permits(3);
    let ends = (other.ended(&begun).await, other.ended(&later).await);
    assert_eq!((ends.0.text(), ends.1.text()), ("slow let go old", "slow let go new"));
}
