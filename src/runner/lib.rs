//! Floor 4: runs of flows, from their acceptance to the telling of their end; and calls to others, which doors make, too.
//!
//! Reading order: `stageline_flow::run` decides; `keeper` takes runs in and knows how each stands; `owning` carries out what the owner
//! of one wants; `calling` calls functions and URLs, `asking` pipelines at a broker; `limits` holds back what a target does not bear.

mod asking;
mod calling;
mod finding;
mod handing;
mod keeper;
mod limits;
mod logs;
pub mod outgoing;
mod owning;
mod starting;
mod telling;
mod wall;
mod working;

pub use asking::Asking;
pub use calling::{Answered, Caller, HttpCaller, Pipelines};
pub use finding::Standing;
pub use handing::hand_out;
pub use keeper::{Keeper, KeeperSetup};
pub use starting::{Declined, Start, Started};
pub use telling::{GIVEN_UP_AFTER, another_time, callback_headers, heard};
pub use wall::Clock;
