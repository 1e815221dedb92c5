//! From the broker to the mailboxes.

use super::Broker;
use super::routes::Routes;
use crate::Arrived;
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use stageline_base::ReplicaId;
use stageline_metrics::BrokerMetrics;
use stageline_wire::{Assembler, Fragment, Plane, Subjects, decode};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// One plane of one replica.
pub(super) struct Reader {
    pub(super) messages: Subscriber,
    pub(super) mailbox: mpsc::Sender<Arrived>,
    pub(super) assembler: Assembler,
    pub(super) metrics: BrokerMetrics,
    pub(super) plane: Plane,
}

impl Reader {
    /// Reads until the mailbox or the subscription ends. While the mailbox is full it waits, and the library drops what
    /// comes beyond its own room: a slow replica loses mail, it does not grow.
    pub(super) async fn run(mut self, mut news: Option<News>) {
        loop {
            let arrived = tokio::select! {
                // First that there is nobody to read for; then that mail may be missing, before the mail after it.
                biased;
                () = self.mailbox.closed() => return,
                () = reconnected(&mut news) => Some(Arrived::Reconnected),
                message = self.messages.next() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
            };
            if let Some(arrived) = arrived
                && self.mailbox.send(arrived).await.is_err()
            {
                return;
            }
        }
    }

    fn take(&mut self, message: Message) -> Option<Arrived> {
        let Some((stage, from)) = Subjects::sender(&message.subject) else {
            return self.refuse(&"its subject names no sender");
        };
        let parcel = match &message.headers {
            Some(headers) => self.assemble(headers.get(Fragment::HEADER)?.as_str(), &from, message.payload)?,
            None => message.payload,
        };
        match decode(parcel) {
            Ok(mail) if (mail.stage, &mail.from) != (stage, &from) => {
                self.refuse(&"it speaks in another name than its subject's")
            }
            Ok(mail) if Plane::of(&mail.body) == self.plane => Some(Arrived::Mail(mail)),
            Ok(_) => self.refuse(&"it came on another plane than its own"),
            Err(error) => self.refuse(&error),
        }
    }

    fn assemble(&mut self, place: &str, from: &ReplicaId, piece: Bytes) -> Option<Bytes> {
        let fragment = Fragment::parse(place).filter(|fragment| fragment.sender == from.boot());
        let Some(fragment) = fragment else {
            return self.refuse(&"its fragment header is malformed, or another sender's than its subject's");
        };
        match self.assembler.accept(fragment, piece) {
            Ok(parcel) => parcel,
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse<T>(&self, why: &dyn std::fmt::Display) -> Option<T> {
        self.metrics.nats_refused.inc();
        tracing::debug!(%why, plane = ?self.plane, "a parcel is refused");
        None
    }
}

/// News of the broker, and how many reconnects have been told of.
pub(super) struct News {
    broker: watch::Receiver<Broker>,
    told: u64,
}

impl News {
    pub(super) fn new(broker: watch::Receiver<Broker>) -> Self {
        let told = broker.borrow().reconnects;
        Self { broker, told }
    }
}

/// Waits until the broker is found again; for ever, where nobody wants to know or can say. Cancel-safe.
async fn reconnected(news: &mut Option<News>) {
    if let Some(News { broker, told }) = news
        && let Ok(now) = broker.wait_for(|broker| broker.reconnects != *told).await
    {
        *told = now.reconnects;
        return;
    }
    std::future::pending().await
}

/// Passes on what the broker says of messages that found nobody.
pub(super) async fn unreachables(mut replies: Subscriber, routes: Arc<Routes>, metrics: BrokerMetrics) {
    while let Some(message) = replies.next().await {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            metrics.nats_unreachable.inc();
            routes.nobody(&message.subject);
        }
    }
}
