//! `stageline up`: told to stop while answers stream, and its stages killed under it.

use crate::looking::found;
use crate::nats::NatsServer;
use crate::pipelines::{LONG, PROMPT, Pipeline, STAGES, right_ids};
use crate::places::{Place, ids_of};
use crate::programs::{Program, kill, runs};
use crate::real_models::{SMOLLM2, golden_cases, ids, model_dir};
use serde_json::{Value, json};

/// Requests that wait while one is answered.
const WAITING: u32 = 40;

/// Waits until the stage says that it is not ready, and asserts that it still holds a sequence.
async fn not_ready_but_at_work(door: &Place) {
    let not_ready = async || door.get("/_/ready").await.filter(|(status, _)| *status == 503);
    let (_, body) = found("readiness to end", not_ready).await;
    assert!(body.contains("shutting down"), "{body}");
    let (live, _) = door.held().await.expect("metrics");
    assert!(live > 0, "the answer ended before readiness did");
}

#[tokio::test]
async fn a_request_is_followed_through_the_log_of_every_stage_by_its_trace() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let model = model_dir(SMOLLM2);
    let up = ["up", model.to_str().expect("a plain path"), "--stages", "3"];
    let mut program = Program::fake(&[&up[..], &["--http", "127.0.0.1:0", "--log-level", "debug"]].concat());
    let door = Place::new(0, program.ready(0, 1).await);
    let headers = [("traceparent", TRACE), ("x-call-id", "followed")];
    let answer = door.send_with(&headers, &json!({"tokens": [1, 2], "max_tokens": 2})).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    // The desk's lines name no stage.
    let lines = [("admitted", None), ("answered", None)].into_iter();
    for (message, stage) in lines.chain((0..3).map(|stage| ("asked to open a sequence", Some(stage)))) {
        let said = |lines: &[String]| {
            let mut lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let stage = stage.map_or(Value::Null, Value::from);
            let line = lines.find(|line| line["message"] == message && line["stage"] == stage)?;
            (line["call_id"] == "followed" && line["traceparent"] == TRACE).then_some(())
        };
        program.logged(&format!("{message:?} of {stage:?}"), said).await;
    }
    program.terminate();
    assert_eq!(program.exit().await.code(), Some(0));
}

#[tokio::test]
async fn an_answer_is_finished_before_one_process_stops() {
    let case = golden_cases(SMOLLM2).remove(2);
    let want = ids(&case["greedy_ids"]);
    let model = model_dir(SMOLLM2);
    let model = model.to_str().expect("a plain path");
    let batching = ["--max-model-len", "256", "--max-batch-tokens", "64", "--max-num-seqs", "4"];
    let up = ["up", model, "--stages", "3", "--http", "127.0.0.1:0", "--healthcheck-interval", "1s"];
    let mut program = Program::start(&[&up[..], &batching].concat());
    let door = Place::new(0, program.ready(0, 1).await);
    let mut stream = door.stream(&ids(&case["input_ids"]), json!({"max_tokens": 200})).await;
    let mut tokens = stream.tokens(3).await;
    program.terminate();
    not_ready_but_at_work(&door).await;
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens)[..want.len()], want);
    assert_eq!(program.exit().await.code(), Some(0));
}

#[tokio::test]
async fn answers_and_requests_that_wait_are_finished_before_a_process_each_stops() {
    let broker = NatsServer::start().await;
    // One at a time: between two answers, no stage but the door's has anything to do, and none must take that for the end.
    let more =
        ["--nats", &broker.url(), "--healthcheck-interval", "1s", "--max-num-seqs", "1", "--queue-timeout", "1h"];
    let pipeline = Pipeline::fake();
    let mut program = pipeline.program(&["up"], &more);
    let door = Place::new(0, program.ready(0, 1).await);
    let mut stream = door.stream(&PROMPT, json!({"max_tokens": LONG})).await;
    let waiting: Vec<_> = (1..=WAITING).map(|tokens| tokio::spawn(ask(door.clone(), tokens))).collect();
    let all_wait = async || door.metric("requests_waiting", "").await.filter(|waiting| *waiting == f64::from(WAITING));
    found("requests to wait", all_wait).await;
    let mut tokens = stream.tokens(3).await;
    program.interrupt();
    not_ready_but_at_work(&door).await;
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), right_ids(LONG));
    for (answer, tokens) in waiting.into_iter().zip(1..) {
        let answer = answer.await.expect("the other client");
        assert_eq!(ids(&answer["token_ids"]), right_ids(tokens), "{answer}");
    }
    assert_eq!(program.exit().await.code(), Some(0));
}

/// The whole answer, as JSON.
async fn ask(door: Place, tokens: u32) -> Value {
    door.send(&json!({"tokens": PROMPT, "max_tokens": tokens})).await.json().await.expect("JSON")
}

#[tokio::test]
async fn stages_that_are_killed_again_and_again_are_started_again_and_the_answer_goes_on() {
    let broker = NatsServer::start().await;
    let pipeline = Pipeline::fake();
    let program = pipeline.program(&["up"], &["--nats", &broker.url(), "--exec-timeout", "2m"]);
    let door = Place::new(0, program.ready(0, 1).await);
    // A stage that ends before that has not started well, and is not started again.
    let whole = |lines: &[String]| lines.iter().any(|line| line.starts_with("stage 2: ")).then_some(());
    program.logged("all stages to have started", whole).await;
    let mut stream = door.stream(&PROMPT, json!({"max_tokens": LONG})).await;
    // The door's settings are those that were given to `up`.
    assert_eq!(door.send(&json!({"tokens": PROMPT, "deadline_ms": 120_001})).await.status(), 400);

    let mut tokens = Vec::new();
    for (stage, time) in [(1, 1), (2, 1), (1, 2)] {
        tokens.extend(stream.tokens(50).await);
        Place::new(stage, program.ready(stage, time).await).holds(1).await;
        kill(program.child(stage).expect("the stage's process"));
        program.ready(stage, time + 1).await;
    }
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), right_ids(LONG));
    assert!(door.metric("replays_total", "").await >= Some(3.0));
    for (stage, time) in [(0, 1), (1, 3), (2, 2)] {
        Place::new(stage, program.ready(stage, time).await).holds(0).await;
    }
}

#[tokio::test]
async fn stages_end_with_the_process_that_started_them() {
    let broker = NatsServer::start().await;
    let pipeline = Pipeline::fake();
    let mut program = pipeline.program(&["up"], &["--nats", &broker.url()]);
    let mut children = Vec::new();
    for stage in 0..STAGES {
        program.ready(stage, 1).await;
        children.push(program.child(stage).expect("the stage's process"));
    }
    assert!(children.iter().all(|child| runs(*child)));
    program.kill().await;
    found("the stages' end", async || (!children.iter().any(|child| runs(*child))).then_some(())).await;
}
