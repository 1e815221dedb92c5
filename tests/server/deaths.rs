//! Processes that are killed while an answer streams.

use crate::pipelines::{Cluster, ENDLESS, LONG, PROMPT, Pipeline, right_ids};
use crate::places::ids_of;
use crate::real_models::{SMOLLM2, golden_cases, ids};
use serde_json::{Value, json};

#[tokio::test]
async fn an_answer_goes_on_when_a_stage_is_killed_and_comes_back() {
    let case = golden_cases(SMOLLM2).remove(1);
    let (prompt, want) = (ids(&case["input_ids"]), ids(&case["greedy_ids"]));
    let mut cluster = Cluster::start(Pipeline::real()).await;
    let door = cluster.place(0);
    let fields = json!({"max_tokens": want.len(), "top_logits": 1});
    let undisturbed = door.stream(&prompt, fields.clone()).await.rest().await;
    assert_eq!(ids_of(&undisturbed), want);
    assert_eq!(door.metric("replays_total", "").await, Some(0.0));

    let mut stream = door.stream(&prompt, fields).await;
    let mut tokens = stream.tokens(5).await;
    cluster.kill(1).await;
    cluster.start_again(1).await;
    tokens.extend(stream.rest().await);
    // Ids, text, and the bits of the logits.
    assert_eq!(tokens, undisturbed);
    assert!(door.metric("replays_total", "").await >= Some(1.0), "it was not killed in the middle");
    cluster.hold(&[0, 1, 2], 0).await;
}

#[tokio::test]
async fn requests_end_with_the_stages_name_when_it_does_not_come_back() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    let door = cluster.place(0);
    let fields = json!({"max_tokens": ENDLESS, "deadline_ms": 6000});
    let mut stream = door.stream(&PROMPT, fields).await;
    let whole = {
        let door = door.clone();
        let body = json!({"tokens": PROMPT, "max_tokens": ENDLESS, "deadline_ms": 6000});
        tokio::spawn(async move {
            let answer = door.send(&body).await;
            (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
        })
    };
    cluster.hold(&[0, 1, 2], 2).await;
    cluster.kill(1).await;

    let error = stream.error().await;
    let (status, body) = whole.await.expect("the other client");
    assert!(status == 503 || status == 504, "{status}: {body}");
    for error in [&error["error"], &body["error"]] {
        assert_eq!(error["stage"], 1, "{error}");
        assert!(error["message"].as_str().is_some_and(|words| words.contains("stage 1")), "{error}");
    }
    cluster.hold(&[0, 2], 0).await;
}

#[tokio::test]
async fn a_killed_doors_sequences_are_freed_and_a_new_door_serves() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    let mut stream = cluster.place(0).stream(&PROMPT, json!({"max_tokens": ENDLESS})).await;
    stream.tokens(5).await;
    cluster.hold(&[1, 2], 1).await;
    cluster.kill(0).await;
    while stream.next().await.is_some() {}
    cluster.hold(&[1, 2], 0).await;

    cluster.start_again(0).await;
    let answer = cluster.place(0).stream(&PROMPT, json!({"max_tokens": 50})).await.rest().await;
    assert_eq!(ids_of(&answer), right_ids(50));
    cluster.hold(&[0, 1, 2], 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_on_any_stage() {
    let cluster = Cluster::start(Pipeline::fake()).await;
    let door = cluster.place(0);
    let fields = json!({"max_tokens": ENDLESS});
    let mut stream = door.stream(&PROMPT, fields.clone()).await;
    stream.tokens(5).await;
    let waiting = {
        let door = door.clone();
        tokio::spawn(async move { door.send(&json!({"tokens": PROMPT, "max_tokens": ENDLESS})).await })
    };
    cluster.hold(&[0, 1, 2], 2).await;
    drop(stream);
    cluster.hold(&[0, 1, 2], 1).await;
    waiting.abort();
    cluster.hold(&[0, 1, 2], 0).await;
    assert_eq!(door.metric("requests_total", "outcome=\"cancelled\"").await, Some(2.0));

    let answer = door.stream(&PROMPT, json!({"max_tokens": LONG / 4})).await.rest().await;
    assert_eq!(ids_of(&answer), right_ids(LONG / 4));
    cluster.hold(&[0, 1, 2], 0).await;
}
