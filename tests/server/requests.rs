//! `stageline requests` as an operator types it: asking a door over HTTP and NATS, and a file that no server has.

use crate::environment;
use crate::looking::found;
use crate::nats::NatsServer;
use crate::patience::soon;
use crate::pipelines::{Cluster, ENDLESS, PROMPT, Pipeline, right_ids};
use crate::places::Place;
use crate::programs::Program;
use crate::real_models::ids;
use serde_json::{Value, json};
use tokio::process::Command;

/// What `stageline requests` prints with these arguments, or why it fails.
async fn requests(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stageline"));
    command.arg("requests").args(arguments).env_clear().envs(environment::kept()).current_dir(std::env::temp_dir());
    let output = soon("the command", command.output()).await.expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout)),
        Some(1) => Err(text(&output.stderr)),
        other => panic!("{other:?}: {}", text(&output.stderr)),
    }
}

fn id_of(path: &str) -> &str {
    path.strip_prefix("/requests/").expect("a path")
}

/// How the request of that id is listed by a command with these arguments.
async fn listed(more: &[&str], id: &str) -> Value {
    let text = requests(&[&["list", "--json"], more].concat()).await.expect("a list");
    let listing: Value = serde_json::from_str(&text).expect("JSON");
    let listed = listing["requests"].as_array().expect("requests").iter().find(|request| request["id"] == id);
    listed.unwrap_or_else(|| panic!("{id} is not in {text}")).clone()
}

#[tokio::test]
async fn a_door_is_asked_over_http_and_over_nats() {
    let mut cluster = Cluster::start_with_users(Pipeline::fake(), NatsServer::with_users().await).await;
    let door = cluster.place(0);
    let path = door.later(&[], &json!({"tokens": PROMPT, "max_tokens": 7})).await;
    let endless = door.later(&[], &json!({"tokens": PROMPT, "max_tokens": ENDLESS})).await;
    let (target, broker) = (door.url(), cluster.broker.url_of("client"));
    let ways = [&["--target", &target][..], &["--nats", &broker, "--name", "smollm2"]];
    for way in ways {
        let answered = async || (listed(way, id_of(&path)).await["status"] == "answered").then_some(());
        found("the answer's end", answered).await;
        let shown = requests(&[&["show", id_of(&path), "--json"], way].concat()).await.expect("an answer");
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(ids(&shown["token_ids"]), right_ids(7), "{way:?}");
        let text = requests(&[&["show", id_of(&path)], way].concat()).await.expect("an answer");
        assert_eq!(text.trim_end(), shown["text"].as_str().expect("a text").trim_end());
        let refused = requests(&[&["retry", id_of(&path)], way].concat()).await.expect_err("nothing to try again");
        assert!(refused.contains("there is nothing to try again (status 400)"), "{refused}");
        let unknown = requests(&[&["show", &"0".repeat(32)], way].concat()).await.expect_err("nothing of that id");
        assert!(unknown.contains("no request of this id") && unknown.contains("404"), "{unknown}");
    }
    let cancelled = requests(&[&["cancel", id_of(&endless)], ways[1]].concat()).await.expect("it ends");
    assert_eq!(cancelled, format!("{} ends\n", id_of(&endless)));
    let failed = async || (listed(ways[0], id_of(&endless)).await["status"] == "failed").then_some(());
    found("its end", failed).await;
    requests(&[&["retry", id_of(&endless)], ways[1]].concat()).await.expect("it is tried again");
    cluster.hold(&[0, 1, 2], 1).await;
    cluster.kill(0).await;
    let nobody = requests(&[&["list"], ways[1]].concat()).await.expect_err("nobody");
    assert!(nobody.contains("nobody answers on stageline.v1.smollm2.ask") && nobody.contains("--name"), "{nobody}");
}

/// A process of all stages that keeps requests in `file`.
async fn up(pipeline: &Pipeline, file: &str) -> (Program, Place) {
    let program = pipeline.program(&["up"], &["--store", file]);
    let place = Place::new(0, program.ready(0, 1).await);
    (program, place)
}

#[tokio::test]
async fn a_file_is_opened_that_no_server_has() {
    let (pipeline, folder) = (Pipeline::fake(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("requests.db");
    let file = file.to_str().expect("a plain path");
    let way = ["--store", file];
    for order in [&["list"][..], &["retry", &"0".repeat(32)]] {
        let none = requests(&[order, &way].concat()).await.expect_err("no file");
        assert!(none.contains("requests.db: there is no such file"), "{none}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "something was made");
    let (mut process, place) = up(&pipeline, file).await;
    let short = place.later(&[], &json!({"tokens": PROMPT, "max_tokens": 7})).await;
    let endless = place.later(&[], &json!({"tokens": PROMPT, "max_tokens": ENDLESS})).await;
    let ended = async || place.get(&short).await.filter(|(status, _)| *status == 200);
    found("the short answer", ended).await;
    let held = requests(&[&["list"][..], &way].concat()).await.expect_err("a server has it");
    assert!(held.contains("a server that runs has this store") && held.contains("--target"), "{held}");
    process.kill().await;

    assert_eq!(listed(&way, id_of(&short)).await["status"], "answered");
    assert_eq!(listed(&way, id_of(&endless)).await["status"], "running");
    let shown = requests(&[&["show", id_of(&short)][..], &way].concat()).await.expect("a request");
    let shown: Value = serde_json::from_str(&shown).expect("JSON, since its text is not known");
    assert_eq!((ids(&shown["token_ids"]), shown["status"].as_str()), (right_ids(7), Some("answered")));
    requests(&[&["cancel", id_of(&endless)][..], &way].concat()).await.expect("it ends");
    assert_eq!(listed(&way, id_of(&endless)).await["status"], "cancelling");
    let (mut process, place) = up(&pipeline, file).await;
    let cancelled = async || place.get(&endless).await.filter(|(status, _)| *status == 499);
    found("its end", cancelled).await;
    process.kill().await;

    // What is tried anew goes to who serves the manifest that it was accepted for.
    requests(&[&["retry", id_of(&endless)][..], &way].concat()).await.expect("it is tried again");
    assert_eq!(listed(&way, id_of(&endless)).await["status"], "waiting");
    let (_process, place) = up(&pipeline, file).await;
    place.holds(1).await;
}
