//! What a hop costs: half the time of there and back between two threads that sleep while they wait, and rows a second when
//! the next is sent as soon as there is room; for payloads of decode steps and of prefills, over every kind of hop. Beside
//! them, in the same run, what each stands on: a bare wake of a thread, a copy of the payload, and the libraries alone.
//!
//! `cargo bench --bench hop`, or `-- shm` for one kind only; needs a nats-server (see tests/support/nats.rs).

#[allow(dead_code, reason = "the tests also kill servers and start them again")]
#[path = "../tests/support/nats.rs"]
mod nats;
#[path = "hop/raw.rs"]
mod raw;

use bytes::BytesMut;
use nats::NatsServer;
use stageline_base::{Element, ReplicaId, SequenceId, Tensors};
use stageline_core::batch::trailer_room;
use stageline_core::{Body, FrameContent, LinkMail, Mail, Segment};
use stageline_metrics::HopMetrics;
use stageline_transport::{
    Arrived, Doorbell, HopKind, HopSettings, HopSite, Hops, Mailbox, MemoryNet, NatsNet, NatsSettings, Peer, Post,
};
use stageline_wire::{Phase, Status, Subjects, WIRE_VERSION};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{oneshot, watch};

/// Width of SmolLM2-135M's activations: a row is 2,304 bytes.
const HIDDEN: usize = 576;
/// Rows: one decode row, eight, a prompt's chunk of 28, and one that fills the default max_payload.
const ROWS: [usize; 4] = [1, 8, 28, 450];
/// Most rows that are of a sequence each.
const DECODED: usize = 8;
/// The manifest's digest.
const DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let server = runtime.block_on(NatsServer::start());
    println!("{:>10} {:>12} {:>10} {:>10} {:>12}", "hop", "payload", "p50 us", "p99 us", "rows/s");
    for rows in ROWS {
        let rounds = if rows > 100 { 2000 } else { 10_000 };
        let bytes = rows * HIDDEN * 4;
        report("futex", rows, raw::futex(rounds, move || drop(mail(0, rows))), None);
        report("memcpy", rows, raw::memcpy(bytes, rounds), None);
        let all = [HopKind::Memory, HopKind::Shm, HopKind::Grpc, HopKind::Nats];
        for kind in all.into_iter().filter(|kind| wanted(*kind)) {
            let times = Pair::open(kind, &runtime, &server).there_and_back(rows, rounds);
            let rate = Pair::open(kind, &runtime, &server).saturated(rows, rounds);
            report(kind.as_str(), rows, times, Some(rate));
            match kind {
                HopKind::Grpc => report("tonic", rows, runtime.block_on(raw::tonic(bytes, rounds)), None),
                HopKind::Nats => report("async-nats", rows, runtime.block_on(raw::nats(&server, bytes, rounds)), None),
                _ => {}
            }
        }
    }
}

/// Whether the command line names it, or none.
fn wanted(kind: HopKind) -> bool {
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    names.is_empty() || names.iter().any(|name| name == kind.as_str())
}

/// The ends of a way that leads from a thread to another and back: stage 0 and stage 2 are on one thread, stage 1 is on the
/// other, since every hop leads to the next stage.
struct Pair {
    here: (Doorbell, Arc<dyn Post>, Mailbox),
    there: (Doorbell, Arc<dyn Post>, Mailbox),
    _alive: Box<dyn std::any::Any>,
}

fn peer(stage: u16) -> Peer {
    Peer { stage, replica: ReplicaId::new("bench", stage.into()) }
}

impl Pair {
    fn open(kind: HopKind, runtime: &Runtime, server: &NatsServer) -> Self {
        let (here, there) = (Doorbell::new().unwrap(), Doorbell::new().unwrap());
        if kind == HopKind::Memory {
            let net = MemoryNet::new();
            let post: Arc<dyn Post> = Arc::new(net.clone());
            let ends = (net.register(peer(2)), net.register(peer(1)));
            return Self { here: (here, post.clone(), ends.0), there: (there, post, ends.1), _alive: Box::new(()) };
        }
        runtime.block_on(async {
            let (records, replicas) = watch::channel(Vec::new());
            let nets = (connect(server).await, connect(server).await);
            let mut all = Vec::new();
            for (stage, net, doorbell) in [(0, &nets.0, &here), (1, &nets.1, &there), (2, &nets.0, &here)] {
                let (replicas, metrics) = (replicas.clone(), HopMetrics::default());
                let site = HopSite { me: peer(stage), window_bytes: 64 << 20, replicas, doorbell, metrics };
                let listen = Some(([127, 0, 0, 1], 0).into());
                let settings = HopSettings { hop: kind, listen, advertise: None };
                let (hops, mailbox) = Hops::open(net.clone(), site, &settings).await.unwrap();
                records.send_modify(|records| records.push(record(stage, &hops)));
                all.push((Arc::new(hops), mailbox));
            }
            let [first, middle, last] = <[_; 3]>::try_from(all).ok().unwrap();
            let alive = Box::new((last.0, first.1, records));
            Self { here: (here, first.0, last.1), there: (there, middle.0, middle.1), _alive: alive }
        })
    }

