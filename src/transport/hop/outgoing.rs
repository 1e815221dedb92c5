//! From this replica to those of the next stage: a task each, which joins the receiver's hop port and reads its replies.

use super::{ANSWER_WITHIN, HopKind, Identity, PATIENCE, SIGN_OF_LIFE, WINDOW_BYTES, rings};
use crate::shm::{Outlet, PushError};
use crate::sockets::Socket;
use crate::{Arrived, Doorbell, Peer, PostError};
use futures::FutureExt;
use futures::stream::StreamExt;
use hyper_util::rt::TokioIo;
use stageline_base::with_causes;
use stageline_core::{Body, Mail};
use stageline_metrics::HopMetrics;
use stageline_proto::join::hop_client::HopClient;
use stageline_proto::join::{FromReceiver, FromSender, JoinHello, from_receiver, from_sender};
use stageline_wire::{WIRE_VERSION, decode, encode, encode_parts};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

/// Mail that waits for a stream: while it is opened Hellos, since links send nothing else before an answer.
const QUEUE: usize = 256;
/// A hop that cannot be made is said so this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Outgoings {
    parts: Arc<Parts>,
    doorbell: Doorbell,
    stop: CancellationToken,
}

/// What the tasks share with who posts.
struct Parts {
    identity: Identity,
    hop: HopKind,
    control: mpsc::Sender<Arrived>,
    metrics: HopMetrics,
    ways: Mutex<HashMap<Peer, Way>>,
    /// When it was last said that a hop cannot be made.
    complained: Mutex<Option<Instant>>,
}

/// How far the way to a receiver is.
enum Way {
    /// Being opened; this waits.
    Opening(Vec<Mail>),
    /// A stream.
    Stream { queue: mpsc::Sender<Say>, queued_bytes: Arc<AtomicUsize> },
    /// A ring; its stream is kept open, and `broken` ends it.
    Ring { outlet: Box<Outlet>, broken: CancellationToken, _stream: mpsc::Sender<Say> },
}

/// What a stream is given to send.
enum Say {
    Parcel(Mail),
    RingRefused(String),
}

/// Why a way has ended, or was never there.
enum End {
    /// The receiver holds no lease, as far as is known.
    Absent,
    /// The hop that was asked for cannot be made.
    Impossible(String),
    /// It was there and is not, or its port does not answer.
    Lost(String),
}

impl Outgoings {
    pub(super) fn new(
        identity: Identity,
        hop: HopKind,
        (control, metrics): (mpsc::Sender<Arrived>, HopMetrics),
        (doorbell, stop): (Doorbell, CancellationToken),
    ) -> Self {
        let (ways, complained) = (Mutex::default(), Mutex::new(None));
        let parts = Parts { identity, hop, control, metrics, ways, complained };
        Self { parts: Arc::new(parts), doorbell, stop }
    }

    /// Takes a link's mail for `to`. The first opens the way.
    pub(super) fn post(&self, to: &Peer, mail: Mail) -> Result<(), PostError> {
        let payload_bytes = mail.payload_bytes();
        if payload_bytes + stageline_wire::MAX_HEADER_BYTES > self.parts.identity.most_bytes {
            return Err(PostError::TooLarge);
        }
        let mut ways = self.parts.lock();
        match ways.get_mut(to) {
            Some(way) => self.parts.send(way, mail, payload_bytes),
            None => {
                ways.insert(to.clone(), Way::Opening(vec![mail]));
                let task = self.parts.clone().serve(to.clone(), self.doorbell.clone());
                self.doorbell.spawn(self.stop.clone().run_until_cancelled_owned(task).map(drop));
                Ok(())
            }
        }
    }
}

