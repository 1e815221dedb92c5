//! Several replicas of a stage, the door's included.

use crate::pipelines::{Cluster, ENDLESS, LONG, PROMPT, Pipeline, right_ids};
use crate::places::ids_of;
use crate::real_models::ids;
use serde_json::{Value, json};

#[tokio::test]
async fn each_of_two_doors_answers_through_its_own_stage_and_one_may_be_replaced() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    let (_program, newer) = cluster.another(0, &[]).await;
    let older = cluster.place(0);
    for door in [&older, &newer, &older] {
        let answer = door.stream(&PROMPT, json!({"max_tokens": 20})).await.rest().await;
        assert_eq!(ids_of(&answer), right_ids(20));
    }
    // One of the older door's lasts through its end, whatever else is asked of both.
    let mut lasting = older.stream(&PROMPT, json!({"max_tokens": LONG})).await;
    let mut tokens = lasting.tokens(3).await;
    cluster.process(0).terminate();
    for _ in 0..20 {
        let answer: Value = newer.send(&json!({"tokens": PROMPT, "max_tokens": 5})).await.json().await.expect("JSON");
        assert_eq!(ids(&answer["token_ids"]), right_ids(5), "{answer}");
    }
    tokens.extend(lasting.rest().await);
    assert_eq!(ids_of(&tokens), right_ids(LONG));
    assert_eq!(cluster.process(0).exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_replicas_of_a_stage_share_what_there_is_and_a_dead_one_is_passed_by_before_its_lease_is_over() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    let (mut standby, twin) = cluster.another(1, &[]).await;
    let door = cluster.place(0);
    // Until then it has no choice.
    let there = |lines: &[String]| lines.iter().filter(|line| line.contains("a replica is there")).count() == 4;
    cluster.process(0).logged("the door to see all replicas", |lines| there(lines).then_some(())).await;
    let mut first = door.stream(&PROMPT, json!({"max_tokens": ENDLESS})).await;
    let mut second = door.stream(&PROMPT, json!({"max_tokens": LONG})).await;
    let mut tokens = second.tokens(3).await;
    first.tokens(3).await;
    cluster.hold(&[1], 1).await;
    twin.holds(1).await;
    standby.kill().await;
    // Both go on through the other one.
    cluster.hold(&[1], 2).await;
    tokens.extend(second.tokens(50).await);
    let gone = |lines: &[String]| lines.iter().any(|line| line.contains("a replica is gone"));
    assert!(!cluster.log(0, gone), "the dead replica's lease was waited for");
    drop(first);
    tokens.extend(second.rest().await);
    assert_eq!(ids_of(&tokens), right_ids(LONG));
    cluster.hold(&[0, 1, 2], 0).await;
}
