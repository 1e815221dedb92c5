//! Hops between processes, over core NATS.
//!
//! One connection a process. A task writes what is posted, control first; three tasks a replica, one each plane, read what
//! arrives, so that a full stream never holds an ack up; one task hears of what found nobody.
//!
//! Copies of a payload. Going out: none, from the executor's buffer to the socket; the library hands 4 KiB or more to
//! writev as it is. Coming in, measured at 2 KB to 1 MB: the library reads into one growing buffer and cuts messages out of
//! it, so nothing is copied while the receiver lets go of one message before the next comes, and else what was there when
//! the buffer grew, 0.0 to 0.7 of the payload.

mod credentials;
mod read;
mod routes;
mod write;

use super::{Mailbox, Peer, Plane, Post, PostError, Slots, TransportError};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use routes::Routes;
use stageline_base::Element;
use stageline_core::Mail;
use stageline_metrics::BrokerMetrics;
use stageline_wire::{Assembler, MAX_HEADER_BYTES, Subjects};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use write::{Letter, Order, Queues};

/// Messages that wait for each subscription's task; what comes beyond them is dropped by the library. The library takes
/// everything out of the socket before any other task of its thread runs, so this must hold whatever the senders' credit
/// windows let them send at once; the windows bound it in bytes. Its default is 65,536.
const SUBSCRIPTION_CAPACITY: usize = 4096;
/// Messages between the writer and the socket. Small, since what is in there can no longer be overtaken by an ack.
const CLIENT_CAPACITY: usize = 8;
/// Mail that waits for the writer, each plane.
const QUEUE_CAPACITY: usize = 1024;
/// Errors of the broker that wait for whoever listens.
const ERRORS_CAPACITY: usize = 64;
/// Longest wait for a connection or for an answer of the server.
const PATIENCE: Duration = Duration::from_secs(5);

/// What inboxes of stages begin with. Those of clients begin with `_INBOX`, as libraries have it.
pub const INBOX_PREFIX: &str = "_STAGELINE";

/// Between two tries to connect for the first time.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// One or more server URLs, separated by commas; may hold user and password or a token.
    pub url: String,
    /// A `.creds` file, if the server wants one.
    pub credentials: Option<PathBuf>,
    /// A user, and the file with its password; they go before what the URL says.
    pub user: Option<(String, PathBuf)>,
    /// What the names of this connection's inboxes begin with: a prefix of its own, so that permissions can keep others from
    /// listening there.
    pub inbox_prefix: String,
    /// The pipeline's subjects.
    pub subjects: Subjects,
    /// Largest payload that is sent or taken, in bytes: the activations of the largest batch.
    pub max_payload_bytes: usize,
    /// What numbers that cross between stages are. A replica whose lease record says another type is none of this pipeline.
    pub wire_dtype: Element,
    /// Where the connection counts.
    pub metrics: BrokerMetrics,
}

impl NatsSettings {
    /// Payloads of at most 64 MiB: 8,192 rows of 2,048 columns.
    pub const DEFAULT_PAYLOAD_BYTES: usize = 64 << 20;

    /// Settings with every default; what is counted is on no page.
    pub fn new(url: impl Into<String>, subjects: Subjects) -> Self {
        Self {
            url: url.into(),
            credentials: None,
            user: None,
            inbox_prefix: INBOX_PREFIX.to_owned(),
            subjects,
            max_payload_bytes: Self::DEFAULT_PAYLOAD_BYTES,
            wire_dtype: Element::F32,
            metrics: BrokerMetrics::default(),
        }
    }
}

/// Connects somebody who is no stage to the server at `url`, which may hold user and password or a token; `file` is a `.creds`
/// file, and `user` somebody whose password is in a file.
///
/// # Errors
/// No server answers, it refuses us, or what was given cannot be used.
pub async fn connect_client(
    name: &str,
    url: &str,
    file: Option<&Path>,
    user: Option<&(String, PathBuf)>,
) -> Result<Client, TransportError> {
    let place = credentials::without(url);
    let servers: Result<Vec<ServerAddr>, _> = url.split(',').map(|url| url.trim().parse()).collect();
    let servers = servers.map_err(|error| TransportError::Url { url: place.clone(), cause: error.to_string() })?;
    let shown = credentials::Shown { user, file };
    let options = credentials::add(ConnectOptions::new().name(name), &servers, shown).await?;
    options.connect(servers).await.map_err(|error| not_connected(place, &error))
}

fn not_connected(url: String, error: &async_nats::ConnectError) -> TransportError {
    let cause = error.to_string();
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            TransportError::Refused { url, cause }
        }
        _ => TransportError::Connect { url, cause },
    }
}

/// How the broker stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broker {
    /// Whether it is connected.
    pub(super) up: bool,
    /// How often it was lost and found again.
    pub(super) reconnects: u64,
}

