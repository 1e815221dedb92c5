//! Records of a durable request's log (see `log.proto`).

use super::tensors::{Payload, head};
use super::{
    Checked, MAX_FAULT_BYTES, MAX_KNOWN_TOKENS, MAX_REPORTS, WireError, at_most, check, decode, encode, pb, scan,
};
use bytes::{Bytes, BytesMut};
use prost::Message;
use stageline_base::Fault;
use stageline_core::durable::{Accepted, Logged, LoggedToken, Wall};
use stageline_core::requests::FinishReason;

/// Version of the records that are written.
const VERSION: u32 = 1;

/// What a record says, or where that is.
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// The entries.
    Here(Vec<Logged>),
    /// The name of the blob that holds the record.
    InBlob(String),
}

/// The record of these entries.
pub fn encode_record(record: &[Logged]) -> Bytes {
    let entries = record.iter().map(|logged| pb::LogEntry { what: Some(entry(logged)) }).collect();
    pb::LogRecord { version: VERSION, entries, blob: String::new() }.encode_to_vec().into()
}

/// The record that says that the record itself is in the blob of that name.
pub fn encode_in_blob(blob: &str) -> Bytes {
    pb::LogRecord { version: VERSION, entries: Vec::new(), blob: blob.to_owned() }.encode_to_vec().into()
}

/// What a record says.
///
/// # Errors
/// What is malformed, beyond a limit or of a later version.
pub fn decode_record(record: Bytes) -> Result<Recorded, WireError> {
    // An entry is at least its key and length.
    check(scan::entries(&record, &[2]) <= MAX_REPORTS, "a record has too many entries")?;
    check(scan::entries(&record, &[2, 4, 3]) <= record.len() / 4, "a record has more logits than fit into it")?;
    let pb::LogRecord { version, entries, blob } = pb::LogRecord::decode(record)?;
    check(version == VERSION, "a record of a log was written by another version of stageline: use that version")?;
    check(entries.is_empty() != blob.is_empty(), "a record says nothing, or is in two places")?;
    if !blob.is_empty() {
        return Ok(Recorded::InBlob(blob));
    }
    let entries: Result<_, _> = entries.into_iter().map(|entry| logged(entry.what)).collect();
    entries.map(Recorded::Here)
}

fn entry(logged: &Logged) -> pb::log_entry::What {
    use pb::log_entry::What;
    match logged {
        Logged::Accepted(Accepted { request, deadline, callback }) => What::Accepted(pb::LogAccepted {
            request: request.clone(),
            deadline_unix_ms: deadline.0,
            callback: *callback,
        }),
        Logged::Owned { door, job, delivery } => {
            What::Owned(pb::LogOwned { door: door.to_string(), job: *job, delivery: *delivery })
        }
        Logged::Began { prompt_tokens } => What::Began(pb::LogBegan { prompt_tokens: *prompt_tokens }),
        Logged::Alone => What::Alone(pb::LogAlone {}),
        Logged::Released => What::Released(pb::LogReleased {}),
        Logged::Tokens { from, tokens } => {
            let seen = tokens.iter().enumerate().filter_map(|(token, it)| Some((token as u32, it.observed.clone()?)));
            let seen = seen.map(|(token, what)| pb::LogObserved { token, what: Some(encode::observed_message(what)) });
            let ids = tokens.iter().map(|token| token.id).collect();
            What::Tokens(pb::LogTokens { from: *from, ids, observed: seen.collect() })
        }
        Logged::Answer(tensors) => {
            let mut payload = BytesMut::with_capacity(tensors.bytes() as usize);
            tensors.iter().for_each(|named| payload.extend_from_slice(named.tensor.bytes()));
            let tensors = tensors.iter().map(|tensor| head(tensor).into()).collect();
            What::Answer(pb::LogAnswer { tensors, payload: payload.freeze() })
        }
        Logged::Cancelled => What::Cancelled(pb::LogCancelled {}),
        Logged::Requeued => What::Requeued(pb::LogRequeued {}),
        Logged::Ended { outcome, at, deaths } => What::Ended(ended(outcome, *at, *deaths)),
        Logged::Delivered { given_up } => {
            let given_up = given_up.as_deref().map(|why| encode::cut(why, MAX_FAULT_BYTES));
            What::Delivered(pb::LogDelivered { given_up })
        }
    }
}

