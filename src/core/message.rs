//! What replicas say to each other. `wire` turns these into bytes; memory hops pass them as they are.

use crate::{Emission, Opening};
use stageline_base::{Attempt, Fault, Position, ReplicaId, SequenceId, StageIndex, Tensors};
use std::sync::Arc;

/// A message and who sent it.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The sender.
    pub from: ReplicaId,
    /// The stage that it serves.
    pub stage: StageIndex,
    /// What it says.
    pub body: Body,
}

impl Mail {
    /// Bytes of its tensors.
    pub fn payload_bytes(&self) -> usize {
        let bytes = match &self.body {
            Body::Link(LinkMail::Frame { content: FrameContent::Rows { payload, .. }, .. }) => payload.bytes(),
            Body::Feedback(feedback) => feedback.tensors().map(Tensors::bytes).sum(),
            _ => 0,
        };
        bytes as usize
    }
}

/// Everything that one replica says to another.
#[derive(Clone, Debug)]
pub enum Body {
    /// Upstream to downstream, on the receiver's data subject: one ordered stream a link.
    Link(LinkMail),
    /// Downstream to upstream, on the sender's control subject. Cumulative, so a lost or repeated one does no harm.
    Reply(LinkReply),
    /// A stage to a door, on its feedback subject; sent again until acknowledged.
    Feedback(Feedback),
    /// A door to a stage, on its control subject: the feedback of that number has been taken in.
    FeedbackAck {
        /// Which feedback.
        number: u64,
    },
    /// A door to any stage of a path, on its control subject, where the links cannot be trusted to carry a Close; sent
    /// again until acknowledged.
    CloseNow {
        /// The door's number of this message.
        number: u64,
        /// What to close: these and lower attempts.
        closes: Vec<(SequenceId, Attempt)>,
    },
    /// A stage to a door, on its feedback subject: the CloseNow of that number is done.
    CloseAck {
        /// Which CloseNow.
        number: u64,
    },
    /// A door to a replica of a path, on its control subject: nothing to be done. Where nobody listens, the transport says so,
    /// long before a lease runs out.
    Ping,
}

/// One message of a link's ordered stream.
#[derive(Clone, Debug)]
pub enum LinkMail {
    /// Opens an epoch; sent again until its Welcome comes. Frames of lower epochs are void from then on.
    Hello {
        /// The new epoch, from 1.
        epoch: u32,
    },
    /// Asks for a [`LinkReply::State`]. Travels in the stream, so it shows a lost tail.
    Probe {
        /// The current epoch.
        epoch: u32,
        /// Number of the last frame sent in it (0: none).
        sent: u64,
    },
    /// A numbered frame.
    Frame {
        /// The epoch it belongs to.
        epoch: u32,
        /// Counts up from 1 within the epoch.
        number: u64,
        /// What it carries.
        content: FrameContent,
    },
}

/// What a frame carries.
#[derive(Clone, Debug)]
pub enum FrameContent {
    /// Opens a sequence.
    Open(Arc<Opening>),
    /// Rows of sequences opened before; takes credit.
    Rows {
        /// Whose rows, in the payload's order.
        segments: Vec<Segment>,
        /// The rows, as the manifest says what crosses in front of the receiving stage. Where that is cut by rows, those of all
        /// segments one after the other; otherwise what there is of the one segment.
        payload: Tensors,
    },
    /// Ends an attempt and every lower one.
    Close {
        /// The sequence.
        sequence: SequenceId,
        /// The highest attempt that it ends.
        attempt: Attempt,
    },
}

/// Consecutive rows of one sequence within a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Whose rows.
    pub sequence: SequenceId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Its door: where a fault goes if the receiver does not know the sequence.
    pub door: ReplicaId,
    /// Position of the first row.
    pub start: Position,
    /// How many rows, at least 1.
    pub rows: u32,
    /// Whether the last of them must give a token (or all of them the answer).
    pub emit: bool,
}

/// Rows of all segments of a frame together.
pub(crate) fn rows_of(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.rows)).sum()
}

/// What the receiver of a link says to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkReply {
    /// Answers Hello.
    Welcome {
        /// The epoch that it opens.
        epoch: u32,
        /// The epoch before, as the receiver knew it (0: none).
        before: u32,
        /// Number of the last frame got in that epoch; what was sent after it is lost.
        got: u64,
        /// Row credit to begin with: the window less what is still queued from epochs before.
        credit_rows: u64,
        /// Byte credit to begin with.
        credit_bytes: u64,
    },
    /// How the epoch stands.
    State {
        /// The epoch.
        epoch: u32,
        /// Number of the last frame got in order.
        got: u64,
        /// Rows that have left the queue since the epoch began.
        returned_rows: u64,
        /// Bytes that have left the queue since the epoch began.
        returned_bytes: u64,
        /// A frame was missing: all later ones of this epoch are dropped, and the sender must open a new one.
        broken: bool,
    },
}

/// What a stage tells a door.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// The stage that says it: where the acknowledgement goes.
    pub stage: StageIndex,
    /// The stage's number of this message towards this door, for the acknowledgement.
    pub number: u64,
    /// What happened, in order.
    pub reports: Vec<Report>,
}

impl Feedback {
    /// The tensors that it brings, in order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensors> {
        self.reports.iter().filter_map(Report::tensors)
    }
}

/// One thing that happened to one attempt of a sequence.
#[derive(Clone, Debug)]
pub enum Report {
    /// The whole path holds the sequence: rows may follow.
    Opened {
        /// The sequence.
        sequence: SequenceId,
        /// The attempt.
        attempt: Attempt,
    },
    /// A stage has no room for it now, or never; its predecessors have released what they held for it.
    Refused {
        /// The sequence.
        sequence: SequenceId,
        /// The attempt.
        attempt: Attempt,
        /// Why: `Overloaded` may be tried again, anything else not.
        fault: Fault,
    },
    /// The last stage made a token, or the answer.
    Emitted {
        /// The sequence.
        sequence: SequenceId,
        /// The attempt.
        attempt: Attempt,
        /// The position that the token takes.
        position: Position,
        /// What it made.
        emission: Emission,
    },
    /// The attempt cannot go on.
    Failed {
        /// The sequence.
        sequence: SequenceId,
        /// The attempt.
        attempt: Attempt,
        /// Why.
        cause: Cause,
        /// At which stage.
        stage: StageIndex,
        /// In words.
        fault: Fault,
    },
}

impl Report {
    /// The tensors that it brings.
    pub fn tensors(&self) -> Option<&Tensors> {
        match self {
            Self::Emitted { emission: Emission::Tensors(tensors), .. } => Some(tensors),
            _ => None,
        }
    }
}

/// Why an attempt failed: whether the request's own rows are to blame decides how often it is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Rows before these are missing.
    Gap,
    /// Rows came for a sequence that the stage does not hold.
    Unknown,
    /// The link lost rows or its Open.
    Lost,
    /// The device failed at these rows, alone and again: the request's own fault.
    Device,
}
