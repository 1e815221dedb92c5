//! Floor 1: the decisions of a stage and of the door, pure. Values in, values out; time is an argument; no clock, no
//! I/O, no async, no tensor maths.

pub mod batch;
pub mod batcher;
pub mod direct;
pub mod durable;
pub mod groups;
pub mod kv_blocks;
pub mod link;
pub mod machine;
pub mod message;
pub mod opening;
pub mod out_link;
pub mod outbox;
pub mod planted;
mod progress;
pub mod refusal;
pub mod requests;
pub mod room;

pub use batch::{BatchId, Emission, Member, Microbatch, Observed, Output, Ticket};
pub use direct::{DirectOutput, DirectRun};
pub use message::{Body, Feedback, FrameContent, LinkMail, LinkReply, Mail, Report, Segment};
pub use opening::{Opening, Work};
pub use planted::Planted;
pub use progress::Input;
pub use refusal::{Refusal, Refusals};
pub use stageline_base::Sampling;
