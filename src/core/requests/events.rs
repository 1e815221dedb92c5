//! What a door is made with, what happens to it, and what it wants done.

use crate::message::{Body, Feedback, LinkReply};
use crate::planted::Planted;
use crate::progress::{FinishReason, Input};
use crate::{Observed, Work};
use stageline_base::{Border, Fault, Position, ReplicaId, SequenceId, StageIndex, Tensors, Tick, TokenId, Trace};
use std::time::Duration;

/// What a door is made with.
#[derive(Clone, Debug)]
pub struct DoorSetup {
    /// This replica; it serves stage 0.
    pub me: ReplicaId,
    /// Its boot nonce, the first half of every sequence's id.
    pub boot: u64,
    /// Most sequences in the pipeline at once.
    pub max_num_seqs: u32,
    /// Most requests that wait.
    pub max_queue: usize,
    /// How long a request may wait for room. One that cannot start within it is refused.
    pub queue_timeout: Duration,
    /// How long a request waits for a stage, or for the broker, that is missing.
    pub stage_timeout: Duration,
    /// The broker that keeps this replica's lease, for messages; `None` where no other process serves.
    pub broker: Option<String>,
    /// How often the replicas of a path are looked for; `None` where none can go without this process.
    pub ping_every: Option<Duration>,
    /// Decode microbatches.
    pub microbatches: u32,
    /// How many of them may be in the pipeline at once.
    pub microbatches_away: u32,
    /// How long a lease lasts.
    pub lease: Duration,
    /// Tokens of the model: ids are below this.
    pub vocab: u32,
    /// What requests bring: what crosses in front of stage 0.
    pub takes: Border,
    /// What an answer is, where it is tensors.
    pub gives: Border,
    /// A defect planted by a test.
    pub planted: Planted,
}

/// A request, tokenized and checked.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// For log lines.
    pub call_id: String,
    /// For log lines, too.
    pub trace: Trace,
    /// What to do; the seed is drawn already.
    pub work: Work,
    /// What it brings.
    pub input: Input,
    /// What another door has generated already: the answer goes on behind it, as after a replay.
    pub generated: Vec<TokenId>,
    /// Most tokens to generate, `generated` included: more than those.
    pub max_tokens: u32,
    /// When it must have ended.
    pub deadline: Tick,
    /// It waits until then for room and for whatever is missing: no estimate, limit or timeout of the queue refuses it.
    pub patient: bool,
}

/// A replica that holds a lease, as far as the choice of a path goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub replica: ReplicaId,
    /// It finishes what it has and is opened nothing new.
    pub draining: bool,
    /// Sequences that it held by its newest record, of all doors.
    pub live_sequences: u32,
    /// When its process started, in milliseconds since 1970 by its own clock.
    pub started_unix_ms: u64,
}

/// Whether an answer ends with a token: the model's end, a stop string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whose answer.
    pub sequence: SequenceId,
    /// The token's position.
    pub position: Position,
    /// How it ends, if it does.
    pub end: Option<FinishReason>,
}

/// What happens to a door.
#[derive(Debug)]
pub enum DoorEvent {
    /// The client went away.
    Cancel(SequenceId),
    /// A stage reports.
    Feedback {
        /// The stage's replica. Its lease does not matter: what it says is judged by whether the request went to it, by
        /// attempt and by position.
        from: ReplicaId,
        /// What it says, to be acknowledged.
        feedback: Feedback,
    },
    /// Whether answers go on after tokens that [`DoorAction::Token`] told.
    Judged(Vec<Judged>),
    /// Stage 0 answers on the link from the door.
    Reply(LinkReply),
    /// A stage has done a CloseNow.
    CloseAck {
        /// The stage's replica.
        from: ReplicaId,
        /// Which.
        number: u64,
    },
    /// The live replicas of every stage.
    Replicas(Vec<Vec<Candidate>>),
    /// Whether this replica's own lease is renewed; at first it is.
    Held(bool),
    /// Nobody listens at this replica, whatever its lease says.
    Unreachable(ReplicaId),
    /// Take no more requests, and say [`DoorAction::Drained`] when none is left.
    Drain,
    /// Ends the requests that are left.
    GiveUp,
    /// [`next_deadline`](super::DoorMachine::next_deadline) has passed.
    Time,
}

/// What a door wants done, in order.
#[derive(Debug)]
pub enum DoorAction {
    /// Send this.
    Send {
        /// The receiver's stage.
        stage: StageIndex,
        /// The receiver.
        to: ReplicaId,
        /// What.
        body: Body,
    },
    /// A token of an answer, which goes on once [`DoorEvent::Judged`] says so.
    Token {
        /// Whose.
        sequence: SequenceId,
        /// Its position.
        position: Position,
        /// The token.
        id: TokenId,
        /// What was asked to be seen of its logits.
        observed: Option<Observed>,
    },
    /// An answer that is tensors, all of it.
    Answer {
        /// Whose.
        sequence: SequenceId,
        /// The tensors.
        tensors: Tensors,
    },
    /// The request has ended; nothing more comes of it.
    Ended {
        /// Whose.
        sequence: SequenceId,
        /// How.
        outcome: Result<FinishReason, Fault>,
    },
    /// Nothing is left.
    Drained,
}
