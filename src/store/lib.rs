//! Floor 3: what must survive. One contract, [`Store`], and who keeps it: [`FileStore`] in a file of its own process,
//! [`JetStream`] at a broker, [`MemoryStore`] nowhere, for tests and simulations.
//!
//! Four kinds of thing are kept, each under names made here, never of client text:
//! - **logs**: records in order, each appended behind the one that its writer knew as the last. Two writers of one log cannot both
//!   be right about that, so an append is also a fence.
//! - **jobs** of a queue: each is held by one taker at a time, until its lease runs out.
//! - **keys** with a value that is only replaced by who knows its revision, and that may be gone after a while.
//! - **blobs**: what is too large for a record.
//!
//! What was answered with `Ok` survives the death of every process. Whether it survives a loss of power is the keeper's setting.

mod contract;
mod error;
mod file;
mod jetstream;
mod memory;
mod names;
mod records;

pub use contract::{Entry, Following, Job, JobId, Record, Store};
pub use error::StoreError;
pub use file::{FileSettings, FileStore, Flush};
pub use jetstream::{JetStream, Settings};
pub use memory::{MemoryStore, State};
pub use names::Name;
pub use records::{Codec, Recorded, Records, Unread};
