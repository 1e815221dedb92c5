//! Floor 2: bytes ⇄ values. What arrives is checked here and nowhere else: an illegal parcel is an error, never a panic,
//! and never makes the receiver allocate more than a small multiple of its length.
//!
//! `proto/stageline/v1/hop.proto` and `log.proto` are the reference of the bytes.

mod decode;
mod encode;
mod error;
mod fields;
mod fragment;
mod limits;
mod log;
mod parcel;
mod rows;
mod scan;
mod status;
mod subject;
mod tensors;

use stageline_proto::hop as pb;

pub use error::WireError;
use error::{Checked, at_most, check, text};
pub use fragment::{Assembler, Fragment, FragmentError, Fragments};
pub use limits::*;
pub use log::{Recorded, decode_record, encode_in_blob, encode_record};
pub use parcel::{Encoded, MAGIC, TRAILER_BYTES, decode, decode_parts, encode, encode_parts};
pub use scan::entries;
pub use status::{Phase, Status};
pub use subject::{Place, Plane, Subjects, ask_subject, lease_key};

/// Version of everything in this module. Replicas of different versions do not talk to each other.
pub const WIRE_VERSION: u32 = 4;
