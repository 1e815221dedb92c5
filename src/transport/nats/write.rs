//! From the queues to the broker.

use super::routes::Route;
use async_nats::{Client, HeaderMap, PublishError};
use stageline_core::Mail;
use stageline_metrics::BrokerMetrics;
use stageline_wire::{Fragment, Fragments, Plane, encode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::{mpsc, oneshot};

/// Mail on its way to the writer.
pub(super) struct Letter {
    pub(super) route: Arc<Route>,
    pub(super) plane: Plane,
    pub(super) payload_bytes: usize,
    pub(super) mail: Mail,
}

/// What the writer is asked.
pub(super) enum Order {
    /// To send this.
    Send(Letter),
    /// To say when everything that was asked before, in the same queue, is with the library.
    Tell(oneshot::Sender<()>),
}

/// The writer's queues, one each plane.
pub(super) struct Queues {
    control: mpsc::Sender<Order>,
    feedback: mpsc::Sender<Order>,
    stream: mpsc::Sender<Order>,
}

impl Queues {
    pub(super) fn of(&self, plane: Plane) -> &mpsc::Sender<Order> {
        match plane {
            Plane::Control => &self.control,
            Plane::Feedback => &self.feedback,
            Plane::Stream => &self.stream,
        }
    }
}

/// The other ends of the queues.
pub(super) struct Writer {
    control: mpsc::Receiver<Order>,
    feedback: mpsc::Receiver<Order>,
    stream: mpsc::Receiver<Order>,
}

/// Queues of `capacity` orders each.
pub(super) fn queues(capacity: usize) -> (Queues, Writer) {
    let (control, control_end) = mpsc::channel(capacity);
    let (feedback, feedback_end) = mpsc::channel(capacity);
    let (stream, stream_end) = mpsc::channel(capacity);
    (Queues { control, feedback, stream }, Writer { control: control_end, feedback: feedback_end, stream: stream_end })
}

/// What is left of a parcel that is being sent in fragments.
struct Rest {
    route: Arc<Route>,
    plane: Plane,
    fragments: Fragments,
}

/// The writer's side of a connection.
struct Outlet {
    client: Client,
    metrics: BrokerMetrics,
    queued_bytes: Arc<AtomicUsize>,
    /// Parcels cut so far.
    cut: u64,
}

impl Writer {
    /// Sends until the queues close. A parcel in fragments lets acks and feedback pass between two of them.
    pub(super) async fn run(mut self, client: Client, queued_bytes: Arc<AtomicUsize>, metrics: BrokerMetrics) {
        let mut outlet = Outlet { client, metrics, queued_bytes, cut: 0 };
        let mut rest: Option<Rest> = None;
        loop {
            let urgent = match self.control.try_recv() {
                Ok(order) => Some(order),
                Err(_) => self.feedback.try_recv().ok(),
            };
            let order = match (urgent, &mut rest) {
                (Some(order), _) => order,
                (None, Some(parcel)) => {
                    match parcel.fragments.next() {
                        Some(fragment) => outlet.publish_piece(&parcel.route, parcel.plane, fragment).await,
                        None => rest = None,
                    }
                    continue;
                }
                (None, None) => tokio::select! {
                    // Credit and acks first: they let the others go on.
                    biased;
                    Some(order) = self.control.recv() => order,
                    Some(order) = self.feedback.recv() => order,
                    Some(order) = self.stream.recv() => order,
                    else => return,
                },
            };
            let letter = match order {
                Order::Send(letter) => letter,
                Order::Tell(who) => {
                    // Whoever asked may have stopped waiting.
                    let _ = who.send(());
                    continue;
                }
            };
            let streams = letter.plane == Plane::Stream;
            match outlet.send(letter).await {
                // Fragments of one plane must not mix, so only the stream's are sent between other letters.
                Some(fragments) if streams => rest = Some(fragments),
                Some(Rest { route, plane, fragments }) => {
                    for fragment in fragments {
                        outlet.publish_piece(&route, plane, fragment).await;
                    }
                }
                None => {}
            }
        }
    }
}

impl Outlet {
    /// Sends a letter, or gives back the fragments that are to be sent.
    async fn send(&mut self, letter: Letter) -> Option<Rest> {
        let Letter { route, plane, payload_bytes, mail } = letter;
        let sender = mail.from.boot();
        let encoded = encode(mail);
        self.queued_bytes.fetch_sub(payload_bytes, Relaxed);
        let max_payload = self.client.max_payload();
        if encoded.bytes.len() > max_payload {
            // A fragment is smaller than a message may be by the header that marks it.
            self.cut += 1;
            let max_piece = max_payload.saturating_sub(Fragment::HEADER_BYTES);
            if let Ok(fragments) = Fragments::cut(encoded.bytes, sender, self.cut, max_piece) {
                return Some(Rest { route, plane, fragments });
            }
            return None;
        }
        let sent = self.client.publish_with_reply(route.subject(plane), route.reply.clone(), encoded.bytes).await;
        self.note(sent);
        None
    }

    async fn publish_piece(&self, route: &Route, plane: Plane, (fragment, piece): (Fragment, bytes::Bytes)) {
        self.metrics.nats_fragments.inc();
        let mut headers = HeaderMap::new();
        headers.insert(Fragment::HEADER, fragment.to_string());
        let (subject, reply) = (route.subject(plane), route.reply.clone());
        let sent = self.client.publish_with_reply_and_headers(subject, reply, headers, piece).await;
        self.note(sent);
    }

    /// A message that the library does not take is lost, as if on the way: the link finds the hole.
    fn note(&self, sent: Result<(), PublishError>) {
        if let Err(error) = sent {
            self.metrics.nats_dropped.inc();
            tracing::warn!(%error, "NATS does not take a message");
        }
    }
}
