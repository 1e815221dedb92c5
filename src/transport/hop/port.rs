//! The hop port: where replicas of the stage before join.

use super::rings::{Home, Stay};
use super::secret;
use super::{ANSWER_WITHIN, FRAME_BYTES, HopKind, Identity, PATIENCE, SIGN_OF_LIFE, WINDOW_BYTES};
use crate::{Arrived, Doorbell, NatsNet, PostError, Slots, TransportError};
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{Stream, StreamExt};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use stageline_base::ReplicaId;
use stageline_core::{Body, Mail};
use stageline_metrics::HopMetrics;
use stageline_proto::join::hop_server::{Hop, HopServer};
use stageline_proto::join::{FromReceiver, FromSender, JoinHello, JoinWelcome, Ring, from_receiver, from_sender};
use stageline_wire::{WIRE_VERSION, decode, encode};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Most senders that have joined at once: far more than a stage has replicas.
const MAX_GUESTS: usize = 256;
/// Most connections at once; one that is over waits to be accepted.
const MAX_CONNECTIONS: usize = 2 * MAX_GUESTS;
/// Of these, how many may come from one address.
const MAX_OF_ADDRESS: usize = MAX_CONNECTIONS / 2;
/// Replies that wait for a stream. Each is cumulative, so a lost one is made up for by the next.
const REPLIES: usize = 256;
/// Pause after a connection that could not be accepted, as when there are no more file descriptors.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Who has joined.
#[derive(Default)]
pub(super) struct Guests {
    table: Mutex<HashMap<ReplicaId, Guest>>,
}

struct Guest {
    replies: mpsc::Sender<Mail>,
    /// Ends the reading of its stream.
    end: CancellationToken,
}

impl Guests {
    /// Takes a reply to `to` if it has joined, else gives it back.
    pub(super) fn reply(&self, to: &ReplicaId, mail: Mail) -> Result<Result<(), PostError>, Mail> {
        let table = self.lock();
        let Some(guest) = table.get(to) else { return Err(mail) };
        match guest.replies.try_send(mail) {
            Ok(()) => Ok(Ok(())),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(Err(PostError::Full)),
            Err(mpsc::error::TrySendError::Closed(mail)) => Err(mail),
        }
    }

