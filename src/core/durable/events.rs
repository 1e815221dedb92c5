//! What an owner is made with, what happens to it, and what it wants done.

use super::life::{Logged, LoggedToken, Wall};
use crate::planted::Planted;
use crate::progress::FinishReason;
use stageline_base::{Fault, ReplicaId, Tensors};

/// What an owner is made with.
#[derive(Clone, Debug)]
pub struct OwnerSetup {
    /// This door.
    pub me: ReplicaId,
    /// The job that it took.
    pub job: u64,
    /// How often that has been taken, this time included.
    pub delivery: u32,
    /// How often the job's lease is renewed, and what others may have written is looked for, in milliseconds.
    pub beat_ms: u64,
    /// Pause before a store that could not write is asked again, in milliseconds.
    pub retry_ms: u64,
    /// Deaths with it after which it runs alone; if its owner dies then, too, it is not run again.
    pub alone_after: u32,
    /// A defect planted by a test.
    pub planted: Planted,
}

/// Why an append was not done, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody knows: what the log says now decides.
    Unsure,
    /// The log ends there: what it says now decides, and if that is before what was known, it is gone.
    EndsAt(u64),
    /// Nothing was done: the store is full, or away.
    NotNow,
}

/// How the telling of an end went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// They have been told.
    Done,
    /// To be tried again at that time.
    Again(Wall),
    /// It is no use.
    GivenUp(String),
}

/// What happens to an owner.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnerEvent {
    /// The log behind the position that was asked for.
    Read(Vec<(u64, Vec<Logged>)>),
    /// The log could not be read.
    NotRead,
    /// The log holds what only a later version can read.
    Unreadable,
    /// The write of that number was done, and its record stands there; or not.
    Written {
        /// Which write. The log may have told of it before.
        write: u64,
        /// Where its record stands.
        written: Result<u64, Refused>,
    },
    /// Nothing else runs here, and will not until the run that follows has ended.
    Turn,
    /// The run has read its prompt, which has so many tokens.
    Began(u32),
    /// The run made a token.
    Token(LoggedToken),
    /// The run made the answer.
    Answer(Tensors),
    /// The run ended.
    RunEnded(Result<FinishReason, Fault>),
    /// How the telling went.
    Told(Delivery),
    /// Somebody has written to the log just now: look what.
    Look,
    /// The door is about to end: let go of it.
    Release,
    /// Time passed.
    Time,
}

/// What an owner wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnerAction {
    /// Read the log behind this position.
    Read {
        /// The position.
        after: u64,
    },
    /// Append this record, if the log ends there.
    Append {
        /// The number by which the answer says what it answers.
        write: u64,
        /// Where the log ends.
        after: u64,
        /// The record.
        record: Vec<Logged>,
    },
    /// Replace the log by this last record, if it ends there.
    Finish {
        /// The number by which the answer says what it answers.
        write: u64,
        /// Where the log ends.
        after: u64,
        /// The record.
        record: Vec<Logged>,
    },
    /// Wait until nothing else runs here: it may be what its owners died of.
    AwaitTurn,
    /// Run the request, from behind these tokens on.
    Run {
        /// What is generated already.
        generated: Vec<LoggedToken>,
    },
    /// End the run, or the wait for its turn; nothing of it counts any more.
    Stop,
    /// This is in the log now: whoever waits for it here may see it.
    Show(Vec<Logged>),
    /// Tell who is to be told of the end.
    Tell,
    /// Renew the job's lease.
    Hold,
    /// The job is done. Nothing comes after.
    Done,
    /// The job may be taken by another after so many milliseconds. Nothing comes after.
    Again {
        /// How many.
        after_ms: u64,
    },
    /// Another owns it: the job is not ours to speak of. Nothing comes after.
    Leave,
}