    /// Half of each round's time. Both threads wait on their doorbells until all is over, since those run the connections: what a
    /// thread has posted last goes out then.
    fn there_and_back(self, rows: usize, rounds: usize) -> Vec<Duration> {
        let (doorbell, post, mut mailbox) = self.there;
        let (runtime, (over, end)) = (Handle::current(), oneshot::channel::<()>());
        let echo = std::thread::spawn(move || {
            let _entered = runtime.enter();
            doorbell.block_on(async {
                for _ in 0..rounds + WARM_UP {
                    let answer = mail(1, rows);
                    let _let_go_of_later = arrival(&mut mailbox).await;
                    post.post(&peer(2), answer).unwrap();
                }
                end.await.unwrap();
            });
            (post, mailbox)
        });
        let (doorbell, post, mut mailbox) = self.here;
        let mut times = Vec::with_capacity(rounds + WARM_UP);
        doorbell.block_on(async {
            for _ in 0..rounds + WARM_UP {
                let question = mail(0, rows);
                let begun = Instant::now();
                post.post(&peer(1), question).unwrap();
                let _let_go_of_later = arrival(&mut mailbox).await;
                times.push(begun.elapsed() / 2);
            }
        });
        over.send(()).unwrap();
        echo.join().unwrap();
        times.split_off(WARM_UP)
    }

    /// Rows a second, with as much on the way as a link's credit might allow.
    fn saturated(self, rows: usize, rounds: usize) -> f64 {
        let (window, rounds) = (if rows > 100 { 8 } else { 64 }, rounds.next_multiple_of(64));
        let (doorbell, post, mut mailbox) = self.there;
        let (runtime, (over, end)) = (Handle::current(), oneshot::channel::<()>());
        let reader = std::thread::spawn(move || {
            let _entered = runtime.enter();
            doorbell.block_on(async {
                for n in 1..=rounds {
                    arrival(&mut mailbox).await;
                    if n % (window / 4) == 0 {
                        post.post(&peer(2), mail(1, 1)).unwrap();
                    }
                }
                end.await.unwrap();
            });
            (post, mailbox)
        });
        let (doorbell, post, mut mailbox) = self.here;
        let ready: Vec<Mail> = (0..rounds.min(1024)).map(|_| mail(0, rows)).collect();
        let begun = Instant::now();
        doorbell.block_on(async {
            let mut room = window;
            for n in 0..rounds {
                while room == 0 {
                    arrival(&mut mailbox).await;
                    room += window / 4;
                }
                room -= 1;
                post.post(&peer(1), ready[n % ready.len()].clone()).unwrap();
            }
            while room < window {
                arrival(&mut mailbox).await;
                room += window / 4;
            }
        });
        let rate = (rows * rounds) as f64 / begun.elapsed().as_secs_f64();
        over.send(()).unwrap();
        reader.join().unwrap();
        rate
    }
}

/// Rounds before the clock runs.
const WARM_UP: usize = 200;

async fn arrival(mailbox: &mut Mailbox) -> Mail {
    let Some(Arrived::Mail(mail)) = mailbox.stream.recv().await else { panic!("nothing came") };
    mail
}

fn record(stage: u16, hops: &Hops) -> Status {
    Status {
        wire_version: WIRE_VERSION,
        manifest: DIGEST.into(),
        stage,
        replica: peer(stage).replica,
        started_unix_ms: 1,
        phase: Phase::Ready,
        kv_blocks_total: 1,
        kv_blocks_free: 1,
        block_size: 1,
        max_model_len: 1,
        live_sequences: 0,
        link_epochs: 1024,
        wire_dtype: Element::F32,
        join: Some(hops.join_hash().to_owned()),
        hop: hops.address().map(str::to_owned),
    }
}

async fn connect(server: &NatsServer) -> NatsNet {
    let subjects = Subjects::new("bench", DIGEST).unwrap();
    NatsNet::connect(NatsSettings::new(server.url(), subjects)).await.unwrap()
}

/// Rows as a device leaves them, room behind them: of a decode step one a sequence, else all of one prompt.
fn mail(from: u16, rows: usize) -> Mail {
    let Peer { stage, replica: from } = peer(from);
    let sequences = if rows <= DECODED { rows } else { 1 };
    let segments = (1..=sequences as u64).map(|counter| Segment {
        sequence: SequenceId { boot: 1, counter },
        attempt: 1,
        door: from.clone(),
        start: 100,
        rows: (rows / sequences) as u32,
        emit: true,
    });
    let segments: Vec<Segment> = segments.collect();
    let mut buffer = BytesMut::with_capacity(rows * HIDDEN * 4 + trailer_room(rows));
    buffer.resize(rows * HIDDEN * 4, 1);
    let payload = Tensors::hidden(rows, buffer.freeze()).unwrap();
    let content = FrameContent::Rows { segments, payload };
    Mail { from, stage, body: Body::Link(LinkMail::Frame { epoch: 1, number: 1, content }) }
}

fn report(hop: &str, rows: usize, mut times: Vec<Duration>, rate: Option<f64>) {
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    let rate = rate.map(|rate| format!("{rate:12.0}")).unwrap_or_default();
    println!("{hop:>10} {:>9} KB {:>10.1} {:>10.1} {rate}", rows * HIDDEN * 4 / 1000, at(0.5), at(0.99));
}
