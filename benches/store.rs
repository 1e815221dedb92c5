//! What it costs to keep something: requests accepted a second (a log's first record and its job, as a door does before it answers
//! 202), by 64 at once, and the time of an append alone, in a file and at a broker.
//!
//! `cargo bench -p stageline-store`; needs a nats-server (scripts/fetch-nats).

#[allow(dead_code, reason = "the tests also kill servers and start them again")]
#[path = "../tests/support/nats.rs"]
mod nats;

use bytes::Bytes;
use futures::StreamExt;
use nats::NatsServer;
use stageline_store::{FileSettings, FileStore, Flush, JetStream, Name, Settings, Store};
use std::time::{Duration, Instant};

/// Medians of so many rounds.
const ROUNDS: usize = 5;
const REQUESTS: usize = 2000;
const AT_ONCE: usize = 64;
/// A prompt of some lines.
const REQUEST_BYTES: usize = 1024;
const APPENDS: usize = 500;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    println!("{:>28} {:>14} {:>16} {:>16}", "store", "accepted/s", "append p50 us", "append p99 us");
    for (name, flush) in [("file", Flush::EverySecond), ("file, each commit flushed", Flush::EachCommit)] {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = FileSettings { flush, max_jobs: 1_000_000, ..FileSettings::default() };
        let store = FileStore::open(&folder.path().join("store"), settings).expect("the store opens");
        measure(name, &store).await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let always = folder.path().join("always.conf");
    std::fs::write(&always, "jetstream { sync_interval: always }\n").expect("the settings are written");
    for (name, arguments) in
        [("broker", vec!["-js"]), ("broker, sync always", vec!["-js", "-c", always.to_str().expect("a path")])]
    {
        let server = NatsServer::with(&arguments).await;
        let client = async_nats::connect(server.url()).await.expect("a connection");
        let settings = Settings {
            name: "bench".to_owned(),
            subject: "stageline.v1.bench.store".to_owned(),
            lease: Duration::from_secs(3),
            max_jobs: 1_000_000,
            max_bytes: 1 << 30,
            blob_age: Duration::from_secs(3600),
            replicas: 1,
        };
        let store = JetStream::open(client, settings).await.expect("the store opens");
        measure(name, &store).await;
    }
}

async fn measure(name: &str, store: &dyn Store) {
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let accepted = futures::stream::iter(0..REQUESTS).map(|n| accept(store, round, n));
        accepted.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        rates.push(REQUESTS as f64 / begun.elapsed().as_secs_f64());
    }
    let (log, mut last, mut times) = (named("alone", 0, 0), 0, Vec::new());
    for _ in 0..APPENDS {
        let begun = Instant::now();
        last = store.append(&log, last, Bytes::from_static(&[0; 16])).await.expect("it is kept");
        times.push(begun.elapsed());
    }
    rates.sort_by(f64::total_cmp);
    times.sort();
    let at = |share: f64| times[(APPENDS as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{name:>28} {:>14.0} {:>16.0} {:>16.0}", rates[ROUNDS / 2], at(0.5), at(0.99));
}

/// What a door keeps before it says that a request is accepted.
async fn accept(store: &dyn Store, round: usize, n: usize) {
    let log = named("request", round, n);
    store.append(&log, 0, Bytes::from(vec![b'x'; REQUEST_BYTES])).await.expect("it is kept");
    store.push(&named("jobs", 0, 0), Bytes::copy_from_slice(log.as_str().as_bytes())).await.expect("it is kept");
}

fn named(kind: &str, round: usize, n: usize) -> Name {
    Name::new(kind, &format!("{round}-{n}")).expect("a name")
}
