//! A process a stage, each with another way to the next.

use crate::pipelines::{Cluster, PROMPT, Pipeline, right_ids};
use crate::places::ids_of;
use crate::real_models::{SMOLLM2, golden_cases, ids};
use serde_json::json;

/// What stages 0 and 1 send by. Each way comes after each other one.
const WAYS: [[&str; 2]; 6] =
    [["nats", "grpc"], ["nats", "shm"], ["grpc", "nats"], ["grpc", "shm"], ["shm", "nats"], ["shm", "grpc"]];

/// Starts all stages anew, to send by `ways`, and looks whether they do.
async fn switch(cluster: &mut Cluster, ways: [&str; 2]) {
    for (stage, hop) in ways.into_iter().chain(["nats"]).enumerate() {
        cluster.kill(stage).await;
        // One that sends by NATS is joined only where it says.
        let environment = [("STAGELINE_HOP", hop), ("STAGELINE_HOP_LISTEN", "127.0.0.1:0")];
        cluster.start_again_in(&environment, stage).await;
    }
    for (stage, hop) in ways.into_iter().enumerate() {
        let labels = format!("stage=\"{stage}\",hop=\"{hop}\"");
        assert_eq!(cluster.place(stage).metric("stage_hop_info", &labels).await, Some(1.0), "{ways:?}");
    }
}

#[tokio::test]
async fn hops_of_every_kind_follow_each_other() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    for ways in WAYS {
        switch(&mut cluster, ways).await;
        let answer = cluster.place(0).stream(&PROMPT, json!({"max_tokens": 500})).await.rest().await;
        assert_eq!(ids_of(&answer), right_ids(500), "{ways:?}");
        cluster.hold(&[0, 1, 2], 0).await;
    }
}

#[tokio::test]
async fn a_real_models_answer_is_the_references_over_two_kinds_of_hops() {
    let case = golden_cases(SMOLLM2).remove(1);
    let (prompt, want) = (ids(&case["input_ids"]), ids(&case["greedy_ids"]));
    let mut cluster = Cluster::start(Pipeline::real()).await;
    let fields = json!({"max_tokens": want.len(), "top_logits": 1});
    let over_nats = cluster.place(0).stream(&prompt, fields.clone()).await.rest().await;
    assert_eq!(ids_of(&over_nats), want);
    switch(&mut cluster, ["shm", "grpc"]).await;
    // Ids, text, and the bits of the logits.
    assert_eq!(cluster.place(0).stream(&prompt, fields).await.rest().await, over_nats);
    cluster.hold(&[0, 1, 2], 0).await;
}
