//! Durable requests while what works on them dies: at a broker with two doors, and in one process with a file.

use crate::looking::found;
use crate::nats::NatsServer;
use crate::pipelines::{Cluster, ENDLESS, LONG, PROMPT, Pipeline, STAGES, right_ids};
use crate::places::{Piece, Place, Stream, ids_of};
use crate::programs::Program;
use crate::real_models::ids;
use serde_json::{Value, json};

fn long() -> Value {
    json!({"tokens": PROMPT, "max_tokens": LONG})
}

fn endless() -> Value {
    json!({"tokens": PROMPT, "max_tokens": ENDLESS})
}

/// The next `count` tokens of `stream` go to `ids`; how it ended, if it did.
async fn read(stream: &mut Stream, count: usize, ids: &mut Vec<u32>) -> Option<Piece> {
    for _ in 0..count {
        match stream.next().await? {
            Piece::Token(token) => ids.extend(ids_of(&[token])),
            end => return Some(end),
        }
    }
    Some(Piece::Token(Value::Null))
}

/// All that is left of the answer at `path`, read at `place`.
async fn rest(place: &Place, path: &str, mut ids: Vec<u32>) -> Vec<u32> {
    let mut stream = place.follow(path, ids.len() as u64).await.expect("a door");
    match read(&mut stream, usize::MAX, &mut ids).await {
        Some(Piece::Done(_)) => ids,
        other => panic!("{other:?} after {} tokens", ids.len()),
    }
}

/// The whole answer at `path`, as soon as it has ended.
async fn whole(place: &Place, path: &str) -> Vec<u32> {
    let ended = async || {
        let (status, body) = place.get(path).await?;
        assert!(matches!(status, 200 | 202), "{status}: {body}");
        (status == 200).then_some(body)
    };
    let body: Value = serde_json::from_str(&found("the answer's end", ended).await).expect("JSON");
    ids(&body["token_ids"])
}

#[tokio::test]
async fn an_answer_goes_on_at_another_door_whichever_dies() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    let (mut other, there) = cluster.another(0, &[]).await;
    let path = cluster.place(0).later(&[], &long()).await;
    let mut ids = Vec::new();
    let mut stream = there.follow(&path, 0).await.expect("a door");
    read(&mut stream, 20, &mut ids).await;
    cluster.kill(0).await;
    // Whoever reads at the other hears nothing of it.
    let more = read(&mut stream, 500, &mut ids).await;
    assert!(matches!(more, Some(Piece::Token(_))), "{more:?}");
    cluster.start_again(0).await;
    other.kill().await;
    // What had been sent by then may arrive yet.
    while let Some(Piece::Token(_)) = read(&mut stream, 1, &mut ids).await {}
    assert_eq!(rest(&cluster.place(0), &path, ids).await, right_ids(LONG));
    cluster.hold(&[0, 1, 2], 0).await;
}

#[tokio::test]
async fn a_door_that_ends_hands_on_what_it_has() {
    let drain = ["--healthcheck-interval", "100ms", "--drain-timeout", "500ms"];
    let mut cluster = Cluster::start(Pipeline::fake().with(&drain)).await;
    let path = cluster.place(0).later(&[], &long()).await;
    let mut ids = Vec::new();
    let mut stream = cluster.place(0).follow(&path, 0).await.expect("a door");
    read(&mut stream, 20, &mut ids).await;
    let (_other, there) = cluster.another(0, &[]).await;
    // Whoever waits for all of it is told, too, where it will be.
    let waiting = cluster.place(0);
    let waiting = tokio::spawn(async move { waiting.send_with(&[("idempotency-key", "k")], &endless()).await });
    cluster.hold(&[0], 2).await;
    cluster.process(0).terminate();
    let end = loop {
        match read(&mut stream, 1, &mut ids).await {
            Some(Piece::Token(_)) => {}
            end => break end,
        }
    };
    let Some(Piece::Error(error)) = end else { panic!("{end:?} after {} tokens", ids.len()) };
    assert!(error.to_string().contains(&path), "{error}");
    let told = waiting.await.expect("who waits");
    assert_eq!(told.status(), 503);
    assert!(told.text().await.expect("words").contains("/requests/"));
    assert_eq!(cluster.process(0).exit().await.code(), Some(0));
    assert_eq!(rest(&there, &path, ids).await, right_ids(LONG));
}

#[tokio::test]
async fn an_answer_goes_on_when_its_broker_is_back() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    let door = cluster.place(0);
    let path = door.later(&[("x-call-id", "one")], &long()).await;
    let mut ids = Vec::new();
    let mut stream = door.follow(&path, 0).await.expect("a door");
    read(&mut stream, 20, &mut ids).await;
    cluster.broker.kill();
    cluster.broker.start_again().await;
    match read(&mut stream, usize::MAX, &mut ids).await {
        Some(Piece::Done(_)) => assert_eq!(ids, right_ids(LONG)),
        other => panic!("{other:?} after {} tokens", ids.len()),
    }
    assert_eq!(door.later(&[("x-call-id", "one")], &long()).await, path);
}

