//! A pipeline of processes one of whose devices fails, as the emulated driver is asked to: a batch, and then the device.

use crate::pipelines::Cluster;
use crate::places::ids_of;
use crate::processes::{SOME, TOKENS, pipeline, plain_case};
use serde_json::json;

/// The third recorded step is refused (701: too many resources requested), of which a driver recovers. The tenth download, of
/// which two are the warm-up's, is told that a kernel has read where nothing is (700), and so is all that comes after it.
const FAILURES: &str = "cuGraphLaunch:3:701,cuMemcpyDtoHAsync_v2:10:700";
/// The tenth download never ends, and no other call does from there on.
const HANG: &str = "cuMemcpyDtoHAsync_v2:10:-2";
/// Status of a process that says so: EX_UNAVAILABLE of sysexits.h.
const HUNG: i32 = 69;

#[tokio::test]
async fn a_batch_that_fails_is_run_again_and_a_device_that_is_lost_ends_its_process() {
    let (prompt, want) = plain_case();
    let mut cluster = Cluster::start(pipeline()).await;
    cluster.kill(1).await;
    cluster.start_again_in(&[("EMU_FAIL", FAILURES)], 1).await;
    let door = cluster.place(0);
    let mut stream = door.stream(&prompt, json!({"max_tokens": TOKENS})).await;
    let mut tokens = stream.tokens(SOME).await;
    let said =
        |words: &'static str| move |lines: &[String]| lines.iter().any(|line| line.contains(words)).then_some(());
    cluster.process(1).logged("a batch to fail", said("a microbatch failed")).await;
    cluster.process(1).logged("the device to be lost", said("this process must be started again")).await;
    assert!(!cluster.process(1).exit().await.success(), "a process without its device says that all is well");

    cluster.start_again(1).await;
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), want[..TOKENS]);
    cluster.hold(&[0, 1, 2], 0).await;
}

#[tokio::test]
async fn a_device_that_hangs_ends_its_process() {
    let (prompt, want) = plain_case();
    let mut cluster = Cluster::start(pipeline()).await;
    cluster.kill(1).await;
    cluster.start_again_in(&[("EMU_FAIL", HANG), ("STAGELINE_DEVICE_TIMEOUT", "5s")], 1).await;
    let mut stream = cluster.place(0).stream(&prompt, json!({"max_tokens": TOKENS})).await;
    let mut tokens = stream.tokens(SOME).await;
    assert_eq!(cluster.process(1).exit().await.code(), Some(HUNG), "of a process whose device hangs");
    cluster.start_again(1).await;
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), want[..TOKENS]);
    cluster.hold(&[0, 1, 2], 0).await;
}
