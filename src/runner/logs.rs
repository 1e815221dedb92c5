//! Logs of runs in a store, as JSON.

use bytes::Bytes;
use serde_json::{Value, json};
use stageline_flow::run::Moment;
use stageline_store::{Codec, Recorded, Records};

/// A record, and where it stands.
pub(crate) type Entry = (u64, Vec<Moment>);
/// The logs.
pub(crate) type Logs = Records<Runs>;
/// Why one could not be read.
pub(crate) type Unread = stageline_store::Unread<serde_json::Error>;

/// What stands for a record that is in a blob: no list, as records are.
const IN_BLOB: &str = "in_blob";

/// How they are written.
#[derive(Debug)]
pub(crate) struct Runs;

impl Codec for Runs {
    type Entry = Moment;
    type Error = serde_json::Error;
    const BLOBS: &'static str = "run-record";

    fn encode(record: &[Moment]) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(record).map(Bytes::from)
    }

    fn encode_in_blob(blob: &str) -> Bytes {
        json!({ IN_BLOB: blob }).to_string().into()
    }

    fn decode(record: Bytes) -> Result<Recorded<Moment>, serde_json::Error> {
        if record.first() == Some(&b'[') {
            return serde_json::from_slice(&record).map(Recorded::Here);
        }
        let reference: Value = serde_json::from_slice(&record)?;
        // One that names no blob names one that is gone.
        Ok(Recorded::InBlob(reference[IN_BLOB].as_str().unwrap_or_default().to_owned()))
    }
}
