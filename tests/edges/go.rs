//! Refusals as a Go program gets them, directly and through Go's reverse proxy, which is OpenFaaS' gateway's.

use crate::support::{Door, Script, Setup, exchange};
use serde_json::{Value, json};
use stageline_door::Limits;
use std::path::PathBuf;
use std::sync::LazyLock;
use tokio::process::Command;

/// How often each refusal is asked for.
const TIMES: u64 = 200;

/// The program that refusals.go is, built of Go's standard library alone.
static REFUSALS: LazyLock<PathBuf> = LazyLock::new(|| {
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("STAGELINE_CACHE").unwrap_or(format!("{home}/.cache/stageline"));
    let go = std::env::var("STAGELINE_GO").unwrap_or(format!("{cache}/bin/go"));
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("refusals");
    let source = concat!(env!("STAGELINE_ROOT"), "/tests/edges/refusals.go");
    let mut build = std::process::Command::new(&go);
    build.args(["build", "-o"]).arg(&program).arg(source).env("GOCACHE", format!("{cache}/go-build"));
    build.envs([("GOPROXY", "off"), ("GOFLAGS", "-mod=mod"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")]);
    let status = build.status();
    let built =
        status.unwrap_or_else(|error| panic!("{go} does not run ({error}): run scripts/test, which fetches it"));
    assert!(built.success(), "{source} is not built");
    program
});

/// How often each answer came.
async fn answers(how: &str, address: std::net::SocketAddr, body_bytes: usize) -> Value {
    let program = tokio::task::spawn_blocking(|| REFUSALS.clone()).await.unwrap();
    let to = format!("http://{address}/");
    let run =
        Command::new(program).args([how, &to, &body_bytes.to_string(), &TIMES.to_string()]).output().await.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_door_says_so_every_time() {
    let limits = Limits { max_inflight: Some(1), ..Limits::default() };
    let mut door = Door::open(Setup { limits, ..Setup::default() }).await;
    let held = tokio::spawn(exchange(door.address, b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx"));
    let _served = door.served().await;
    for how in ["direct", "proxied"] {
        assert_eq!(answers(how, door.address, 100_000).await, json!({"429 overloaded": TIMES}), "{how}");
    }
    held.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_stage_names_the_door_every_time() {
    let stage = Door::open(Setup { stage: 1, ..Setup::default() }).await;
    for how in ["direct", "proxied"] {
        for bytes in [1, 100_000, 1_000_000] {
            assert_eq!(
                answers(how, stage.address, bytes).await,
                json!({"421 misdirected": TIMES}),
                "{how}, {bytes} bytes"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_every_time() {
    let door = Door::open(Setup { script: Script::Answer(Vec::new()), ..Setup::default() }).await;
    for how in ["direct", "proxied"] {
        assert_eq!(answers(how, door.address, 5_000_000).await, json!({"413 too_large": TIMES}), "{how}");
    }
}
