//! A look at an encoded header before prost decodes it.
//!
//! prost turns every entry of a repeated message or string into a Rust value of 24 to some hundred bytes, however short the
//! entry: two bytes on the wire could cost a hundred in memory. So the entries are counted first, and a header that holds
//! more than its length allows of legal ones is refused before anything is allocated.

use super::WireError;
use super::fields::{Fields, Value};

/// A kind of entry: the field numbers that lead to it, and the fewest bytes a legal one takes, key and length included.
struct Entries {
    path: &'static [u32],
    min_bytes: usize,
}

/// Every repeated message or string that prost decodes of `Header`. Lists of numbers are not here: theirs cost at most 8 bytes a
/// byte.
const ENTRIES: [Entries; 4] = [
    // A replica's id is at least 17 bytes.
    Entries { path: &[4, 3, 3], min_bytes: 19 }, // frame.open.path
    // A tensor's name is at least 1 byte, and its element type is said.
    Entries { path: &[7, 2, 5, 2], min_bytes: 7 }, // feedback.reports.answer.tensors
    // A report or a close names a sequence, whose counter is at least 1.
    Entries { path: &[7, 2], min_bytes: 8 }, // feedback.reports
    Entries { path: &[9, 2], min_bytes: 4 }, // close_now.closes
];

/// Refuses a header that holds more entries than legal ones could fit into it.
pub(super) fn check(header: &[u8]) -> Result<(), WireError> {
    for Entries { path, min_bytes } in ENTRIES {
        if entries(header, path).saturating_mul(min_bytes) > header.len() {
            return Err(WireError::Illegal("a list of the header has more entries than fit into it"));
        }
    }
    Ok(())
}

/// How many length-delimited fields of an encoded message `path`, a list of field numbers, leads to. Stops at what is not well
/// formed: prost will refuse it.
pub fn entries(message: &[u8], path: &[u32]) -> usize {
    let Some((wanted, rest)) = path.split_first() else { return 1 };
    let fields = Fields(message).map_while(Result::ok);
    let found = fields.map(|(number, value)| match value {
        Value::Bytes(bytes) if number == *wanted => entries(bytes, rest),
        _ => 0,
    });
    found.fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;
    use prost::Message;

    fn header(body: pb::header::Body) -> Vec<u8> {
        pb::Header { body: Some(body), ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn entries_are_counted_at_their_path() {
        let open = pb::Opening { path: vec!["a".into(), "b".into()], ..Default::default() };
        let content = Some(pb::frame::Content::Open(open));
        let bytes = header(pb::header::Body::Frame(pb::Frame { epoch: 1, number: 300, content }));
        assert_eq!(entries(&bytes, &[4, 3, 3]), 2);
        assert_eq!(entries(&bytes, &[4, 4, 3]), 0);
    }

    #[test]
    fn a_header_of_empty_reports_is_refused_unseen() {
        let reports = vec![pb::Report::default(); 1000];
        let bytes = header(pb::header::Body::Feedback(pb::Feedback { number: 1, reports, stage: 0 }));
        assert!(matches!(check(&bytes), Err(WireError::Illegal(_))));
    }
}