fn ended(outcome: &Result<FinishReason, Fault>, at: Wall, deaths: u32) -> pb::LogEnded {
    use pb::log_ended::Reason;
    let reason = match outcome {
        Ok(FinishReason::Stop) => Reason::Stop,
        Ok(FinishReason::Length) => Reason::Length,
        Err(_) => Reason::UnknownReason,
    };
    let fault = outcome.as_ref().err().map(encode::fault_message);
    pb::LogEnded { reason: reason.into(), fault, at_unix_ms: at.0, deaths }
}

fn logged(what: Option<pb::log_entry::What>) -> Checked<Logged> {
    use pb::log_entry::What;
    Ok(match what.ok_or(WireError::Illegal("an entry of a record says nothing"))? {
        What::Accepted(pb::LogAccepted { request, deadline_unix_ms, callback }) => {
            Logged::Accepted(Accepted { request, deadline: Wall(deadline_unix_ms), callback })
        }
        What::Owned(pb::LogOwned { door, job, delivery }) => {
            check(delivery > 0, "a job was owned before it was taken")?;
            Logged::Owned { door: decode::replica(&door)?, job, delivery }
        }
        What::Alone(pb::LogAlone {}) => Logged::Alone,
        What::Released(pb::LogReleased {}) => Logged::Released,
        What::Began(pb::LogBegan { prompt_tokens }) => Logged::Began { prompt_tokens },
        What::Tokens(message) => tokens(message)?,
        What::Answer(pb::LogAnswer { tensors, payload }) => {
            let mut payload = Payload(payload);
            let tensors = payload.tensors(&tensors)?;
            check(payload.0.is_empty(), "an answer is longer than what is said of it")?;
            Logged::Answer(tensors)
        }
        What::Cancelled(pb::LogCancelled {}) => Logged::Cancelled,
        What::Requeued(pb::LogRequeued {}) => Logged::Requeued,
        What::Ended(message) => {
            let (reason, at, deaths) = (message.reason(), Wall(message.at_unix_ms), message.deaths);
            let outcome = match (reason, message.fault) {
                (pb::log_ended::Reason::Stop, None) => Ok(FinishReason::Stop),
                (pb::log_ended::Reason::Length, None) => Ok(FinishReason::Length),
                (pb::log_ended::Reason::UnknownReason, Some(fault)) => Err(decode::fault_of(fault)?),
                _ => return Err(WireError::Illegal("an end is neither well nor a fault")),
            };
            Logged::Ended { outcome, at, deaths }
        }
        What::Delivered(pb::LogDelivered { given_up }) => {
            at_most(given_up.as_ref().map_or(0, String::len), MAX_FAULT_BYTES, "a reason")?;
            Logged::Delivered { given_up }
        }
    })
}

