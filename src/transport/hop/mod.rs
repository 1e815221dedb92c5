//! A stage's own way to the next: a gRPC stream or shared memory, beside NATS.
//!
//! How a stage sends to the next is its own choice, `--hop`: the mail of its links (the stream plane) goes that way and the
//! receiver's replies come back on the same stream. All other mail stays on NATS. A hop that cannot be made is never
//! replaced by another: what is posted comes back as [`super::Arrived::Unreachable`], and the log says what to do.

mod outgoing;
mod port;
mod rings;
mod secret;

use super::shm::{Geometry, Rings};
use super::{Doorbell, Mailbox, NatsNet, Peer, Post, PostError, TransportError};
use outgoing::Outgoings;
use port::Guests;
use stageline_core::{Body, Mail};
use stageline_metrics::HopMetrics;
use stageline_wire::{MAX_HEADER_BYTES, Status};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for a connection, and for the first message on it.
const PATIENCE: Duration = Duration::from_secs(2);
/// A silent peer is asked for a sign of life after this long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// How long it has to give it: together no longer than a lease, and long enough for a busy host.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What a stream, and a connection, may hold that nobody has read, in bytes: enough to keep a loopback or a fast network
/// busy.
const WINDOW_BYTES: u32 = 8 << 20;
/// Largest HTTP/2 frame, in bytes: a parcel of the usual size is one.
const FRAME_BYTES: u32 = 1 << 20;

/// How mail gets from a stage to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HopKind {
    /// Within the process.
    Memory,
    /// Through the broker.
    #[default]
    Nats,
    /// A gRPC stream to the next stage's hop port.
    Grpc,
    /// A ring in memory that both processes share; its stream carries the replies.
    Shm,
}

impl HopKind {
    /// Its name in settings, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Nats => "nats",
            Self::Grpc => "grpc",
            Self::Shm => "shm",
        }
    }
}

impl fmt::Display for HopKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a stage sends to the next, and where it can be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopSettings {
    /// How it sends.
    pub hop: HopKind,
    /// Where its own hop port listens; `None` is a free port of the loopback if its hop needs one (see
    /// [`HopSettings::port`]), else none.
    pub listen: Option<SocketAddr>,
    /// The host, or host and port, by which others reach the port; `None` is the address that it listens on, or the one by
    /// which this process reaches the broker.
    pub advertise: Option<String>,
}

impl HopSettings {
    /// Where the hop port is to listen, if there is to be one. A stage that sends by gRPC or shared memory is taken to be
    /// sent to in the same way.
    pub fn port(&self) -> Option<SocketAddr> {
        self.listen.or(match self.hop {
            HopKind::Memory | HopKind::Nats => None,
            HopKind::Grpc | HopKind::Shm => Some(([127, 0, 0, 1], 0).into()),
        })
    }
}

/// Whose hops they are.
#[derive(Debug)]
pub struct HopSite<'a> {
    /// The replica.
    pub me: Peer,
    /// Bytes of payloads that a sender may have queued here, for the size of rings.
    pub window_bytes: u64,
    /// Where the others' ports are.
    pub replicas: watch::Receiver<Vec<Status>>,
    /// What the thread sleeps on that reads the mailbox. It runs the hops' connections too.
    pub doorbell: &'a Doorbell,
    /// Where the hops count.
    pub metrics: HopMetrics,
}

/// A replica's hops: its own to the next stage, those of the stage before into it, and NATS for everything else. The last
/// clone to be dropped closes them.
#[derive(Clone)]
pub struct Hops {
    net: NatsNet,
    hop: HopKind,
    address: Option<String>,
    /// What this replica's lease record says of what it shows where it joins.
    join: String,
    guests: Arc<Guests>,
    outgoing: Arc<Outgoings>,
    metrics: HopMetrics,
    _stop: Arc<DropGuard>,
}

impl Hops {
    /// Registers a replica with the broker and opens its hop port, if it is to have one.
    ///
    /// # Errors
    /// The broker does not answer, or the port cannot be opened.
    pub async fn open(
        net: NatsNet,
        site: HopSite<'_>,
        settings: &HopSettings,
    ) -> Result<(Self, Mailbox), TransportError> {
        let HopSite { me, window_bytes, replicas, doorbell, metrics } = site;
        let (slots, mut mailbox) = net.register_slots(me.clone()).await?;
        metrics.stage_hop.is(settings.hop.as_str());
        let stop = CancellationToken::new();
        let guests = Arc::new(Guests::default());
        let secret = secret::Secret::draw().map_err(|error| TransportError::Secret { cause: error.to_string() })?;
        let join = secret.hash();
        let identity = Identity {
            me,
            secret,
            replicas,
            manifest: net.subjects().digest().to_owned(),
            most_bytes: net.max_payload_bytes() + MAX_HEADER_BYTES,
        };
        let mut address = None;
        if let Some(listen) = settings.port() {
            let (rings_end, rings) = Rings::new();
            mailbox.stream.add_rings(rings);
            let geometry = Geometry::for_window(window_bytes);
            let home = rings::Home { bell: doorbell.bell().clone(), rings: rings_end, geometry };
            let (slots, running) = (slots.clone(), (doorbell.clone(), stop.clone()));
            let port = port::Port::new(identity.clone(), guests.clone(), (slots, home), metrics.clone(), running);
            let local = port.open(listen).await?;
            address = Some(port::advertised(local, settings.advertise.as_deref(), &net).await?);
        }
        let (told, running) = ((slots.control, metrics.clone()), (doorbell.clone(), stop.clone()));
        let outgoing = Outgoings::new(identity, settings.hop, told, running);
        let hops = Self {
            net,
            hop: settings.hop,
            address,
            join,
            guests,
            outgoing: Arc::new(outgoing),
            metrics,
            _stop: Arc::new(stop.drop_guard()),
        };
        Ok((hops, mailbox))
    }

    /// How links to the next stage are sent.
    pub fn hop(&self) -> HopKind {
        self.hop
    }

    /// Where others reach the hop port, if there is one.
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// What this replica's lease record must hold for it to be let in where it joins.
    pub fn join_hash(&self) -> &str {
        &self.join
    }

    /// The connection to the broker.
    pub fn net(&self) -> &NatsNet {
        &self.net
    }

    /// What the hops other than NATS count.
    pub fn metrics(&self) -> &HopMetrics {
        &self.metrics
    }
}

impl Post for Hops {
    fn post(&self, to: &Peer, mail: Mail) -> Result<(), PostError> {
        match &mail.body {
            Body::Link(_) if self.hop != HopKind::Nats => self.outgoing.post(to, mail),
            Body::Reply(_) => match self.guests.reply(&to.replica, mail) {
                Ok(taken) => taken,
                // It sends by NATS, or its stream has just ended; a reply is never wrong, only late.
                Err(mail) => self.net.post(to, mail),
            },
            _ => self.net.post(to, mail),
        }
    }
}

/// What both ends of a stream need to know of this replica.
#[derive(Clone, Debug)]
struct Identity {
    me: Peer,
    /// What it shows where it joins.
    secret: secret::Secret,
    manifest: String,
    /// The living, and what their records say of where to join them and of what they show.
    replicas: watch::Receiver<Vec<Status>>,
    /// Largest parcel.
    most_bytes: usize,
}

impl Identity {
    /// Largest message of a stream: a parcel and what marks it as one.
    fn most_message_bytes(&self) -> usize {
        self.most_bytes + 64
    }
}