#[tokio::test]
async fn a_door_keeps_requests_again_at_a_broker_that_lost_them() {
    let mut cluster = Cluster::start(Pipeline::fake()).await;
    let door = cluster.place(0);
    let named = [("x-call-id", "one")];
    let path = door.later(&named, &endless()).await;
    let mut stream = door.follow(&path, 0).await.expect("a door");
    read(&mut stream, 20, &mut Vec::new()).await;
    cluster.broker.kill();
    cluster.broker.forget();
    cluster.broker.start_again().await;
    // The same name is another request now, and whoever read the one before is not told of this one's answer.
    let short = json!({"tokens": PROMPT, "max_tokens": 5});
    let taken = async || {
        let answer = door.send_with(&[named[0], ("prefer", "respond-async")], &short).await;
        // Lost with the broker's last moments, or not there yet.
        (answer.status() == 202).then_some(())
    };
    found("a request to be taken", taken).await;
    assert!(stream.error().await.to_string().contains("not kept any more"));
    assert_eq!(whole(&door, &path).await, right_ids(5));
    cluster.hold(&[0, 1, 2], 0).await;
}

#[tokio::test]
async fn a_cancelled_request_leaves_nothing_at_any_stage() {
    let cluster = Cluster::start(Pipeline::fake()).await;
    let door = cluster.place(0);
    let path = door.later(&[], &endless()).await;
    let mut stream = door.follow(&path, 0).await.expect("a door");
    read(&mut stream, 20, &mut Vec::new()).await;
    cluster.hold(&[0, 1, 2], 1).await;
    door.cancel(&path).await;
    cluster.hold(&[0, 1, 2], 0).await;
    assert!(stream.error().await.to_string().contains("cancelled"));
}

#[tokio::test]
async fn a_request_is_kept_while_stages_are_missing() {
    let (pipeline, broker) = (Pipeline::fake(), NatsServer::start().await);
    let serve = |stage: usize| pipeline.program(&["serve"], &["--stage", &stage.to_string(), "--nats", &broker.url()]);
    let door = serve(0);
    let place = Place::new(0, door.ready(0, 1).await);
    let path = place.later(&[], &json!({"tokens": PROMPT, "max_tokens": 50})).await;
    let (status, body) = place.get(&path).await.expect("a door");
    assert_eq!(status, 202, "{body}");
    // What could never be run is not kept.
    for wrong in [json!({"tokens": [1_000_000]}), json!({"tokens": vec![1; 200_001]}), json!({"prompt": ""})] {
        let refused = place.send_with(&[("prefer", "respond-async")], &wrong).await;
        assert_eq!(refused.status(), 400, "{:?}", refused.text().await);
    }
    let _others: Vec<Program> = (1..STAGES).map(serve).collect();
    assert_eq!(whole(&place, &path).await, right_ids(50));
}

/// A process of all stages that keeps requests in `file`.
async fn up(pipeline: &Pipeline, file: &str) -> (Program, Place) {
    let program = pipeline.program(&["up"], &["--store", file]);
    let place = Place::new(0, program.ready(0, 1).await);
    (program, place)
}

#[tokio::test]
async fn one_process_with_a_file_goes_on_after_its_deaths() {
    let (pipeline, folder) = (Pipeline::fake(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("requests.db");
    let file = file.to_str().expect("a plain path");
    let (mut process, mut place) = up(&pipeline, file).await;
    let path = place.later(&[], &long()).await;
    let short = json!({"tokens": PROMPT, "max_tokens": 5});
    let mut others = Vec::new();
    let mut ids = Vec::new();
    for death in 0..2 {
        let mut stream = place.follow(&path, ids.len() as u64).await.expect("a door");
        read(&mut stream, 50, &mut ids).await;
        for number in 0..10 {
            others.push(place.later(&[("idempotency-key", &format!("{death}-{number}"))], &short).await);
        }
        // At once: most of them are not begun.
        process.kill().await;
        (process, place) = up(&pipeline, file).await;
    }
    assert_eq!(rest(&place, &path, ids).await, right_ids(LONG));
    for path in &others {
        assert_eq!(whole(&place, path).await, right_ids(5));
    }
    // The same keys are the same requests still.
    let again = place.later(&[("idempotency-key", "0-3")], &short).await;
    assert_eq!(again, others[3]);
}

#[tokio::test]
async fn a_file_is_one_servers_and_no_other_file() {
    let (pipeline, folder) = (Pipeline::fake(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("requests.db");
    let said = async |file: &str, words: &str| {
        let mut program = pipeline.program(&["up"], &["--store", file]);
        program.logged(words, |lines| lines.iter().any(|line| line.contains(words)).then_some(())).await;
        assert_eq!(program.exit().await.code(), Some(1));
    };
    let path = file.to_str().expect("a plain path");
    let (_holder, _) = up(&pipeline, path).await;
    said(path, "another process").await;
    let other = folder.path().join("notes.txt");
    std::fs::write(&other, "what somebody has written\n".repeat(100)).expect("a file");
    said(other.to_str().expect("a plain path"), "notes.txt").await;
}