fn tokens(pb::LogTokens { from, ids, observed }: pb::LogTokens) -> Checked<Logged> {
    at_most(ids.len(), MAX_KNOWN_TOKENS, "the list of tokens")?;
    check(!ids.is_empty(), "an entry of tokens has none")?;
    let mut tokens: Vec<LoggedToken> = ids.into_iter().map(|id| LoggedToken { id, observed: None }).collect();
    let mut next = 0;
    for pb::LogObserved { token, what } in observed {
        check(token >= next, "logits are out of order")?;
        next = token.saturating_add(1);
        let place = tokens.get_mut(token as usize).ok_or(WireError::Illegal("logits are behind no token"))?;
        place.observed = Some(decode::observed_of(what.ok_or(WireError::Illegal("logits are not there"))?)?);
    }
    Ok(Logged::Tokens { from, tokens })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stageline_base::{Element, FaultClass, HostTensor, ReplicaId, Tensors};
    use stageline_core::Observed;

    fn all() -> Vec<Logged> {
        let observed = Some(Observed { digest: 7, top: vec![(3, 0.5), (1, f32::INFINITY)] });
        let token = |id, observed| LoggedToken { id, observed };
        let tensor = HostTensor::zeros(Element::Bf16, [2, 3]).unwrap();
        let tensors = [("a".into(), tensor), ("b".into(), HostTensor::zeros(Element::U8, []).unwrap())];
        vec![
            Logged::Accepted(Accepted { request: Bytes::from_static(b"{}"), deadline: Wall(u64::MAX), callback: true }),
            Logged::Owned { door: ReplicaId::new("door", 1), job: u64::MAX, delivery: 1 },
            Logged::Released,
            Logged::Alone,
            Logged::Began { prompt_tokens: 12 },
            Logged::Tokens { from: 9, tokens: vec![token(0, None), token(u32::MAX, observed.clone()), token(5, None)] },
            Logged::Tokens { from: 0, tokens: vec![token(1, observed)] },
            Logged::Answer(tensors.into_iter().collect()),
            Logged::Answer(Tensors::default()),
            Logged::Cancelled,
            Logged::Requeued,
            Logged::Ended { outcome: Ok(FinishReason::Stop), at: Wall(1), deaths: 0 },
            Logged::Ended { outcome: Ok(FinishReason::Length), at: Wall(0), deaths: 3 },
            Logged::Ended { outcome: Err(Fault::new(FaultClass::Cancelled, "no").at_stage(2)), at: Wall(9), deaths: 1 },
            Logged::Delivered { given_up: None },
            Logged::Delivered { given_up: Some("nobody is there".to_owned()) },
        ]
    }

    #[test]
    fn every_record_reads_back() {
        assert_eq!(decode_record(encode_record(&all())).unwrap(), Recorded::Here(all()));
        for logged in all() {
            let read = decode_record(encode_record(std::slice::from_ref(&logged))).unwrap();
            assert_eq!(read, Recorded::Here(vec![logged]));
        }
        assert_eq!(decode_record(encode_in_blob("record.a")).unwrap(), Recorded::InBlob("record.a".to_owned()));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let whole = encode_record(&all());
        for cut in 0..whole.len() {
            // Cut between two entries, it is a shorter record.
            let read = decode_record(whole.slice(..cut));
            let begins = |read| matches!(read, Recorded::Here(read) if all().starts_with(&read));
            assert!(read.is_err() || read.is_ok_and(begins), "{cut}");
        }
        let with = |version, what| {
            let entries = vec![pb::LogEntry { what }];
            let record = pb::LogRecord { version, entries, blob: String::new() };
            decode_record(record.encode_to_vec().into()).unwrap_err().to_string()
        };
        use pb::log_entry::What;
        assert!(with(2, Some(What::Cancelled(pb::LogCancelled {}))).contains("another version"));
        assert!(with(1, None).contains("says nothing"));
        assert!(with(1, Some(What::Owned(pb::LogOwned::default()))).contains("before it was taken"));
        assert!(with(1, Some(What::Tokens(pb::LogTokens::default()))).contains("has none"));
        assert!(with(1, Some(What::Ended(pb::LogEnded::default()))).contains("neither well nor a fault"));
        let long = pb::LogAnswer { tensors: Vec::new(), payload: Bytes::from_static(b"x") };
        assert!(with(1, Some(What::Answer(long))).contains("longer than what is said"));
        let behind = pb::LogObserved { token: 1, what: Some(pb::Observed::default()) };
        let tokens = pb::LogTokens { from: 0, ids: vec![1], observed: vec![behind] };
        assert!(with(1, Some(What::Tokens(tokens))).contains("behind no token"));
        assert!(decode_record(Bytes::new()).is_err());
    }

    #[test]
    fn a_record_of_empty_entries_is_refused_unseen() {
        let entries = vec![pb::LogEntry::default(); MAX_REPORTS + 1];
        let record: Bytes = pb::LogRecord { version: 1, entries, blob: String::new() }.encode_to_vec().into();
        assert_eq!(decode_record(record), Err(WireError::Illegal("a record has too many entries")));
    }
}