    /// Lets `from` in; a stream that it had before ends. `None` if the house is full.
    fn enter(self: &Arc<Self>, from: ReplicaId) -> Option<(Seat, mpsc::Receiver<Mail>)> {
        let mut table = self.lock();
        if table.len() >= MAX_GUESTS && !table.contains_key(&from) {
            return None;
        }
        let (replies, waiting) = mpsc::channel(REPLIES);
        let end = CancellationToken::new();
        let seat = Seat { guests: self.clone(), from: from.clone(), end: end.clone() };
        if let Some(before) = table.insert(from, Guest { replies, end }) {
            before.end.cancel();
        }
        Some((seat, waiting))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ReplicaId, Guest>> {
        // Nothing under this lock can leave the table half changed, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest's seat; dropped, it is free, and its stream ends.
pub(super) struct Seat {
    guests: Arc<Guests>,
    from: ReplicaId,
    end: CancellationToken,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Cancelled, somebody else has it already.
        let mut table = self.guests.lock();
        if !self.end.is_cancelled() {
            table.remove(&self.from);
        }
    }
}

/// The service.
#[derive(Clone)]
pub(super) struct Port {
    identity: Identity,
    guests: Arc<Guests>,
    slots: Slots,
    /// Of rings.
    home: Home,
    metrics: HopMetrics,
    doorbell: Doorbell,
    stop: CancellationToken,
    /// Cancelled when somebody has joined by this connection.
    joined: CancellationToken,
}

impl Port {
    pub(super) fn new(
        identity: Identity,
        guests: Arc<Guests>,
        (slots, home): (Slots, Home),
        metrics: HopMetrics,
        (doorbell, stop): (Doorbell, CancellationToken),
    ) -> Self {
        Self { identity, guests, slots, home, metrics, doorbell, stop, joined: CancellationToken::new() }
    }

    /// Listens until it is told to stop. Says where.
    pub(super) async fn open(self, listen: SocketAddr) -> Result<SocketAddr, TransportError> {
        let failed = |error: std::io::Error| TransportError::HopPort { listen, cause: error.to_string() };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let (doorbell, stop) = (self.doorbell.clone(), self.stop.clone());
        let accepting = accept(listener, self, (doorbell, stop.clone()));
        tokio::spawn(stop.run_until_cancelled_owned(accepting));
        Ok(local)
    }

    /// Whether the sender of `hello` may join; who it is.
    fn judge(&self, hello: &JoinHello) -> Result<ReplicaId, Status> {
        let Identity { me, manifest, replicas, .. } = &self.identity;
        if hello.wire_version != WIRE_VERSION || hello.manifest != *manifest {
            return Err(Status::failed_precondition(
                "another wire version or manifest is served here: start all stages from the same build and pipeline",
            ));
        }
        if hello.to != me.replica.as_str() || hello.from_stage.checked_add(1) != Some(u32::from(me.stage)) {
            return Err(Status::not_found(format!("this is {}, which serves stage {}", me.replica, me.stage)));
        }
        let from = ReplicaId::parse(&hello.from);
        let from = from.ok_or_else(|| Status::invalid_argument("the sender's id is not a replica id"))?;
        let replicas = replicas.borrow();
        let record =
            replicas.iter().find(|record| record.replica == from && u32::from(record.stage) == hello.from_stage);
        // It may have begun a moment ago: it tries again.
        let record = record.ok_or_else(|| Status::unavailable("the sender's lease has not been seen here"))?;
        match record.join.as_deref().is_some_and(|hash| secret::is_right(&hello.secret, hash)) {
            true => Ok(from),
            false => Err(Status::unauthenticated("what the sender shows is not what its lease record says")),
        }
    }

    /// A ring for mail of `from`.
    fn ring(&self, from: &ReplicaId) -> Result<(Ring, Stay), Status> {
        let ring = self.home.ring(from, self.identity.most_bytes, self.metrics.clone());
        ring.map_err(|why| Status::resource_exhausted(format!("no ring can be made: {why}")))
    }

    /// Passes parcels on until the stream, the mailbox or the seat ends.
    async fn read(self, mut inbound: Streaming<FromSender>, seat: Seat, stay: Option<Stay>) {
        let broken = stay.as_ref().map(|stay| stay.broken.clone()).unwrap_or_default();
        loop {
            let message = tokio::select! {
                // First that there is nobody to read for.
                biased;
                () = self.stop.cancelled() => return,
                () = seat.end.cancelled() => return,
                () = broken.cancelled() => return,
                () = self.slots.stream.closed() => return,
                message = inbound.message() => message,
            };
            let parcel = match message {
                Ok(Some(FromSender { what: Some(from_sender::What::Parcel(parcel)) })) if stay.is_none() => parcel,
                Ok(Some(FromSender { what: Some(from_sender::What::RingRefused(why)) })) => {
                    self.metrics.hop_refused.inc();
                    tracing::error!(from = %seat.from, why = brief(&why), "a sender cannot use the ring made for it");
                    return;
                }
                Ok(Some(_)) => {
                    self.refuse::<()>(&"it is no parcel");
                    continue;
                }
                Ok(None) => break,
                Err(status) => {
                    tracing::debug!(from = %seat.from, %status, "a hop has broken off");
                    break;
                }
            };
            let Some(mail) = self.take(parcel, &seat.from) else { continue };
            // While the mailbox is full nothing is read, and the sender's window closes.
            tokio::select! {
                sent = self.slots.stream.send(Arrived::Mail(mail)) => if sent.is_err() { return },
                () = seat.end.cancelled() => return,
                () = self.stop.cancelled() => return,
            }
        }
        tracing::info!(from = %seat.from, to = %self.identity.me.replica, "a hop into this stage has ended");
    }

    fn take(&self, parcel: Bytes, from: &ReplicaId) -> Option<Mail> {
        match decode(parcel) {
            Ok(mail)
                if mail.from == *from
                    && mail.stage + 1 == self.identity.me.stage
                    && matches!(mail.body, Body::Link(_)) =>
            {
                self.metrics.hop_received.inc();
                Some(mail)
            }
            Ok(_) => self.refuse(&"it is not its sender's, or not of the stream plane"),
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse<T>(&self, why: &dyn std::fmt::Display) -> Option<T> {
        self.metrics.hop_refused.inc();
        tracing::debug!(%why, "a parcel is refused");
        None
    }
}

#[tonic::async_trait]
impl Hop for Port {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<FromReceiver, Status>> + Send>>;

    async fn join(&self, request: Request<Streaming<FromSender>>) -> Result<Response<Self::JoinStream>, Status> {
        let mut inbound = request.into_inner();
        let first = timeout(PATIENCE, inbound.message()).await;
        let first = first.map_err(|_| Status::invalid_argument("no hello came"))??;
        let Some(FromSender { what: Some(from_sender::What::Hello(hello)) }) = first else {
            self.metrics.hop_refused.inc();
            return Err(Status::invalid_argument("the first message is no hello"));
        };
        let refused = |_: &Status| {
            self.metrics.hop_refused.inc();
        };
        let from = self.judge(&hello).inspect_err(refused)?;
        let Some((seat, waiting)) = self.guests.enter(from.clone()) else {
            self.metrics.hop_refused.inc();
            return Err(Status::resource_exhausted(format!("{MAX_GUESTS} senders have joined already")));
        };
        let (ring, stay) = if hello.shm {
            self.ring(&from).map(|(ring, stay)| (Some(ring), Some(stay))).inspect_err(refused)?
        } else {
            (None, None)
        };
        self.joined.cancel();
        let hop = if hello.shm { HopKind::Shm } else { HopKind::Grpc };
        tracing::info!(%from, to = %self.identity.me.replica, %hop, "a hop into this stage is up");
        self.doorbell.spawn(self.clone().read(inbound, seat, stay));
        let say = |what| Ok(FromReceiver { what: Some(what) });
        let welcome = say(from_receiver::What::Welcome(JoinWelcome { ring }));
        let replies = ReceiverStream::new(waiting);
        let replies = replies.map(move |mail| say(from_receiver::What::Parcel(encode(mail).bytes)));
        Ok(Response::new(Box::pin(futures::stream::iter([welcome]).chain(replies))))
    }
}

/// The beginning of words that came from outside, for the log.
fn brief(words: &str) -> String {
    words.chars().take(400).collect()
}

/// Takes connections, a bounded number at once, and has each served on the pump's thread.
async fn accept(listener: TcpListener, port: Port, (doorbell, stop): (Doorbell, CancellationToken)) {
    let addresses = Addresses::default();
    let most = port.identity.most_message_bytes();
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(seat) = seats.clone().acquire_owned().await {
        let (stream, place) = loop {
            match listener.accept().await {
                Ok((stream, from)) => match addresses.enter(from.ip()) {
                    Some(place) => break (stream, place),
                    None => {
                        port.metrics.hop_refused.inc();
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "the hop port cannot accept a connection");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        };
        // Without it a small parcel may wait for an acknowledgement; where it cannot be set, it does.
        let _ = stream.set_nodelay(true);
        let mut http = http2::Builder::new(doorbell.clone());
        http.timer(TokioTimer::new())
            .keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(ANSWER_WITHIN)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(16)
            .max_header_list_size(16 << 10);
        let socket = match doorbell.socket(stream) {
            Ok(socket) => TokioIo::new(socket),
            Err(error) => {
                tracing::warn!(%error, "a connection to the hop port cannot be watched");
                continue;
            }
        };
        let joined = CancellationToken::new();
        let service = HopServer::new(Port { joined: joined.clone(), ..port.clone() });
        let service = service.max_decoding_message_size(most).max_encoding_message_size(most);
        let served = http.serve_connection(socket, TowerToHyperService::new(service));
        let served = async move {
            let lonely = async {
                if timeout(PATIENCE * 2, joined.cancelled()).await.is_ok() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ended = served => ended,
                // Whoever does not join keeps no place of those who would.
                () = lonely => Ok(()),
            }
        };
        doorbell.spawn(stop.clone().run_until_cancelled_owned(served).map(move |ended| {
            drop(place);
            if let Some(Err(error)) = ended {
                tracing::debug!(%error, "a connection to the hop port has ended");
            }
            drop(seat);
        }));
    }
}

/// Connections by the address that they come from.
#[derive(Clone, Default)]
struct Addresses {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection; dropped, it is not counted any more.
struct AddressPlace {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    /// Counts a connection, unless there are too many of that address.
    fn enter(&self, address: IpAddr) -> Option<AddressPlace> {
        let mut open = self.lock();
        let count = open.entry(address).or_default();
        if *count >= MAX_OF_ADDRESS {
            return None;
        }
        *count += 1;
        Some(AddressPlace { addresses: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing under this lock can leave the table half changed, so a panic elsewhere does not spoil it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut open = self.addresses.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// The address that the lease tells others.
pub(super) async fn advertised(local: SocketAddr, told: Option<&str>, net: &NatsNet) -> Result<String, TransportError> {
    let failed = |error: std::io::Error| TransportError::HopPort { listen: local, cause: error.to_string() };
    match told {
        Some(whole) if whole.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => Ok(whole.into()),
        Some(host) => Ok(format!("{host}:{}", local.port())),
        None if !local.ip().is_unspecified() => Ok(local.to_string()),
        None => {
            let own: IpAddr = net.local_address().await.map_err(failed)?;
            Ok(SocketAddr::new(own, local.port()).to_string())
        }
    }
}
