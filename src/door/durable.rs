//! Requests that outlive this process. One is accepted once its log and its job are in the store; the door that takes the job owns
//! it; and whoever asks, at whichever door, is answered from the log alone.
//!
//! What a client sees of such a request was in its log before, so it sees each token once, whatever dies. Who may write to the log is
//! decided in `stageline_core::durable`; here is what carries that out.

mod accepting;
mod asked;
mod inbox;
mod keeper;
mod logs;
mod owning;
mod reading;
mod revived;
mod running;
mod standing;
mod stored;
mod sweeping;
mod telling;

pub(crate) use accepting::{Asking, Declined, Kept, Key};
pub use asked::Question;
pub use keeper::{Keeper, KeeperSetup};
pub(crate) use standing::{STATUSES, Standing};
pub use stored::{Api, Forms, Job};
pub use telling::Ended;
