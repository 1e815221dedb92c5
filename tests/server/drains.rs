//! Processes that are told to end, whatever they hold.

use crate::looking::found;
use crate::pipelines::{Cluster, ENDLESS, LONG, PROMPT, Pipeline, right_ids};
use crate::places::ids_of;
use crate::real_models::ids;
use serde_json::{Value, json};

/// A drain that does not wait for what would not end.
fn short() -> Pipeline {
    Pipeline::fake().with(&["--healthcheck-interval", "100ms", "--drain-timeout", "500ms"])
}

#[tokio::test]
async fn a_door_ends_what_is_left_and_says_so() {
    let mut cluster = Cluster::start(short()).await;
    let door = cluster.place(0);
    let mut stream = door.stream(&PROMPT, json!({"max_tokens": ENDLESS})).await;
    stream.tokens(3).await;
    let whole = tokio::spawn(async move { door.send(&json!({"tokens": PROMPT, "max_tokens": ENDLESS})).await });
    cluster.hold(&[0], 2).await;
    cluster.process(0).terminate();
    let error = stream.error().await;
    assert_eq!(error["error"]["class"], "unavailable", "{error}");
    let whole = whole.await.expect("the other client");
    assert_eq!(whole.status(), 503);
    assert!(whole.headers().contains_key("retry-after"));
    assert_eq!(cluster.process(0).exit().await.code(), Some(0));
    cluster.hold(&[1, 2], 0).await;
}

#[tokio::test]
async fn an_only_replica_gives_back_what_it_holds_and_ends() {
    let mut cluster = Cluster::start(short()).await;
    let door = cluster.place(0);
    let mut stream = door.stream(&PROMPT, json!({"max_tokens": LONG})).await;
    let mut tokens = stream.tokens(3).await;
    cluster.process(1).terminate();
    assert_eq!(cluster.process(1).exit().await.code(), Some(0));
    // Who comes meanwhile waits for the next one.
    let waiting = {
        let door = door.clone();
        tokio::spawn(async move { door.send(&json!({"tokens": PROMPT, "max_tokens": 5})).await })
    };
    found("the request to wait", async || door.metric("requests_waiting", "").await.filter(|waiting| *waiting >= 1.0))
        .await;
    cluster.start_again(1).await;
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), right_ids(LONG));
    let answer: Value = waiting.await.expect("the other client").json().await.expect("JSON");
    assert_eq!(ids(&answer["token_ids"]), right_ids(5), "{answer}");
    cluster.hold(&[0, 1, 2], 0).await;
}

#[tokio::test]
async fn every_stage_ends_without_its_broker() {
    let mut cluster = Cluster::start(short()).await;
    let mut stream = cluster.place(0).stream(&PROMPT, json!({"max_tokens": ENDLESS})).await;
    stream.tokens(3).await;
    cluster.broker.kill();
    for stage in 0..3 {
        cluster.process(stage).terminate();
    }
    for stage in 0..3 {
        assert_eq!(cluster.process(stage).exit().await.code(), Some(0), "stage {stage}");
    }
}

#[tokio::test]
async fn a_missing_stage_is_named_when_the_time_for_it_is_over() {
    let mut cluster = Cluster::start(Pipeline::fake().with(&["--stage-timeout", "300ms"])).await;
    let door = cluster.place(0);
    cluster.kill(2).await;
    // Whether its lease is over yet or not.
    let answer = door.send(&json!({"tokens": PROMPT, "max_tokens": 5})).await;
    assert_eq!(answer.status(), 503);
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(body["error"]["stage"], 2, "{body}");
    cluster.hold(&[0, 1], 0).await;
}
