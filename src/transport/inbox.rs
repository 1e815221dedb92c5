//! One plane of a replica's mail.

use super::Arrived;
use super::shm::Rings;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

/// A bounded channel; on the stream plane also the rings of senders of this host, which are no channels but memory.
#[derive(Debug)]
pub struct Inbox {
    channel: mpsc::Receiver<Arrived>,
    rings: Option<Rings>,
}

impl Inbox {
    pub(super) fn new(channel: mpsc::Receiver<Arrived>) -> Self {
        Self { channel, rings: None }
    }

    /// Also reads these. From then on, only a thread that sleeps on their doorbell may wait for mail.
    pub(super) fn add_rings(&mut self, rings: Rings) {
        self.rings = Some(rings);
    }

    /// The next mail; `None` when the transport has been shut down. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Arrived> {
        std::future::poll_fn(|turn| self.poll_recv(turn)).await
    }

    fn poll_recv(&mut self, turn: &mut Context<'_>) -> Poll<Option<Arrived>> {
        match (self.channel.poll_recv(turn), &mut self.rings) {
            (Poll::Pending, Some(rings)) => {
                rings.next().map_or(Poll::Pending, |mail| Poll::Ready(Some(Arrived::Mail(mail))))
            }
            (polled, _) => polled,
        }
    }

    /// Mail that is there now.
    ///
    /// # Errors
    /// There is none, or there will never be any.
    pub fn try_recv(&mut self) -> Result<Arrived, TryRecvError> {
        match (self.channel.try_recv(), &mut self.rings) {
            (Err(TryRecvError::Empty), Some(rings)) => rings.next().map(Arrived::Mail).ok_or(TryRecvError::Empty),
            (tried, _) => tried,
        }
    }

    /// Mail that waits in the channel.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }
}
