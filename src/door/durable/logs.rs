//! Logs of requests in a store.

use bytes::Bytes;
use stageline_base::{Fault, FaultClass};
use stageline_core::durable::Logged;
use stageline_store::{Codec, Recorded, Records};
use stageline_wire::{WireError, decode_record, encode_in_blob, encode_record};

/// A record, and where it stands.
pub(super) type Entry = (u64, Vec<Logged>);
/// The logs.
pub(super) type Logs = Records<Requests>;
/// Why one could not be read.
pub(super) type Unread = stageline_store::Unread<WireError>;

/// How they are written.
#[derive(Debug)]
pub(super) struct Requests;

impl Codec for Requests {
    type Entry = Logged;
    type Error = WireError;
    const BLOBS: &'static str = "record";

    fn encode(record: &[Logged]) -> Result<Bytes, WireError> {
        Ok(encode_record(record))
    }

    fn encode_in_blob(blob: &str) -> Bytes {
        encode_in_blob(blob)
    }

    fn decode(record: Bytes) -> Result<Recorded<Logged>, WireError> {
        Ok(match decode_record(record)? {
            stageline_wire::Recorded::Here(entries) => Recorded::Here(entries),
            stageline_wire::Recorded::InBlob(blob) => Recorded::InBlob(blob),
        })
    }
}

/// What a client is told of a request whose log could not be read.
pub(super) fn unread_fault(unread: &Unread) -> Fault {
    match unread {
        Unread::Store(_) => Fault::new(FaultClass::Unavailable, format!("the request cannot be read now: {unread}")),
        Unread::Record(_) | Unread::Gone => Fault::internal(format!("the request's log cannot be read: {unread}")),
    }
}
