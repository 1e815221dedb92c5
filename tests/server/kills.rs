//! Either end of every hop killed under load, again and again: answers are complete, and survivors are left with nothing.
//!
//! `STAGELINE_KILLS` says how often each hop's ends are killed, 3 by default: each stage once.

use crate::looking::found;
use crate::pipelines::{Cluster, PROMPT, Pipeline, STAGES, right_ids};
use crate::places::{Piece, Place, ids_of};
use crate::programs::Belongings;
use serde_json::json;

/// Answers under way at each kill.
const ANSWERS: usize = 3;
/// Tokens of each: some seconds.
const TOKENS: u32 = 2000;

fn kills() -> usize {
    std::env::var("STAGELINE_KILLS").map_or(STAGES, |text| text.parse().expect("STAGELINE_KILLS is a number"))
}

/// Asks, reads some tokens, says so, and gives all tokens; `None` if the door dies before the end.
async fn ask(door: Place, begun: tokio::sync::mpsc::Sender<()>) -> Option<Vec<u32>> {
    let mut stream = door.stream(&PROMPT, json!({"max_tokens": TOKENS})).await;
    let mut tokens = stream.tokens(5).await;
    begun.send(()).await.expect("who kills listens");
    loop {
        match stream.next().await {
            Some(Piece::Token(token)) => tokens.push(token),
            Some(Piece::Done(_)) => return Some(ids_of(&tokens)),
            None => return None,
            Some(Piece::Error(error)) => panic!("{error} after {} tokens", tokens.len()),
        }
    }
}

async fn kill_the_ends_of(hop: &'static str) {
    let mut cluster = Cluster::start(Pipeline::fake().with(&["--hop", hop])).await;
    whole_answer(&cluster).await;
    for turn in 0..kills() {
        let victim = [1, 2, 0][turn % STAGES];
        let survivors: Vec<usize> = (0..STAGES).filter(|stage| *stage != victim).collect();
        let before: Vec<Belongings> = survivors.iter().map(|stage| cluster.belongings(*stage)).collect();
        let (begun, mut beginnings) = tokio::sync::mpsc::channel(ANSWERS);
        let asked: Vec<_> = (0..ANSWERS).map(|_| ask(cluster.place(0), begun.clone())).collect();
        let killing = async {
            for _ in 0..ANSWERS {
                beginnings.recv().await.expect("an answer begins");
            }
            cluster.kill(victim).await;
            cluster.start_again(victim).await;
        };
        let (answers, ()) = tokio::join!(futures::future::join_all(asked), killing);
        for ids in answers {
            assert_eq!(ids.is_some(), victim != 0, "only a killed door breaks answers off, turn {turn}");
            assert!(ids.is_none_or(|ids| ids == right_ids(TOKENS)), "{hop}, turn {turn}");
        }
        whole_answer(&cluster).await;
        for (stage, before) in survivors.into_iter().zip(before) {
            let what = format!("stage {stage} to have no more than before stage {victim} was killed ({before:?})");
            let same = async || {
                let now = cluster.belongings(stage);
                let no_more = now.files <= before.files && now.threads <= before.threads;
                (no_more && now.shared == before.shared).then_some(())
            };
            found(&what, same).await;
        }
    }
    // Its own bell; a ring and a bell where it sends; a ring where it is sent to.
    let shared: Vec<usize> = (0..STAGES).map(|stage| cluster.belongings(stage).shared).collect();
    let want = if hop == "shm" { [3, 4, 2] } else { [1, 1, 1] };
    assert_eq!(shared, want, "{hop}");
}

/// An answer through all stages, after which nobody holds anything.
async fn whole_answer(cluster: &Cluster) {
    let answer = cluster.place(0).stream(&PROMPT, json!({"max_tokens": 50})).await.rest().await;
    assert_eq!(ids_of(&answer), right_ids(50));
    cluster.hold(&[0, 1, 2], 0).await;
}

#[tokio::test]
async fn either_end_of_a_nats_hop_may_be_killed() {
    kill_the_ends_of("nats").await;
}

#[tokio::test]
async fn either_end_of_a_grpc_hop_may_be_killed() {
    kill_the_ends_of("grpc").await;
}

#[tokio::test]
async fn either_end_of_a_shared_ring_may_be_killed() {
    kill_the_ends_of("shm").await;
}
