//! More connections than a door takes, of clients that send nothing or not all of it.

use crate::patience::soon;
use crate::support::{Connection, Door, Script, Setup, post};
use stageline_door::Limits;
use stageline_door::{AnswerEvent, FinishReason};
use std::time::Duration;

/// A door with room for so many connections.
async fn door(max_connections: usize) -> Door {
    let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() };
    // No time of theirs may be what ends those that wait.
    let long = Duration::from_secs(3600);
    let times = Limits { head_timeout: long, idle_timeout: long, body_timeout: long, ..Limits::default() };
    let limits = Limits { max_connections, max_deadline: long, ..times };
    Door::open(Setup { limits, script: Script::Answer(vec![done]), ..Setup::default() }).await
}

/// What whoever probes and asks gets.
async fn looks_well(door: &Door, after: &str) {
    for path in ["/_/health", "/_/ready", "/metrics"] {
        assert_eq!(soon(path, door.get(path)).await.status, 200, "{path} after {after:?}");
    }
    assert_eq!(soon("an answer", door.send(post("", "x"))).await.status, 200, "after {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_wait_take_health_and_prompts_from_nobody() {
    const ROOM: usize = 40;
    let starts = [
        "",
        "P",
        "POST / HTTP/1.1\r\nhost:",
        "POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nx",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        // An HTTP/2 connection without a call.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ];
    let door = door(ROOM).await;
    let mut held = Vec::new();
    for start in starts {
        for _ in 0..ROOM * 3 {
            let mut connection = Connection::open(door.address).await;
            connection.send(start).await;
            held.push(connection);
        }
        looks_well(&door, start).await;
    }
    // All but those that there is room for have been closed.
    let most = held.len() - ROOM;
    for connection in &mut held[..most] {
        soon("a connection to be closed", connection.read_to_end()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_serve_stay_whoever_comes() {
    const ROOM: usize = 8;
    let mut door = door(ROOM).await;
    door.script(Script::Hand);
    let (mut serving, mut served) = (Vec::new(), Vec::new());
    for _ in 0..ROOM {
        let mut connection = Connection::open(door.address).await;
        connection.send("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx").await;
        served.push(door.served().await);
        serving.push(connection);
    }
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(Connection::open(door.address).await);
    }
    assert_eq!(soon("health", door.get("/_/health")).await.status, 200);
    let refused = soon("a refusal", door.send(post("", "x"))).await;
    assert_eq!(refused.status, 429);
    for served in &served {
        served.send(AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() }).await;
    }
    for connection in &mut serving {
        assert_eq!(soon("an answer", connection.reply()).await.status, 200);
    }
    door.script(Script::Answer(vec![AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() }]));
    looks_well(&door, "a crowd").await;
}

#[tokio::test]
async fn one_peer_may_be_held_to_a_number_of_connections() {
    let limits = Limits { max_connections_per_peer: 2, ..Limits::default() };
    let door = Door::open(Setup { limits, ..Setup::default() }).await;
    let mut two = [Connection::open(door.address).await, Connection::open(door.address).await];
    for connection in &mut two {
        connection.send("GET /_/health HTTP/1.1\r\n\r\n").await;
        assert_eq!(soon("health", connection.reply()).await.status, 200);
    }
    let mut third = Connection::open(door.address).await;
    third.send("GET /_/health HTTP/1.1\r\n\r\n").await;
    assert!(soon("the end", third.read_to_end()).await.is_empty());
    let [one, _other] = two;
    drop(one);
    let again = async {
        loop {
            let mut connection = Connection::open(door.address).await;
            connection.send("GET /_/health HTTP/1.1\r\nconnection: close\r\n\r\n").await;
            if !connection.read_to_end().await.is_empty() {
                break;
            }
        }
    };
    soon("room again", again).await;
}
