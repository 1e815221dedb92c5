//! A run of a flow: what its log says, what that comes to, and what its owner does next.
//!
//! The log is the truth, as it is of a durable request. A run is a fold of its log and of nothing else: what a node gave is there once,
//! a join is the set of parents that are there, and what an expression gave when it was evaluated is there too, so none is evaluated
//! again. An engine owns a run once it has said so in the log, and until another has. It calls somebody only after the log says that it
//! does: a crash repeats the calls that were under way and no others, and each by the id that it had before.

mod datum;
mod deciding;
mod events;
mod logged;
mod machine;
mod orders;
mod scope;
mod state;

pub use datum::{Blob, Datum, Json};
pub use events::{
    CallOutcome, Calling, Delivery, Outcome, Planted, Refused, RunAction, RunEvent, RunSetup, secret_mark,
};
pub use logged::{Accepted, Ended, Failure, FailureClass, Given, Logged, Moment, Order, Phase, With};
pub use machine::Run;
pub use orders::Ordering;
pub use state::{Key, State};
