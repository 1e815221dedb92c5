//! A request that outlives every process: what its log says, and what its owner does next.
//!
//! The log is the truth; who appends to it is right, and who is refused is not. A door that holds the request's job owns it once it
//! has said so in the log, and until another has. What a client sees of it was in the log before, so nothing is seen twice or otherwise
//! after any death; what was not in the log when its owner died is made again, bit for bit.

mod events;
mod life;
mod owner;

pub use events::{Delivery, OwnerAction, OwnerEvent, OwnerSetup, Refused};
pub use life::{Accepted, Life, Logged, LoggedToken, Wall};
pub use owner::{Owner, late_fault};
