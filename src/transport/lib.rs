//! Floor 3: how mail reaches a replica: through memory within a process; over NATS, gRPC or shared memory between processes.
//!
//! Every hop keeps one contract (tests/net runs one suite against all of them):
//! - A [`Plane`] of one sender to one receiver keeps its order. Mail may be lost; the link protocol finds and mends it.
//! - Posting never blocks, and nothing grows without a bound: what does not fit is an error to its sender, or is dropped
//!   before its receiver and shows there as a hole.
//! - What is posted to a replica that is not there comes back to the sender as [`Arrived::Unreachable`], as a hint: it
//!   can itself be lost.

mod board;
mod doorbell;
mod error;
mod hop;
mod inbox;
mod lease;
mod lease_register;
mod memory;
mod nats;
mod nats_lease;
mod roster;
mod shm;
mod sockets;

pub use board::LeaseBoard;
pub use doorbell::{Doorbell, Timer, timer};
pub use error::TransportError;
pub use hop::{HopKind, HopSettings, HopSite, Hops};
pub use inbox::Inbox;
pub use lease::{LEASE, LeaseEvent, LeaseKeeper, LeaseView, RENEWAL};
pub use memory::MemoryNet;
pub use nats::{INBOX_PREFIX, NatsNet, NatsSettings, connect_client};
pub use nats_lease::NatsLeases;
pub use stageline_wire::Plane;

use stageline_base::{ReplicaId, StageIndex};
use stageline_core::Mail;
use tokio::sync::mpsc;

/// Mail that a mailbox holds for its replica, each plane.
pub const MAILBOX_CAPACITY: usize = 256;

/// A replica and the stage it serves: where mail goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// The stage.
    pub stage: StageIndex,
    /// The replica.
    pub replica: ReplicaId,
}

/// What reaches a replica.
#[derive(Debug)]
pub enum Arrived {
    /// Mail, checked.
    Mail(Mail),
    /// Something posted to `peer` found nobody there. Comes on the control plane.
    Unreachable {
        /// Who is not there.
        peer: Peer,
    },
    /// The transport lost its broker and has it again: mail of any link may be lost. Comes on the control plane.
    Reconnected,
}

/// A replica's mail, a bounded channel each plane. Dropping it ends the registration.
#[derive(Debug)]
pub struct Mailbox {
    /// Acks, credit, orders of a door, and news of the transport: read this first.
    pub control: Inbox,
    /// What stages tell this door; nothing comes if the replica is none.
    pub feedback: Inbox,
    /// The links' ordered streams.
    pub stream: Inbox,
}

/// The other ends of a mailbox.
#[derive(Clone, Debug)]
struct Slots {
    control: mpsc::Sender<Arrived>,
    feedback: mpsc::Sender<Arrived>,
    stream: mpsc::Sender<Arrived>,
}

impl Slots {
    fn new() -> (Self, Mailbox) {
        let (control, control_end) = mpsc::channel(MAILBOX_CAPACITY);
        let (feedback, feedback_end) = mpsc::channel(MAILBOX_CAPACITY);
        let (stream, stream_end) = mpsc::channel(MAILBOX_CAPACITY);
        let [control_end, feedback_end, stream_end] = [control_end, feedback_end, stream_end].map(Inbox::new);
        let mailbox = Mailbox { control: control_end, feedback: feedback_end, stream: stream_end };
        (Self { control, feedback, stream }, mailbox)
    }

    fn of(&self, plane: Plane) -> &mpsc::Sender<Arrived> {
        match plane {
            Plane::Control => &self.control,
            Plane::Feedback => &self.feedback,
            Plane::Stream => &self.stream,
        }
    }
}

/// Why mail was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// No room in the queue towards the peer: the mail is lost, and its link must say so.
    #[error("the queue of outgoing mail is full")]
    Full,
    /// The transport has been shut down.
    #[error("the transport is closed")]
    Closed,
    /// The mail is larger than any receiver takes.
    #[error("the mail is larger than a parcel may be")]
    TooLarge,
}

/// Sends mail.
pub trait Post: Send + Sync {
    /// Takes `mail` for `to`, in the order of its plane. Never blocks.
    ///
    /// # Errors
    /// Nothing was taken; see [`PostError`].
    fn post(&self, to: &Peer, mail: Mail) -> Result<(), PostError>;
}