impl Parts {
    fn send(&self, way: &mut Way, mail: Mail, payload_bytes: usize) -> Result<(), PostError> {
        match way {
            Way::Opening(waiting) if waiting.len() >= QUEUE => Err(PostError::Full),
            Way::Opening(waiting) => {
                waiting.push(mail);
                Ok(())
            }
            Way::Stream { queue, queued_bytes } => {
                // What waits is bounded in bytes too, to four of the largest parcels.
                let room = self.identity.most_bytes.saturating_mul(4);
                if queued_bytes.load(Relaxed) + payload_bytes > room {
                    return Err(PostError::Full);
                }
                match queue.try_send(Say::Parcel(mail)) {
                    Ok(()) => drop(queued_bytes.fetch_add(payload_bytes, Relaxed)),
                    Err(mpsc::error::TrySendError::Full(_)) => return Err(PostError::Full),
                    // The way has just ended, and whoever posts is about to hear of it.
                    Err(mpsc::error::TrySendError::Closed(_)) => {}
                }
                Ok(())
            }
            Way::Ring { outlet, broken, .. } => {
                let (payload, rest) = encode_parts(mail);
                match outlet.push(&payload, &rest) {
                    Ok(()) => Ok(()),
                    Err(PushError::Full) => Err(PostError::Full),
                    Err(PushError::TooLarge) => Err(PostError::TooLarge),
                    // Whoever posts is about to hear of it.
                    Err(PushError::Broken) => {
                        broken.cancel();
                        Ok(())
                    }
                }
            }
        }
    }

    /// Keeps a way to `to` for as long as it holds, then says that it does not.
    async fn serve(self: Arc<Self>, to: Peer, doorbell: Doorbell) {
        let broken = CancellationToken::new();
        let end = match self.join(&to, doorbell, &broken).await {
            Ok(replies) => tokio::select! {
                end = self.read(&to, replies) => end,
                () = broken.cancelled() => End::Lost("its end of the ring holds what it cannot have written".into()),
            },
            Err(end) => end,
        };
        // First nothing more is taken, then the link is told: what it posts afterwards opens a new way.
        self.lock().remove(&to);
        self.complain(&to, end);
        // Fails only where nobody reads any more.
        let _ = self.control.send(Arrived::Unreachable { peer: to }).await;
    }

    /// Joins `to`; what waits is on its way then.
    async fn join(
        &self,
        to: &Peer,
        doorbell: Doorbell,
        broken: &CancellationToken,
    ) -> Result<Streaming<FromReceiver>, End> {
        let address = self.address(to)?;
        let at = address.clone();
        let lost = |what: &str, cause: String| End::Lost(format!("{what} {at}: {cause}"));
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint =
            endpoint.map_err(|e| End::Impossible(format!("its hop port's address {address} is none: {e}")))?;
        let connecting = endpoint
            .executor(doorbell.clone())
            .connect_timeout(PATIENCE)
            .http2_keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(ANSWER_WITHIN)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let connect =
            connecting.connect_with_connector(tower::service_fn(move |_| connect(address.clone(), doorbell.clone())));
        let channel = connect.await.map_err(|e| lost("no connection to", with_causes(&e)))?;
        let most = self.identity.most_message_bytes();
        let mut client = HopClient::new(channel).max_decoding_message_size(most).max_encoding_message_size(most);

        let (queue, mail) = mpsc::channel(QUEUE);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let left = queued_bytes.clone();
        let hello = futures::stream::iter([FromSender { what: Some(from_sender::What::Hello(self.hello(to))) }]);
        let parcels = ReceiverStream::new(mail).map(move |say| {
            let what = match say {
                Say::Parcel(mail) => {
                    left.fetch_sub(mail.payload_bytes(), Relaxed);
                    from_sender::What::Parcel(encode(mail).bytes)
                }
                Say::RingRefused(why) => from_sender::What::RingRefused(why),
            };
            FromSender { what: Some(what) }
        });
        let no_answer = |_| lost("no answer from", format!("it had {} s", PATIENCE.as_secs()));
        let joined = timeout(PATIENCE, client.join(hello.chain(parcels))).await.map_err(no_answer)?;
        let mut replies = joined.map_err(refused)?.into_inner();
        let first = timeout(PATIENCE, replies.message()).await.map_err(no_answer)?.map_err(refused)?;
        let Some(FromReceiver { what: Some(from_receiver::What::Welcome(welcome)) }) = first else {
            return Err(lost("no welcome from", "it sent something else".into()));
        };
        if self.hop != HopKind::Shm {
            self.open(to, Way::Stream { queue, queued_bytes });
            return Ok(replies);
        }
        match rings::open(welcome.ring) {
            Ok(outlet) => {
                let way = Way::Ring { outlet: Box::new(outlet), broken: broken.clone(), _stream: queue };
                self.open(to, way);
                Ok(replies)
            }
            Err(why) => {
                // The receiver ends the stream when it has heard; where it cannot hear, its own end of it will break.
                let _ = queue.send(Say::RingRefused(why.clone())).await;
                let _ = timeout(PATIENCE, replies.message()).await;
                Err(End::Impossible(why))
            }
        }
    }

