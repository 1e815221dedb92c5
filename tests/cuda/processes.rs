//! Stages on the device as processes of their own, joined by a real broker: they are killed, clients go away.

use crate::pipelines::{Cluster, Pipeline};
use crate::places::ids_of;
use crate::real_models::{SMOLLM2, golden_cases, ids};
use serde_json::json;

/// Tokens of an answer, and how many of them have come when something happens.
pub const TOKENS: usize = 12;
pub const SOME: usize = 4;
/// The golden case that is asked, and how much of its answer the prompt has already: from there on the reference's best token
/// is always better than the next by more than 16 bits round (`margins`), so the engine's answer is the same.
const PLAIN: usize = 2;
const KNOWN: usize = 33;
/// Tokens that nobody waits for.
const MANY: usize = 200;

/// SmolLM2 over three stages on the device. An emulated one takes seconds a token on a slow machine: a door that is told to stop has the
/// time that the rest of an answer takes.
pub fn pipeline() -> Pipeline {
    Pipeline::real().with(&["--device", "cuda:0", "--drain-timeout", "10m"])
}

/// A prompt, and the reference's answer, which is the engine's too.
pub fn plain_case() -> (Vec<u32>, Vec<u32>) {
    let case = golden_cases(SMOLLM2).remove(PLAIN);
    let (mut prompt, mut known) = (ids(&case["input_ids"]), ids(&case["greedy_ids"]));
    let want = known.split_off(KNOWN);
    prompt.append(&mut known);
    (prompt, want)
}

#[tokio::test]
async fn an_answer_goes_on_when_a_stage_on_the_engine_is_killed_and_comes_back() {
    let (prompt, want) = plain_case();
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
}

#[tokio::test]
async fn clients_and_doors_that_go_away_leave_nothing_on_the_engine() {
    let (prompt, want) = plain_case();
    let mut cluster = Cluster::start(pipeline().with(&["--hop", "grpc"])).await;
    let mut leaving = cluster.place(0).stream(&prompt, json!({"max_tokens": MANY})).await;
    let mut staying = cluster.place(0).stream(&prompt, json!({"max_tokens": MANY})).await;
    leaving.tokens(SOME).await;
    staying.tokens(SOME).await;
    cluster.hold(&[0, 1, 2], 2).await;
    drop(leaving);
    cluster.hold(&[0, 1, 2], 1).await;

    cluster.kill(0).await;
    while staying.next().await.is_some() {}
    cluster.hold(&[1, 2], 0).await;
    cluster.start_again(0).await;
    let answer = cluster.place(0).stream(&prompt, json!({"max_tokens": TOKENS})).await.rest().await;
    assert_eq!(ids_of(&answer), want[..TOKENS]);
    cluster.hold(&[0, 1, 2], 0).await;

    // Told to stop, a door lets what it answers come to its end; and no process's device keeps it from its own.
    let mut stream = cluster.place(0).stream(&prompt, json!({"max_tokens": TOKENS})).await;
    let mut tokens = stream.tokens(SOME).await;
    cluster.process(0).terminate();
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), want[..TOKENS]);
    for stage in 1..3 {
        cluster.process(stage).terminate();
    }
    for stage in 0..3 {
        assert!(cluster.process(stage).exit().await.success(), "stage {stage}");
    }
}

#[tokio::test]
async fn an_answer_ends_with_the_stages_name_when_its_device_does_not_come_back() {
    let (prompt, _) = plain_case();
    let mut cluster = Cluster::start(pipeline().with(&["--hop", "shm"])).await;
    let fields = json!({"max_tokens": MANY, "deadline_ms": 15_000});
    let mut stream = cluster.place(0).stream(&prompt, fields).await;
    stream.tokens(SOME).await;
    cluster.kill(1).await;
    let error = stream.error().await;
    assert_eq!(error["error"]["stage"], 1, "{error}");
    cluster.hold(&[0, 2], 0).await;
}