/// A connection to the broker. Clones share it; the last one to be dropped ends its tasks.
#[derive(Clone)]
pub struct NatsNet {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    settings: NatsSettings,
    /// The broker's URL without credentials, for messages.
    place: String,
    broker: watch::Receiver<Broker>,
    errors: broadcast::Sender<String>,
    routes: Arc<Routes>,
    queues: Queues,
    queued_bytes: Arc<AtomicUsize>,
    stop: CancellationToken,
    _stop_at_drop: DropGuard,
}

impl NatsNet {
    /// Connects as soon as a server answers, at the latest `patience` from now: it may be starting at the same time.
    ///
    /// # Errors
    /// As [`NatsNet::connect`]; only that no server answers is worth another try.
    pub async fn connect_within(settings: NatsSettings, patience: Duration) -> Result<Self, TransportError> {
        let give_up = tokio::time::Instant::now() + patience;
        let mut told = false;
        loop {
            match Self::connect(settings.clone()).await {
                Err(error @ TransportError::Connect { .. }) if tokio::time::Instant::now() < give_up => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "trying again for {} s", patience.as_secs());
                    }
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Connects, and keeps connected from then on.
    ///
    /// # Errors
    /// No server answers, it refuses us, or the settings are no settings: the error says which and what to do.
    pub async fn connect(settings: NatsSettings) -> Result<Self, TransportError> {
        let place = credentials::without(&settings.url);
        let servers: Result<Vec<ServerAddr>, _> = settings.url.split(',').map(|url| url.trim().parse()).collect();
        let servers = servers.map_err(|error| TransportError::Url { url: place.clone(), cause: error.to_string() })?;
        let (broker_end, broker) = watch::channel(Broker { up: true, reconnects: 0 });
        let metrics = settings.metrics.clone();
        let errors = broadcast::Sender::new(ERRORS_CAPACITY);
        let options = options(broker_end, metrics.clone(), errors.clone()).custom_inbox_prefix(&settings.inbox_prefix);
        let shown = credentials::Shown { user: settings.user.as_ref(), file: settings.credentials.as_deref() };
        let options = credentials::add(options, &servers, shown).await?;
        let client = options.connect(servers).await.map_err(|error| not_connected(place.clone(), &error))?;

        let routes = Arc::new(Routes::new(settings.subjects.clone(), client.new_inbox()));
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let (queues, writer) = write::queues(QUEUE_CAPACITY);
        let shared = Shared {
            client: client.clone(),
            place,
            broker,
            errors,
            routes: routes.clone(),
            queues,
            queued_bytes: queued_bytes.clone(),
            _stop_at_drop: stop.clone().drop_guard(),
            stop: stop.clone(),
            settings,
        };
        let net = Self { shared: Arc::new(shared) };
        let replies = net.subscribe(routes.replies()).await?;
        tokio::spawn(stop.clone().run_until_cancelled_owned(read::unreachables(replies, routes, metrics.clone())));
        tokio::spawn(stop.run_until_cancelled_owned(writer.run(client, queued_bytes, metrics)));
        Ok(net)
    }

    /// Adds `peer` to this process. On return the broker knows its subjects.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn register(&self, peer: Peer) -> Result<Mailbox, TransportError> {
        Ok(self.register_slots(peer).await?.1)
    }

    /// The same, with the other ends of the mailbox, for hops that also fill it.
    pub(super) async fn register_slots(&self, peer: Peer) -> Result<(Slots, Mailbox), TransportError> {
        let Shared { settings, routes, broker, stop, .. } = &*self.shared;
        let (slots, mailbox) = Slots::new();
        for plane in Plane::ALL {
            let subject = settings.subjects.all_of((peer.stage, &peer.replica), plane);
            let reader = read::Reader {
                messages: self.subscribe(subject).await?,
                mailbox: slots.of(plane).clone(),
                assembler: Assembler::new(settings.max_payload_bytes + MAX_HEADER_BYTES),
                metrics: settings.metrics.clone(),
                plane,
            };
            let news = (plane == Plane::Control).then(|| read::News::new(broker.clone()));
            tokio::spawn(stop.clone().run_until_cancelled_owned(reader.run(news)));
        }
        self.round_trip().await?;
        routes.add_local(peer.replica, slots.control.clone());
        Ok((slots, mailbox))
    }

