//! Every kind of hop, for tests that hold all of them to one contract.

use crate::contract::{DIGEST, connect, peer};
use crate::leases::status;
use crate::nats::NatsServer;
use stageline_metrics::HopMetrics;
use stageline_transport::{Doorbell, HopKind, HopSettings, HopSite, Hops, Mailbox, MemoryNet, NatsNet, Peer, Post};
use stageline_wire::Status;
use std::cell::RefCell;
use tokio::sync::watch;

/// Runs `test` as a pump runs: on a thread that sleeps on a doorbell, with a runtime for what it spawns.
pub fn on_doorbell(test: impl AsyncFnOnce(&Doorbell)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let doorbell = Doorbell::new().unwrap();
    doorbell.block_on(test(&doorbell));
}

/// Bytes that a sender may have queued.
const WINDOW: u64 = 256 << 10;

/// Hops of `me`, which sends by `hop` and can be joined, and its record.
pub async fn open(
    net: &NatsNet,
    (me, hop): (&Peer, HopKind),
    replicas: watch::Receiver<Vec<Status>>,
    doorbell: &Doorbell,
) -> (Hops, Mailbox, Status) {
    let settings = HopSettings { hop, listen: Some(([127, 0, 0, 1], 0).into()), advertise: None };
    let site = HopSite { me: me.clone(), window_bytes: WINDOW, replicas, doorbell, metrics: HopMetrics::default() };
    let (hops, mailbox) = Hops::open(net.clone(), site, &settings).await.unwrap();
    let (hop, join) = (hops.address().map(str::to_owned), Some(hops.join_hash().to_owned()));
    let record = Status { hop, join, ..status(me) };
    assert_eq!(record.manifest, DIGEST);
    (hops, mailbox, record)
}

/// A hop, with two ends that may be on two connections. Its sender is the first replica of stage 0.
pub enum Hop {
    Memory(MemoryNet),
    Nats { _server: NatsServer, a: NatsNet, b: NatsNet },
    Own(Box<Own>),
}

/// A hop beside NATS.
pub struct Own {
    doorbell: Doorbell,
    a: Hops,
    a_mailbox: RefCell<Option<Mailbox>>,
    b: NatsNet,
    /// Those that were registered at the other end.
    opened: RefCell<Vec<Hops>>,
    records: watch::Sender<Vec<Status>>,
    _server: NatsServer,
}

impl Hop {
    pub async fn all(doorbell: &Doorbell) -> Vec<Self> {
        let server = NatsServer::start().await;
        let (a, b) = (connect(&server).await, connect(&server).await);
        let mut all = vec![Self::Memory(MemoryNet::new()), Self::Nats { _server: server, a, b }];
        for hop in [HopKind::Grpc, HopKind::Shm] {
            all.push(Self::Own(Box::new(Own::new(hop, doorbell).await)));
        }
        all
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Nats { .. } => "nats",
            Self::Own(own) => own.a.hop().as_str(),
        }
    }

    pub fn a(&self) -> &dyn Post {
        match self {
            Self::Memory(net) => net,
            Self::Nats { a, .. } => a,
            Self::Own(own) => &own.a,
        }
    }

    /// The end that was registered there last.
    pub fn b(&self) -> Box<dyn Post> {
        match self {
            Self::Memory(net) => Box::new(net.clone()),
            Self::Nats { b, .. } => Box::new(b.clone()),
            Self::Own(own) => Box::new(own.opened.borrow().last().expect("one is registered").clone()),
        }
    }

    pub async fn register_a(&self, peer: Peer) -> Mailbox {
        match self {
            Self::Memory(net) => net.register(peer),
            Self::Nats { a, .. } => a.register(peer).await.unwrap(),
            Self::Own(own) => own.a_mailbox.take().expect("the sender is registered once"),
        }
    }

    pub async fn register_b(&self, peer: Peer) -> Mailbox {
        match self {
            Self::Memory(net) => net.register(peer),
            Self::Nats { b, .. } => b.register(peer).await.unwrap(),
            Self::Own(own) => own.register_b(peer).await,
        }
    }
}

impl Own {
    async fn new(hop: HopKind, doorbell: &Doorbell) -> Self {
        let server = NatsServer::start().await;
        let (records, replicas) = watch::channel(Vec::new());
        let (a, mailbox, record) = open(&connect(&server).await, (&peer(0, 1), hop), replicas, doorbell).await;
        records.send_modify(|records| records.push(record));
        let b = connect(&server).await;
        let (a_mailbox, opened) = (RefCell::new(Some(mailbox)), RefCell::default());
        Self { doorbell: doorbell.clone(), a, a_mailbox, b, opened, records, _server: server }
    }

    async fn register_b(&self, peer: Peer) -> Mailbox {
        let replicas = self.records.subscribe();
        let (hops, mailbox, record) = open(&self.b, (&peer, HopKind::Nats), replicas, &self.doorbell).await;
        self.opened.borrow_mut().push(hops);
        self.records.send_modify(|records| records.push(record));
        mailbox
    }
}
