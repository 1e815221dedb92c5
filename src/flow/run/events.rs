//! What an owner of a run is made with, what happens to it, and what it wants done.

use super::datum::{Blob, Datum};
use super::logged::{FailureClass, Moment, With};
use super::state::Key;
use crate::definition::{File, Target, TargetLimits};
pub use stageline_core::durable::{Delivery, Refused};
use std::sync::Arc;
use std::time::Duration;

/// What an owner is made with.
#[derive(Clone, Debug)]
pub struct RunSetup {
    /// This engine.
    pub me: String,
    /// The run's token: the first part of its calls' ids.
    pub run: String,
    /// The job that it took.
    pub job: u64,
    /// How often that has been taken, this time included.
    pub delivery: u32,
    /// How often the job's lease is renewed, and what others may have written is looked for.
    pub beat: Duration,
    /// Pause before a store that could not write is asked again.
    pub retry: Duration,
    /// A run that has nothing to do for so long is let go of.
    pub park: Duration,
    /// Owners in a row that may end with it in hand, without it getting on.
    pub deaths: u32,
    /// A defect planted by a test.
    pub planted: Planted,
}

/// Defects that the simulation must find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// None.
    #[default]
    None,
    /// A fenced owner says that the job is done.
    SettleFenced,
    /// Somebody is called before the log says so.
    CallUnlogged,
    /// An append of which nobody knows whether it was done is taken for done.
    TrustUnsure,
    /// A run that rests is let go of without a time at which it is taken again.
    ForgetParked,
    /// Its end is told before it is in the log.
    TellEarly,
    /// Calls that were under way when an owner died are not made again.
    ForgetCalls,
    /// An owner never looks whether others have written.
    NeverLook,
    /// A record is appended wherever the log ends.
    AppendAnywhere,
    /// A join is what a count of ends says.
    CountArrivals,
}

/// A call that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Calling {
    /// Whom.
    pub target: Target,
    /// What that bears.
    pub limits: TargetLimits,
    /// The gateway that the flow's file names.
    pub gateway: Option<String>,
    /// HTTP's method.
    pub method: String,
    /// The id that stays the same over attempts and engines: who knows it joins what is under way or done.
    pub id: String,
    /// The how many-th attempt, from 1.
    pub attempt: u32,
    /// The body.
    pub input: Datum,
    /// What goes with it.
    pub with: With,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether its tokens are the run's stream.
    pub streams: bool,
    /// What marks the place of a secret in it: see [`secret_mark`].
    pub nonce: u64,
}

/// What stands for a secret until the call is made: who makes it knows secrets, and no run does. The nonce is drawn after the caller
/// has said all it says, so nobody can write such a mark.
pub fn secret_mark(nonce: u64, name: &str) -> String {
    format!("\u{1}secret:{nonce:016x}:{name}\u{1}")
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub struct CallOutcome {
    /// What kind of failure.
    pub class: FailureClass,
    /// In words.
    pub reason: String,
    /// The target asks for at least so long a pause.
    pub retry_after: Option<Duration>,
    /// Whether it may pass by itself.
    pub transient: bool,
    /// Whether it counts among the attempts: what bears no more calls for now costs none.
    pub counts: bool,
}

/// How a call ended.
pub type Outcome = Result<Datum, CallOutcome>;

/// What happens to an owner.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// The log behind the position that was asked for.
    Read {
        /// The position.
        after: u64,
        /// The records.
        records: Vec<(u64, Vec<Moment>)>,
    },
    /// The log could not be read now.
    NotRead,
    /// The log holds what only a later version can read.
    Unreadable,
    /// What the flow file of the digest that was asked for says; `None` if it is gone.
    Defined(Option<Arc<File>>),
    /// A blob that was asked for; `None` if it is gone.
    Fetched(Arc<Blob>, Option<Datum>),
    /// The write of that number was done, and its record stands there; or not.
    Written {
        /// Which write.
        write: u64,
        /// Where its record stands.
        written: Result<u64, Refused>,
    },
    /// A call ended.
    Called {
        /// Of which key.
        key: Key,
        /// The how many-th.
        attempt: u32,
        /// How.
        outcome: Outcome,
    },
    /// How the telling of the end went.
    Told(Delivery),
    /// Somebody else may have written into the log.
    Nudged,
    /// The engine is about to end: let go of it.
    Release,
    /// Time passed.
    Time,
}

/// What an owner wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum RunAction {
    /// Read the log behind this position.
    Read {
        /// The position.
        after: u64,
    },
    /// Read the flow file of this digest.
    Define(String),
    /// Read this blob.
    Fetch(Arc<Blob>),
    /// Append this record, if the log ends there.
    Append {
        /// The number by which the answer says what it answers.
        write: u64,
        /// Where the log ends.
        after: u64,
        /// The record.
        record: Vec<Moment>,
    },
    /// Replace the log by this last record, if it ends there.
    Finish {
        /// The number by which the answer says what it answers.
        write: u64,
        /// Where the log ends.
        after: u64,
        /// The record.
        record: Vec<Moment>,
    },
    /// Call somebody.
    Call {
        /// Of which key.
        key: Key,
        /// The call.
        call: Box<Calling>,
    },
    /// This call counts no more.
    Abort {
        /// Of which key.
        key: Key,
    },
    /// Tell who is to be told of the end.
    Tell,
    /// Renew the job's lease.
    Hold,
    /// The job is done. Nothing comes after.
    Done,
    /// The job may be taken by another after so long. Nothing comes after.
    Again {
        /// How long.
        after: Duration,
    },
    /// Another owns it: the job is not ours to speak of. Nothing comes after.
    Leave,
}
