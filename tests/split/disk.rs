//! A disk that takes no more: the split says so in a line and leaves nothing.

use crate::tiny;
use std::path::PathBuf;
use std::process::Command;

/// Where the process that is short of disk works, if this is that process.
const ROOM: &str = "STAGELINE_TEST_ROOM";

/// Splits a tiny model in `STAGELINE_TEST_ROOM`, or else in a folder of its own; prints what went wrong.
#[test]
fn split_in_the_room_there_is() {
    let own = tempfile::tempdir().unwrap();
    let Some(room) = std::env::var_os(ROOM).map(PathBuf::from) else {
        let model = own.path().join("model");
        tiny::write(&model, &tiny::llama_config(), &tiny::file(&tiny::llama()));
        tiny::run(&tiny::order(&model, &own.path().join("out"), 2)).unwrap();
        return;
    };
    let error = tiny::run(&tiny::order(&room.join("model"), &room.join("out"), 2)).unwrap_err();
    println!("the line: {error}");
}

#[test]
fn a_pipeline_that_is_replaced_by_another_is_named() {
    let own = tempfile::tempdir().unwrap();
    let (model, out) = (own.path().join("model"), own.path().join("out"));
    tiny::write(&model, &tiny::llama_config(), &tiny::file(&tiny::llama()));
    let digest = |report: &serde_json::Value| report["digest"].as_str().unwrap()[..8].to_owned();
    let first = tiny::run(&tiny::order(&model, &out, 2)).unwrap();
    let again = tiny::run(&tiny::order(&model, &out, 2)).unwrap();
    assert!(!again["advice"].to_string().contains(&digest(&first)), "{again}");
    let other = tiny::run(&tiny::order(&model, &out, 1)).unwrap();
    assert!(other["advice"].to_string().contains(&digest(&first)), "{other}");
}

#[test]
fn a_full_disk_is_one_line_and_leaves_nothing() {
    let room = tempfile::tempdir().unwrap();
    tiny::write(&room.path().join("model"), &tiny::llama_config(), &tiny::file(&tiny::llama()));
    // A limit on the size of files fails a write as a full disk does. A block is 512 bytes or 1024, as the shell likes: the
    // shards are over 5 kB each.
    let script = r#"trap "" XFSZ; ulimit -f 3; exec "$0" "$@""#;
    let done = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk::split_in_the_room_there_is", "--nocapture"])
        .env(ROOM, room.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("the line: cannot write") && said.contains("stage-0.safetensors: File too large"), "{said}");
    assert_eq!(tiny::names(room.path()), ["model"]);
}
