//! Connections that are closed or refused are counted, each under why.

use crate::support::{Connection, Door, Setup, post};
use stageline_door::Limits;
use stageline_metrics::Shed;
use std::time::Duration;

/// A connection that has been served, and waits for its next request.
async fn served(door: &Door) -> Connection {
    let mut connection = Connection::open(door.address).await;
    connection.send("GET /_/health HTTP/1.1\r\n\r\n").await;
    assert_eq!(connection.reply().await.status, 200);
    connection
}

/// How often each reason was counted at `door`, as its page says over `connection`.
async fn counted(door: &Door, connection: &mut Connection) -> Vec<(&'static str, u64)> {
    connection.send("GET /metrics HTTP/1.1\r\n\r\n").await;
    let page = connection.reply().await.body;
    let count = |why: Shed| {
        let count = door.metrics.door.connections_shed[why as usize].get();
        let line = format!("stageline_connections_shed_total{{pipeline=\"tiny\",why=\"{}\"}} {count}", why.as_str());
        assert!(page.lines().any(|shown| shown == line), "{line} is not in\n{page}");
        (why.as_str(), count)
    };
    Shed::ALL.map(count).into_iter().filter(|(_, count)| *count > 0).collect()
}

#[tokio::test]
async fn a_connection_that_makes_room_is_counted() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let door = Door::open(Setup { limits, ..Setup::default() }).await;
    let (mut first, _second) = (served(&door).await, served(&door).await);
    let mut third = served(&door).await;
    first.read_to_end().await;
    assert_eq!(counted(&door, &mut third).await, [("max_connections", 1)]);
}

#[tokio::test]
async fn a_connection_beyond_a_peers_is_counted() {
    let limits = Limits { max_connections_per_peer: 1, ..Limits::default() };
    let door = Door::open(Setup { limits, ..Setup::default() }).await;
    let mut held = served(&door).await;
    for _ in 0..2 {
        assert!(Connection::open(door.address).await.read_to_end().await.is_empty());
    }
    assert_eq!(counted(&door, &mut held).await, [("max_connections_per_peer", 2)]);
}

#[tokio::test]
async fn a_head_that_is_slow_is_counted_and_a_client_that_leaves_is_not() {
    let limits = Limits { head_timeout: Duration::from_millis(30), ..Limits::default() };
    let door = Door::open(Setup { limits, ..Setup::default() }).await;
    for start in ["", "P", "POST / HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n\r\n"] {
        let mut connection = Connection::open(door.address).await;
        connection.send(start).await;
        connection.read_to_end().await;
    }
    drop(Connection::open(door.address).await);
    door.send(post("", "x").replace("POST", "PUT")).await;
    let mut looks = served(&door).await;
    assert_eq!(counted(&door, &mut looks).await, [("slow_head", 4)]);
}
