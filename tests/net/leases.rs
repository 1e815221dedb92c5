//! Leases: who holds one is seen, who stops renewing is gone, and nothing that happens to the key takes it from its holder.

use crate::contract::{DIGEST, connect, peer, subjects};
use crate::nats::NatsServer;
use crate::soon;
use async_nats::jetstream;
use stageline_base::Element;
use stageline_transport::{LeaseBoard, LeaseEvent, LeaseKeeper, LeaseView, NatsLeases, NatsNet, NatsSettings, Peer};
use stageline_wire::{Phase, Status, WIRE_VERSION};
use std::time::Duration;

/// The record of a replica.
pub fn status(peer: &Peer) -> Status {
    Status {
        wire_version: WIRE_VERSION,
        manifest: DIGEST.to_owned(),
        stage: peer.stage,
        replica: peer.replica.clone(),
        started_unix_ms: 1,
        phase: Phase::Loading,
        kv_blocks_total: 10,
        kv_blocks_free: 10,
        block_size: 16,
        max_model_len: 64,
        live_sequences: 0,
        link_epochs: 1024,
        wire_dtype: Element::F32,
        join: None,
        hop: None,
    }
}

/// Who came or went next.
pub async fn event(view: &mut LeaseView) -> LeaseEvent {
    soon("a replica to come or go", view.event()).await.expect("the view goes on")
}

enum Leases {
    Board(LeaseBoard),
    Nats { _server: NatsServer, leases: Box<NatsLeases> },
}

impl Leases {
    async fn all() -> Vec<Self> {
        let server = NatsServer::start().await;
        let leases = NatsLeases::open(&connect(&server).await).await.unwrap();
        vec![Self::Board(LeaseBoard::new()), Self::Nats { _server: server, leases: Box::new(leases) }]
    }

    async fn keep(&self, status: Status) -> LeaseKeeper {
        match self {
            Self::Board(board) => board.keep(status),
            Self::Nats { leases, .. } => leases.keep(status).await.unwrap(),
        }
    }

    fn watch(&self) -> LeaseView {
        match self {
            Self::Board(board) => board.watch(),
            Self::Nats { leases, .. } => leases.watch(),
        }
    }
}

#[tokio::test]
async fn a_replica_is_seen_with_its_load_until_it_withdraws() {
    for leases in Leases::all().await {
        let (one, two) = (peer(0, 1), peer(1, 2));
        let first = leases.keep(status(&one)).await;
        let mut view = leases.watch();
        assert_eq!(event(&mut view).await, LeaseEvent::Appeared(status(&one)), "who was there before is told");
        let second = leases.keep(status(&two)).await;
        assert_eq!(event(&mut view).await, LeaseEvent::Appeared(status(&two)));

        second.update(|status| (status.phase, status.kv_blocks_free) = (Phase::Ready, 3));
        let mut replicas = view.replicas();
        let ready = |list: &Vec<Status>| list.iter().any(|s| s.phase == Phase::Ready && s.kv_blocks_free == 3);
        soon("the new load", replicas.wait_for(ready)).await.unwrap();
        assert!(*second.held().borrow());

        second.withdraw().await;
        assert_eq!(event(&mut view).await, LeaseEvent::Gone(two));
        drop(first);
        assert_eq!(event(&mut view).await, LeaseEvent::Gone(one), "a keeper that dies leaves its lease to run out");
    }
}