    /// Waits until the broker has everything that was posted before: a process that ends without it loses what waits.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn flush(&self) -> Result<(), TransportError> {
        if !self.shared.broker.borrow().up {
            return Err(self.broker_error("take what was posted", "the connection is lost"));
        }
        let told = Plane::ALL.map(async |plane| {
            let (tell, told) = oneshot::channel();
            // Both fail only where the writer has ended, and then the round trip fails too.
            let _ = self.shared.queues.of(plane).send(Order::Tell(tell)).await;
            let _ = told.await;
        });
        let all = tokio::time::timeout(PATIENCE, futures::future::join_all(told)).await;
        all.map_err(|_| self.broker_error("take what was posted", format!("it had {} s", PATIENCE.as_secs())))?;
        self.round_trip().await
    }

    /// What this connection counts.
    pub fn metrics(&self) -> &BrokerMetrics {
        &self.shared.settings.metrics
    }

    /// The broker's URL, without credentials.
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// The library's client, for what is no hop.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// What numbers that cross between stages are.
    pub(crate) fn wire_dtype(&self) -> Element {
        self.shared.settings.wire_dtype
    }

    /// The pipeline's subjects.
    pub fn subjects(&self) -> &Subjects {
        &self.shared.settings.subjects
    }

    /// Largest payload that is sent or taken.
    pub(super) fn max_payload_bytes(&self) -> usize {
        self.shared.settings.max_payload_bytes
    }

    /// The address of this host by which it reaches the broker: others that use the broker are likely to reach it there.
    pub(super) async fn local_address(&self) -> std::io::Result<std::net::IpAddr> {
        let first = self.shared.settings.url.split(',').next().unwrap_or_default();
        let server: ServerAddr = first.trim().parse().map_err(std::io::Error::other)?;
        // Nothing is sent: a connected UDP socket only has the system choose a route.
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect((server.host(), server.port())).await?;
        Ok(socket.local_addr()?.ip())
    }

    /// What the broker says is wrong from now on, in its words: it does not say so to the subscription that it means.
    pub fn errors(&self) -> broadcast::Receiver<String> {
        self.shared.errors.subscribe()
    }

    pub(super) fn broker(&self) -> watch::Receiver<Broker> {
        self.shared.broker.clone()
    }

    pub(super) fn broker_error(&self, what: &'static str, cause: impl ToString) -> TransportError {
        TransportError::Broker { url: self.shared.place.clone(), what, cause: cause.to_string() }
    }

    async fn subscribe(&self, subject: String) -> Result<async_nats::Subscriber, TransportError> {
        self.client().subscribe(subject).await.map_err(|error| self.broker_error("take a subscription", error))
    }

    /// Waits until the server has done what it was sent: it works a connection's commands off in order. (The library's
    /// flush only waits for the socket.)
    async fn round_trip(&self) -> Result<(), TransportError> {
        let inbox = self.client().new_inbox();
        let mut echo = self.subscribe(inbox.clone()).await?;
        let sent = self.client().publish(inbox, bytes::Bytes::new()).await;
        sent.map_err(|error| self.broker_error("take a message", error))?;
        match tokio::time::timeout(PATIENCE, futures::StreamExt::next(&mut echo)).await {
            Ok(Some(_)) => Ok(()),
            _ => Err(self.broker_error("answer", format!("no echo within {} s", PATIENCE.as_secs()))),
        }
    }
}

impl Post for NatsNet {
    fn post(&self, to: &Peer, mail: Mail) -> Result<(), PostError> {
        let Shared { routes, queues, queued_bytes, settings, .. } = &*self.shared;
        let payload_bytes = mail.payload_bytes();
        if payload_bytes > settings.max_payload_bytes {
            return Err(PostError::TooLarge);
        }
        // What waits for the writer is bounded in bytes too, to four of the largest payloads.
        let room = settings.max_payload_bytes.saturating_mul(4);
        if queued_bytes.fetch_add(payload_bytes, Relaxed) + payload_bytes > room {
            queued_bytes.fetch_sub(payload_bytes, Relaxed);
            return Err(PostError::Full);
        }
        let plane = Plane::of(&mail.body);
        let route = routes.to((mail.stage, &mail.from), to);
        let order = Order::Send(Letter { route, plane, payload_bytes, mail });
        queues.of(plane).try_send(order).map_err(|error| {
            queued_bytes.fetch_sub(payload_bytes, Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => PostError::Full,
                mpsc::error::TrySendError::Closed(_) => PostError::Closed,
            }
        })
    }
}

/// Every buffer of the library set by hand, and its events turned into the broker's state.
fn options(broker: watch::Sender<Broker>, metrics: BrokerMetrics, errors: broadcast::Sender<String>) -> ConnectOptions {
    let on_event = move |event| match event {
        Event::Disconnected => {
            tracing::warn!("lost the connection to NATS");
            broker.send_modify(|broker| broker.up = false);
        }
        Event::Connected => {
            broker.send_if_modified(|broker| {
                let again = !broker.up;
                *broker = Broker { up: true, reconnects: broker.reconnects + u64::from(again) };
                again
            });
        }
        Event::SlowConsumer(_) => {
            metrics.nats_dropped.inc();
        }
        Event::ServerError(error) => {
            tracing::warn!(%error, "NATS reports an error");
            // Nobody may be listening.
            let _ = errors.send(error.to_string());
        }
        _ => {}
    };
    ConnectOptions::new()
        .name("stageline")
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(CLIENT_CAPACITY)
        .connection_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE))
        // A dead peer that sends no reset is found within three pings.
        .ping_interval(Duration::from_secs(5))
        .reconnect_delay_callback(|attempts| match attempts {
            0 | 1 => Duration::ZERO,
            attempts => Duration::from_millis(1000.min(10 << attempts.min(7))),
        })
        .event_callback(move |event| {
            on_event(event);
            std::future::ready(())
        })
}
