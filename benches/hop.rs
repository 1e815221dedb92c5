//! What a hop costs: half the time of there and back, for payloads of a decode step and of a prefill, over memory and over
//! NATS, beside the NATS library alone.
//!
//! `cargo bench --bench hop`; needs a nats-server (see tests/support/nats.rs).

#[allow(dead_code, reason = "the tests also kill servers and start them again")]
#[path = "../tests/support/nats.rs"]
mod nats;

use async_nats::Client;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use nats::NatsServer;
use stageline::base::{HostTensor, ReplicaId, SequenceId};
use stageline::core::{Body, LinkLoad, LinkMail, Mail, Segment};
use stageline::transport::{Arrived, Mailbox, MemoryNet, NatsNet, NatsSettings, Peer, Post};
use stageline::wire::{Subjects, room_for};
use std::time::{Duration, Instant};

/// Width of SmolLM2-135M's activations: a row is 2,304 bytes.
const HIDDEN: usize = 576;
/// Rows: one decode row, eight, a chunk of 28, and a prefill that fills the default max_payload.
const ROWS: [usize; 4] = [1, 8, 28, 450];

#[tokio::main(worker_threads = 2)]
async fn main() {
    let server = NatsServer::start().await;
    println!("{:>10} {:>12} {:>10} {:>10}   microseconds a hop", "hop", "payload", "p50", "p99");
    for rows in ROWS {
        let rounds = if rows > 100 { 1000 } else { 5000 };
        let net = MemoryNet::new();
        let mut ends = (net.register(peer(0)), net.register(peer(1)));
        report("memory", rows, hops((&net, &net), &mut ends, rows, rounds).await);

        let (a, b) = (connect(&server).await, connect(&server).await);
        let mut ends = (a.register(peer(0)).await.unwrap(), b.register(peer(1)).await.unwrap());
        report("nats", rows, hops((&a, &b), &mut ends, rows, rounds).await);
        assert_eq!(a.counters().copied_bytes() + b.counters().copied_bytes(), 0, "no payload was copied");

        let clients = (raw(&server).await, raw(&server).await);
        report("library", rows, library(clients, rows * HIDDEN * 4, rounds).await);
    }
}

fn peer(stage: u16) -> Peer {
    Peer { stage, replica: ReplicaId::new("bench", stage.into()) }
}

async fn connect(server: &NatsServer) -> NatsNet {
    let subjects = Subjects::new("bench", &"0".repeat(64)).unwrap();
    NatsNet::connect(NatsSettings::new(server.url(), subjects)).await.unwrap()
}

async fn raw(server: &NatsServer) -> Client {
    async_nats::connect(server.url()).await.unwrap()
}

/// Rows as a device leaves them: one a sequence, room behind them.
fn mail(from: u16, rows: usize) -> Mail {
    let from = peer(from).replica;
    let segments = (1..=rows as u64).map(|counter| Segment {
        sequence: SequenceId { boot: 1, counter },
        attempt: 1,
        door: from.clone(),
        start: 100,
        rows: 1,
        emit: true,
    });
    let segments: Vec<Segment> = segments.collect();
    let mut buffer = BytesMut::with_capacity(rows * HIDDEN * 4 + room_for(rows));
    buffer.resize(rows * HIDDEN * 4, 1);
    let payload = HostTensor::activations(rows, HIDDEN, buffer.freeze()).unwrap();
    let load = LinkLoad::Rows { segments, payload };
    Mail { from, body: Body::Link(LinkMail::Frame { epoch: 1, number: 1, load }) }
}

async fn hops(
    nets: (&dyn Post, &dyn Post),
    ends: &mut (Mailbox, Mailbox),
    rows: usize,
    rounds: usize,
) -> Vec<Duration> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let (there, back) = (mail(0, rows), mail(1, rows));
        let begun = Instant::now();
        nets.0.post(&peer(1), there).unwrap();
        let Some(Arrived::Mail(_)) = ends.1.stream.recv().await else { panic!("nothing came") };
        nets.1.post(&peer(0), back).unwrap();
        let Some(Arrived::Mail(_)) = ends.0.stream.recv().await else { panic!("nothing came back") };
        times.push(begun.elapsed() / 2);
    }
    times
}

async fn library((a, b): (Client, Client), bytes: usize, rounds: usize) -> Vec<Duration> {
    let (mut at_a, mut at_b) = (a.subscribe("a").await.unwrap(), b.subscribe("b").await.unwrap());
    a.flush().await.unwrap();
    b.flush().await.unwrap();
    let payload = Bytes::from(vec![1u8; bytes]);
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        a.publish("b", payload.clone()).await.unwrap();
        at_b.next().await.unwrap();
        b.publish("a", payload.clone()).await.unwrap();
        at_a.next().await.unwrap();
        times.push(begun.elapsed() / 2);
    }
    times
}

fn report(hop: &str, rows: usize, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{hop:>10} {:>9} KB {:>10.1} {:>10.1}", rows * HIDDEN * 4 / 1000, at(0.5), at(0.99));
}