#[tokio::test]
async fn a_lease_outlives_whatever_happens_to_its_key() {
    let server = NatsServer::start().await;
    let net = connect(&server).await;
    let leases = NatsLeases::open(&net).await.unwrap();
    let mut view = leases.watch();
    let (one, witness) = (peer(1, 1), peer(2, 1));
    let keeper = leases.keep(status(&one)).await.unwrap();
    assert_eq!(event(&mut view).await, LeaseEvent::Appeared(status(&one)));

    let client = async_nats::connect(server.url()).await.unwrap();
    let context = jetstream::new(client);
    let store = context.get_key_value(subjects().lease_bucket()).await.unwrap();
    let key = subjects().lease_key(one.stage, &one.replica);
    // The key's record, unless it holds a marker or nothing.
    let now = async || {
        let entry = soon("the key", store.entry(key.as_str())).await.unwrap();
        entry.filter(|entry| entry.operation == jetstream::kv::Operation::Put)
    };
    // Waits for a renewal after revision `after`.
    let renewed = async |after: u64| {
        soon("a renewal", async {
            loop {
                if let Some(entry) = now().await.filter(|entry| entry.revision > after) {
                    return entry.revision;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    };

    // The keeper's own value under a revision it does not know of, as after a lost answer.
    let revision = store.put(&key, status(&one).to_json().into()).await.unwrap();
    let revision = renewed(revision).await;
    // A marker.
    store.delete(&key).await.unwrap();
    let revision = renewed(revision + 1).await;
    store.purge(&key).await.unwrap();
    let revision = renewed(revision + 1).await;
    // Nothing at all.
    store.stream.purge().await.unwrap();
    renewed(revision).await;
    assert!(*keeper.held().borrow(), "the lease was held throughout");

    // The keys have their TTL still: the lease runs out when its keeper is gone, by the broker's own clock.
    let second = leases.keep(status(&witness)).await.unwrap();
    drop(keeper);
    let gone = async {
        while now().await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    soon("the key to run out", gone).await;
    let mut replicas = view.replicas();
    let left = |list: &Vec<Status>| list.len() == 1 && list[0].replica == witness.replica;
    soon("the view to follow", replicas.wait_for(left)).await.unwrap();
    second.withdraw().await;
}

#[tokio::test]
async fn replicas_of_another_manifest_version_or_wire_dtype_are_not_seen() {
    let server = NatsServer::start().await;
    let net = connect(&server).await;
    let leases = NatsLeases::open(&net).await.unwrap();
    let mut view = leases.watch();
    let (stranger, ours) = (peer(1, 1), peer(1, 2));
    let other = Status { manifest: "ff".repeat(32), ..status(&stranger) };
    let later = Status { wire_version: WIRE_VERSION + 1, ..status(&peer(1, 3)) };
    let rounded = Status { wire_dtype: Element::Bf16, ..status(&peer(1, 4)) };
    let _first = leases.keep(other).await.unwrap();
    let _second = leases.keep(later).await.unwrap();
    let _third = leases.keep(rounded).await.unwrap();
    let _fourth = leases.keep(status(&ours)).await.unwrap();
    assert_eq!(event(&mut view).await, LeaseEvent::Appeared(status(&ours)));
}

#[tokio::test]
async fn a_server_without_jetstream_is_named_with_what_to_do() {
    let server = NatsServer::with(&[]).await;
    let net = connect(&server).await;
    let error = NatsLeases::open(&net).await.err().expect("no leases").to_string();
    assert!(error.contains("-js") && error.contains(&server.url()), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let mut server = NatsServer::start().await;
    server.kill();
    let settings = NatsSettings::new(server.url(), subjects());
    let error = NatsNet::connect(settings).await.err().expect("no server").to_string();
    assert!(error.contains(&server.url()) && error.contains("nats-server -js"), "{error}");
    let settings = NatsSettings::new("nats://127.0.0.1:notaport", subjects());
    let error = NatsNet::connect(settings).await.err().expect("no port").to_string();
    assert!(error.contains("nats://host:4222"), "{error}");
    let credentials = Some("/nowhere/me.creds".into());
    let settings = NatsSettings { credentials, ..NatsSettings::new(server.url(), subjects()) };
    let error = NatsNet::connect(settings).await.err().expect("no file").to_string();
    assert!(error.contains("/nowhere/me.creds"), "{error}");
}

#[tokio::test]
async fn a_server_that_starts_late_is_waited_for() {
    let mut server = NatsServer::start().await;
    server.kill();
    let settings = NatsSettings::new(server.url(), subjects());
    let connecting = NatsNet::connect_within(settings, Duration::from_secs(60));
    // In this order: the first try finds nobody.
    let (connected, ()) = tokio::join!(connecting, server.start_again());
    connected.unwrap();
}

#[tokio::test]
async fn credentials_are_taken_from_the_url_and_never_shown() {
    let server = NatsServer::with(&["--user", "me", "--pass", "se@ret"]).await;
    let host = server.url().replace("nats://", "");
    NatsNet::connect(NatsSettings::new(format!("nats://me:se%40ret@{host}"), subjects())).await.unwrap();
    for wrong in [format!("nats://me:guess@{host}"), format!("nats://{host}")] {
        let error = NatsNet::connect(NatsSettings::new(wrong, subjects())).await.err().expect("no entry").to_string();
        assert!(error.contains("refuses us") && error.contains(&server.url()) && !error.contains("guess"), "{error}");
    }
    let server = NatsServer::with(&["--auth", "token"]).await;
    let host = server.url().replace("nats://", "");
    NatsNet::connect(NatsSettings::new(format!("nats://token@{host}"), subjects())).await.unwrap();
}
