//! A broker that is away.

use crate::looking::found;
use crate::pipelines::{Cluster, ENDLESS, LONG, PROMPT, Pipeline, right_ids};
use crate::places::ids_of;
use serde_json::{Value, json};

/// A broker is away for longer than clients are to wait for it: who is under way and who comes are told that, and not that they
/// have asked for too much.
async fn is_named(hop: &'static str, take_away: impl FnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(Pipeline::fake().with(&["--stage-timeout", "300ms", "--hop", hop])).await;
    let door = cluster.place(0);
    let mut stream = door.stream(&PROMPT, json!({"max_tokens": ENDLESS})).await;
    stream.tokens(3).await;
    take_away(&mut cluster);
    let error = stream.error().await;
    let answer = door.send(&json!({"tokens": PROMPT, "max_tokens": 5})).await;
    assert_eq!(answer.status(), 503);
    let body: Value = answer.json().await.expect("JSON");
    let place = cluster.broker.url().replace("nats://", "");
    for told in [error, body] {
        let message = told["error"]["message"].as_str().expect("words");
        assert!(message.contains("broker") && message.contains(&place), "{told}");
        assert_eq!(told["error"]["stage"], Value::Null, "{told}");
        assert!(told["error"]["retry_after"].as_u64().is_some_and(|seconds| seconds > 0), "{told}");
    }
    assert_eq!(door.get("/_/ready").await.map(|(status, _)| status), Some(503));
}

#[tokio::test]
async fn a_broker_that_is_gone_is_named() {
    is_named("nats", |cluster| cluster.broker.kill()).await;
}

#[tokio::test]
async fn it_is_named_also_where_rows_do_not_need_it() {
    is_named("grpc", |cluster| cluster.broker.kill()).await;
}

#[tokio::test]
async fn a_broker_that_answers_nobody_is_named() {
    is_named("nats", |cluster| cluster.broker.stop()).await;
}

#[tokio::test]
async fn answers_go_on_when_it_is_back_after_the_leases_are_over() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    let door = cluster.place(0);
    let mut stream = door.stream(&PROMPT, json!({"max_tokens": LONG})).await;
    let mut tokens = stream.tokens(3).await;
    cluster.broker.kill();
    // The door has noticed, and says so once, however often its lease is not renewed after that: what it has is opened again when
    // the lease is.
    const MISSED: &str = "has not been renewed in time";
    let missed = |log: &[String]| {
        log.iter()
            .position(|line| line.contains(MISSED))
            .map_or(0, |at| log[at..].iter().filter(|line| line.contains("the lease is not renewed")).count())
    };
    found("the door to miss its lease twice", async || cluster.log(0, |log| missed(log) >= 2).then_some(())).await;
    assert!(cluster.log(0, |log| log.iter().filter(|line| line.contains(MISSED)).count() == 1));
    cluster.broker.start_again().await;
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), right_ids(LONG));
    cluster.hold(&[0, 1, 2], 0).await;
}
