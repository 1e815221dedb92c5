//! Functions that feed each other: the seed's own files, and a join of many that end at once.

use crate::patience::soon;
use crate::support::{Call, Door, Gateway, Reply, Said, Setup, file};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{Barrier, Semaphore};

/// What was asked for, byte for byte, and the sample of a workflow as steps.
const STACK: &str = include_str!("../flow/files/stack.yml");
const WORKFLOW: &str = include_str!("../flow/files/async-workflow.yml");

#[tokio::test]
async fn functions_with_hooks_are_called_in_order_each_with_what_the_one_before_gave() {
    let gateway = Gateway::open().await;
    gateway.appends("worker-1", " one").appends("worker-2", " two").appends("worker-3", " three");
    gateway.says("/told", Said::status(200, ""));
    let folder = tempfile::tempdir().unwrap();
    let door = Door::open(Setup { store: file(folder.path()), ..Setup::new(STACK, &gateway) }).await;
    let asked = door.request(Method::POST, "/async-function/worker-1").body("hello");
    let asked = asked.header("x-call-id", "call-7").header("x-callback-url", format!("{}/told", gateway.url()));
    let reply = Reply::of(asked.header("content-type", "text/plain")).await;
    assert_eq!((reply.status, reply.header("x-call-id")), (202, Some("call-7")));
    let run = reply.run().to_owned();
    assert_eq!(reply.header("location"), Some(&*format!("/runs/{run}")));
    door.settled(&run).await;
    assert_eq!(gateway.names(), ["worker-1", "worker-2", "worker-3", "/told"]);
    let texts: Vec<String> = gateway.names().iter().map(|name| gateway.calls(name)[0].text().to_owned()).collect();
    assert_eq!(texts, ["hello", "hello one", "hello one two", "hello one two three"]);
    let told = &gateway.calls("/told")[0];
    assert_eq!((told.header("x-call-id"), told.header("x-function-status")), ("call-7", "200"));
    assert_eq!((told.header("x-function-name"), told.header("x-stageline-run")), ("worker-1", &*run));
    assert_eq!(told.header("content-type"), "text/plain");
    let kept = door.get(&format!("/runs/{run}")).await;
    assert_eq!((kept.status, kept.text()), (200, "hello one two three"));
}

#[tokio::test]
async fn whoever_waits_gets_what_the_last_function_gave_and_its_calls_are_named_by_the_run() {
    let gateway = Gateway::open().await;
    gateway.appends("worker-1", " one").appends("worker-2", " two").appends("worker-3", " three");
    let door = Door::of(STACK, &gateway).await;
    for path in ["/function/worker-1", "/flows/worker-1"] {
        let reply = door.post(path, "hello").await;
        assert_eq!((reply.status, reply.text()), (200, "hello one two three"), "{reply:?}");
        assert_eq!(reply.header("content-type"), Some("text/plain"));
        let call = gateway.calls("worker-2").pop().unwrap();
        assert_eq!(call.header("x-call-id"), format!("{}.worker-2", reply.run()));
        assert_eq!(call.header("x-call-id"), call.header("idempotency-key"));
        assert_eq!(call.method, "POST");
    }
}

#[tokio::test]
async fn steps_that_nobody_waits_for_overlap_and_the_run_ends_after_all() {
    let gateway = Gateway::open().await;
    let (both, go) = (Arc::new(Barrier::new(2)), Arc::new(Semaphore::new(0)));
    for name in ["worker-2", "worker-3"] {
        let (both, go) = (Arc::clone(&both), Arc::clone(&go));
        gateway.function(name, move |call: Call| {
            let (both, go) = (Arc::clone(&both), Arc::clone(&go));
            async move {
                // Neither gets on without the other, nor before the test has seen the last of the others called.
                both.wait().await;
                go.acquire().await.unwrap().forget();
                Said::text(format!("{} completed", call.name))
            }
        });
    }
    gateway.says("worker-1", Said::text("worker-1 completed")).says("worker-4", Said::text("worker-4 completed"));
    gateway.says("worker-5", Said::status(200, ""));
    let door = Door::of(WORKFLOW, &gateway).await;
    let asked = door.request(Method::POST, "/flows/async-workflow").json(&json!({ "ignored": true }));
    let answer = tokio::spawn(Reply::of(asked));
    gateway.logged("-worker-5").await;
    let order = |first: &str, then: &str| assert!(gateway.place(first) < gateway.place(then), "{:?}", gateway.log());
    for name in ["+worker-2", "+worker-3", "+worker-4"] {
        order("-worker-1", name);
    }
    order("-worker-4", "+worker-5");
    assert!(!gateway.log().iter().any(|line| ["-worker-2", "-worker-3"].contains(&&**line)));
    assert!(!answer.is_finished(), "the run did not wait for all");
    go.add_permits(2);
    let reply = soon("the answer", answer).await.unwrap();
    let whole = json!({ "worker-2": "worker-2 completed", "worker-3": "worker-3 completed", "worker-5": null });
    assert_eq!((reply.status, reply.json()), (200, whole));
    let bodies = |name: &str| gateway.calls(name).into_iter().map(|call| call.body).collect::<Vec<_>>();
    assert_eq!(gateway.calls("worker-1")[0].json(), json!({ "message": "Hello, world!" }));
    for name in ["worker-2", "worker-3", "worker-4", "worker-5"] {
        assert_eq!(bodies(name), [""], "{name}");
    }
}

#[tokio::test]
async fn a_join_of_many_that_end_at_once_is_called_once_with_all_of_them() {
    const PARENTS: usize = 60;
    const RUNS: usize = 50;
    let mut text = "functions:\n  entry: {}\n  join: {}\n".to_owned();
    (0..PARENTS).for_each(|parent| text += &format!("  p{parent}: {{}}\n"));
    text += "async_hooks:\n";
    for parent in 0..PARENTS {
        text +=
            &format!("  - {{source: entry, destination: p{parent}}}\n  - {{source: p{parent}, destination: join}}\n");
    }
    let gateway = Gateway::open().await;
    gateway.function("entry", |call| async move { Said::text(call.text()) });
    gateway.function("join", |call| async move { Said::json(&call.json()) });
    let all = Arc::new(Barrier::new(PARENTS));
    for parent in 0..PARENTS {
        let all = Arc::clone(&all);
        gateway.function(&format!("p{parent}"), move |call: Call| {
            let all = Arc::clone(&all);
            async move {
                all.wait().await;
                Said::text(format!("{} of {}", call.text(), call.name))
            }
        });
    }
    let door = Door::of(text, &gateway).await;
    for run in 0..RUNS {
        let reply = door.post("/flows/entry", format!("run {run}")).await;
        let whole = (0..PARENTS).map(|parent| (format!("p{parent}"), json!(format!("run {run} of p{parent}"))));
        assert_eq!((reply.status, reply.json()), (200, Value::Object(whole.collect())));
        assert_eq!(gateway.calls("join").len(), run + 1, "a join was called more than once");
    }
    assert_eq!(gateway.names().len(), RUNS * (PARENTS + 2));
}
