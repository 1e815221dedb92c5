//! Stages on the device as processes of their own, joined by a real broker: one is killed, a client goes away.

use crate::pipelines::{Cluster, Pipeline};
use crate::places::ids_of;
use crate::real_models::{SMOLLM2, golden_cases, ids};
use serde_json::json;

/// Tokens of an answer, and how many of them have come when something happens.
const TOKENS: usize = 24;
const SOME: usize = 4;
/// The case that the engine answers as the reference does.
const PLAIN: usize = 2;

fn pipeline() -> Pipeline {
    Pipeline::real().with(&["--device", "cuda:0"])
}

#[tokio::test]
async fn an_answer_goes_on_when_a_stage_on_the_engine_is_killed_and_comes_back() {
    let case = golden_cases(SMOLLM2).remove(PLAIN);
    let (prompt, want) = (ids(&case["input_ids"]), ids(&case["greedy_ids"]));
    let mut cluster = Cluster::start(pipeline()).await;
    let door = cluster.place(0);
    let mut stream = door.stream(&prompt, json!({"max_tokens": TOKENS})).await;
    let mut tokens = stream.tokens(SOME).await;
    cluster.kill(1).await;
    cluster.start_again(1).await;
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), want[..TOKENS]);
    assert!(door.metric("replays_total", "").await >= Some(1.0), "it was not killed in the middle");
    cluster.hold(&[0, 1, 2], 0).await;

    // A client that goes away leaves nothing behind on any stage.
    let mut stream = door.stream(&prompt, json!({"max_tokens": 100})).await;
    stream.tokens(SOME).await;
    drop(stream);
    cluster.hold(&[0, 1, 2], 0).await;
}