    /// Where `to` can be joined.
    fn address(&self, to: &Peer) -> Result<String, End> {
        let replicas = self.identity.replicas.borrow();
        let record = replicas.iter().find(|record| record.replica == to.replica && record.stage == to.stage);
        let port = record.ok_or(End::Absent)?.hop.clone();
        port.ok_or_else(|| {
            End::Impossible(format!(
                "it has no hop port: start stage {} with --hop-listen ADDR (or a --hop of its own), or this stage with \
                 --hop nats",
                to.stage
            ))
        })
    }

    fn hello(&self, to: &Peer) -> JoinHello {
        let Identity { me, secret, manifest, .. } = &self.identity;
        JoinHello {
            wire_version: WIRE_VERSION,
            manifest: manifest.clone(),
            from: me.replica.to_string(),
            from_stage: me.stage.into(),
            to: to.replica.to_string(),
            shm: self.hop == HopKind::Shm,
            secret: secret.shown().into(),
        }
    }

    /// From now on mail goes `way`; first what waits.
    fn open(&self, to: &Peer, mut way: Way) {
        let mut ways = self.lock();
        self.metrics.hops_opened.inc();
        if let Some(Way::Opening(waiting)) = ways.remove(to) {
            for mail in waiting {
                let payload_bytes = mail.payload_bytes();
                // What does not fit is lost, and the link finds the hole.
                let _ = self.send(&mut way, mail, payload_bytes);
            }
        }
        ways.insert(to.clone(), way);
        let from = &self.identity.me;
        tracing::info!(stage = from.stage, from = %from.replica, to = %to.replica, hop = %self.hop, "the hop to the next stage is up");
    }

    /// Passes replies on until the stream ends.
    async fn read(&self, to: &Peer, mut replies: Streaming<FromReceiver>) -> End {
        loop {
            let parcel = match replies.message().await {
                Ok(Some(FromReceiver { what: Some(from_receiver::What::Parcel(parcel)) })) => parcel,
                Ok(Some(_)) => {
                    self.metrics.hop_refused.inc();
                    continue;
                }
                Ok(None) => return End::Lost("the stream has ended".into()),
                Err(status) => return End::Lost(format!("the stream has broken off: {}", status.message())),
            };
            match decode(parcel) {
                Ok(mail)
                    if (mail.stage, &mail.from) == (to.stage, &to.replica) && matches!(mail.body, Body::Reply(_)) =>
                {
                    self.metrics.hop_received.inc();
                    if self.control.send(Arrived::Mail(mail)).await.is_err() {
                        return End::Absent;
                    }
                }
                _ => {
                    self.metrics.hop_refused.inc();
                }
            }
        }
    }

    /// Says what became of a way. What was asked for and cannot be is an error, but not a line each try.
    fn complain(&self, to: &Peer, end: End) {
        let (me, stage, hop) = (&self.identity.me.replica, self.identity.me.stage, self.hop);
        match end {
            End::Absent => tracing::debug!(stage, from = %me, to = %to.replica, "nobody is there under this id"),
            End::Lost(why) => {
                tracing::warn!(stage, from = %me, to = %to.replica, %hop, %why, "the hop to the next stage is lost");
            }
            End::Impossible(why) => {
                self.metrics.hops_impossible.inc();
                let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
                if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    *complained = Some(Instant::now());
                    tracing::error!(
                        stage, from = %me, to = %to.replica, %hop, %why,
                        "the hop to the next stage cannot be made, and no other is taken in its place"
                    );
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, Way>> {
        // Nothing under this lock can leave the table half changed, so a panic elsewhere does not spoil it.
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to `address`, of the pump's thread.
async fn connect(address: String, doorbell: Doorbell) -> std::io::Result<TokioIo<Socket>> {
    let stream = TcpStream::connect(address).await?;
    // Without it a small parcel may wait for an acknowledgement.
    stream.set_nodelay(true)?;
    doorbell.socket(stream).map(TokioIo::new)
}

/// The receiver's refusal, and whether another try could go better.
fn refused(status: Status) -> End {
    use tonic::Code::{FailedPrecondition, InvalidArgument, ResourceExhausted, Unimplemented};
    let words = format!("it refuses us: {}", status.message());
    match status.code() {
        FailedPrecondition | InvalidArgument | ResourceExhausted | Unimplemented => End::Impossible(words),
        _ => End::Lost(words),
    }
}
