//! Protobuf messages to values, every field checked.

use super::tensors::Payload;
use super::{Checked, MAX_CLOSES, MAX_FAULT_BYTES, MAX_KNOWN_TOKENS, MAX_REPORTS, WireError, at_most, check, pb, rows};
use bytes::Bytes;
use stageline_base::limits::{MAX_CALL_ID_BYTES, MAX_STAGES, MAX_TOP_LOGITS};
use stageline_base::{Attempt, Course, Fault, FaultClass, ReplicaId, SequenceId, StageIndex, Trace};
use stageline_core::message::Cause;
use stageline_core::{
    Body, Emission, Feedback, FrameContent, LinkMail, LinkReply, Observed, Opening, Report, Sampling, Work,
};
use std::sync::Arc;

/// What the header says, with the bytes before it.
pub(super) fn body(body: Option<pb::header::Body>, payload: Bytes) -> Checked<Body> {
    use pb::header::Body as Wire;
    let body = body.ok_or(WireError::Illegal("the header has no body"))?;
    let mut payload = Payload(payload);
    let body = match body {
        Wire::Hello(pb::Hello { epoch }) => {
            check(epoch > 0, "an epoch is 0")?;
            Body::Link(LinkMail::Hello { epoch })
        }
        Wire::Probe(pb::Probe { epoch, sent }) => {
            check(epoch > 0, "an epoch is 0")?;
            Body::Link(LinkMail::Probe { epoch, sent })
        }
        Wire::Frame(frame) => Body::Link(link_frame(frame, &mut payload)?),
        Wire::Welcome(pb::Welcome { epoch, before, got, credit_rows, credit_bytes }) => {
            Body::Reply(LinkReply::Welcome { epoch, before, got, credit_rows, credit_bytes })
        }
        Wire::State(pb::State { epoch, got, returned_rows, returned_bytes, broken }) => {
            Body::Reply(LinkReply::State { epoch, got, returned_rows, returned_bytes, broken })
        }
        Wire::Feedback(feedback) => {
            at_most(feedback.reports.len(), MAX_REPORTS, "the list of reports")?;
            let reports = feedback.reports.into_iter().map(|one| report(one, &mut payload)).collect::<Checked<_>>()?;
            Body::Feedback(Feedback { stage: stage(feedback.stage)?, number: feedback.number, reports })
        }
        Wire::FeedbackAck(number) => Body::FeedbackAck { number },
        Wire::CloseNow(pb::CloseNow { number, closes }) => {
            at_most(closes.len(), MAX_CLOSES, "the list of closes")?;
            let closes = closes.into_iter().map(|close| sequence(Some(close))).collect::<Checked<_>>()?;
            Body::CloseNow { number, closes }
        }
        Wire::CloseAck(number) => Body::CloseAck { number },
        Wire::Ping(pb::Ping {}) => Body::Ping,
    };
    check(payload.0.is_empty(), "the payload is longer than what is said of it")?;
    Ok(body)
}

fn link_frame(frame: pb::Frame, payload: &mut Payload) -> Checked<LinkMail> {
    use pb::frame::Content;
    let pb::Frame { epoch, number, content } = frame;
    check(epoch > 0, "an epoch is 0")?;
    check(number > 0, "a frame's number is 0")?;
    let content = match content.ok_or(WireError::Illegal("a frame carries nothing"))? {
        Content::Rows(message) => rows::read(&message, payload)?,
        Content::Open(message) => FrameContent::Open(Arc::new(open(message)?)),
        Content::Close(close) => {
            let (sequence, attempt) = sequence(Some(close))?;
            FrameContent::Close { sequence, attempt }
        }
    };
    Ok(LinkMail::Frame { epoch, number, content })
}

/// A replica's id.
pub(super) fn replica(text: &str) -> Checked<ReplicaId> {
    ReplicaId::parse(text).ok_or(WireError::Illegal("a replica's id is malformed"))
}

fn sequence(message: Option<pb::SequenceAttempt>) -> Checked<(SequenceId, Attempt)> {
    let message = message.ok_or(WireError::Illegal("a message names no sequence"))?;
    check(message.counter > 0, "a sequence's counter is 0")?;
    Ok((SequenceId { boot: message.boot, counter: message.counter }, message.attempt))
}

fn open(message: pb::Opening) -> Checked<Opening> {
    let (sequence, attempt) = sequence(message.sequence)?;
    at_most(message.path.len(), MAX_STAGES, "a path")?;
    at_most(message.call_id.len(), MAX_CALL_ID_BYTES, "a call id")?;
    at_most(message.known.len(), MAX_KNOWN_TOKENS, "the list of known ids")?;
    check(!message.path.is_empty(), "an Open has no path")?;
    check(message.capacity_tokens > 0, "an Open reserves nothing")?;
    check(message.capacity_tokens as usize >= message.known.len(), "an Open reserves less than its known ids")?;
    let course = match message.course() {
        pb::opening::Course::Once => Course::Once,
        pb::opening::Course::Loop => Course::Loop,
        pb::opening::Course::UnknownCourse => return Err(WireError::Illegal("an Open's course is unknown")),
    };
    let work = Work { course, cached: message.cached, sampling: message.sampling.map(sampling_of).transpose()? };
    check(work.is_loop() || work.sampling.is_none(), "an Open of one step asks for tokens")?;
    Ok(Opening {
        sequence,
        attempt,
        door: replica(&message.door)?,
        path: message.path.iter().map(|id| replica(id)).collect::<Checked<_>>()?,
        call_id: message.call_id,
        trace: trace_of(message.trace)?,
        work,
        known: message.known,
        capacity_tokens: message.capacity_tokens,
    })
}

fn trace_of(message: Option<pb::Trace>) -> Checked<Trace> {
    let pb::Trace { id_high, id_low, parent, sampled } = message.ok_or(WireError::Illegal("an Open names no trace"))?;
    let id = (u128::from(id_high) << 64) | u128::from(id_low);
    Trace::new(id, parent, sampled).ok_or(WireError::Illegal("an id of a trace is 0"))
}

fn sampling_of(message: pb::Sampling) -> Checked<Sampling> {
    let pb::Sampling { temperature, top_k, top_p, repetition_penalty, seed, top_logits } = message;
    let sampling = Sampling { temperature, top_k, top_p, repetition_penalty, seed, top_logits };
    check(sampling.check().is_ok(), "a number of how tokens are drawn is out of its bounds")?;
    Ok(sampling)
}

fn report(message: pb::Report, payload: &mut Payload) -> Checked<Report> {
    use pb::report::What;
    let (sequence, attempt) = sequence(message.sequence)?;
    Ok(match message.what.ok_or(WireError::Illegal("a report says nothing"))? {
        What::Opened(pb::Opened {}) => Report::Opened { sequence, attempt },
        What::Refused(fault) => Report::Refused { sequence, attempt, fault: fault_of(fault)? },
        What::Token(pb::Token { position, id, observed }) => {
            let observed = observed.map(observed_of).transpose()?;
            Report::Emitted { sequence, attempt, position, emission: Emission::Token { id, observed } }
        }
        What::Answer(pb::Answer { position, tensors }) => {
            let emission = Emission::Tensors(payload.tensors(&tensors)?);
            Report::Emitted { sequence, attempt, position, emission }
        }
        What::Failed(failed) => {
            let cause = match failed.cause() {
                pb::failed::Cause::Gap => Cause::Gap,
                pb::failed::Cause::UnknownSequence => Cause::Unknown,
                pb::failed::Cause::Lost => Cause::Lost,
                pb::failed::Cause::Device => Cause::Device,
                pb::failed::Cause::UnknownCause => return Err(WireError::Illegal("a failure's cause is unknown")),
            };
            let fault = failed.fault.ok_or(WireError::Illegal("a failure has no fault"))?;
            Report::Failed { sequence, attempt, cause, stage: stage(failed.stage)?, fault: fault_of(fault)? }
        }
    })
}

pub(super) fn observed_of(message: pb::Observed) -> Checked<Observed> {
    at_most(message.ids.len(), MAX_TOP_LOGITS as usize, "the list of logits")?;
    check(message.ids.len() == message.logits.len(), "a token's logits and their ids are of different lengths")?;
    Ok(Observed { digest: message.digest, top: message.ids.into_iter().zip(message.logits).collect() })
}

pub(super) fn stage(index: u32) -> Checked<StageIndex> {
    check((index as usize) < MAX_STAGES, "a stage is beyond the last one possible")?;
    Ok(index as StageIndex)
}

pub(super) fn fault_of(message: pb::Fault) -> Checked<Fault> {
    at_most(message.message.len(), MAX_FAULT_BYTES, "a fault's text")?;
    let class = usize::try_from(message.class).ok().and_then(|number| FaultClass::ALL.get(number));
    let class = *class.ok_or(WireError::Illegal("a fault's class is unknown"))?;
    Ok(Fault { class, message: message.message, stage: message.stage.map(stage).transpose()?, retry_after: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_without_ids_is_none() {
        let trace = |id_high, id_low, parent| trace_of(Some(pb::Trace { id_high, id_low, parent, sampled: true }));
        assert_eq!(trace(1, 2, 3).unwrap(), Trace::new((1 << 64) + 2, 3, true).unwrap());
        assert!(trace(1, 0, 3).is_ok() && trace(0, 2, 3).is_ok());
        for refused in [trace(0, 0, 3), trace(1, 2, 0), trace_of(None)] {
            assert!(matches!(refused, Err(WireError::Illegal(_))));
        }
    }

    #[test]
    fn numbers_of_a_draw_are_held_to_the_bounds_that_doors_have() {
        let usual = pb::Sampling { top_p: 1.0, repetition_penalty: 1.0, ..pb::Sampling::default() };
        assert!(sampling_of(usual).is_ok());
        for wrong in [
            pb::Sampling { temperature: f32::NAN, ..usual },
            pb::Sampling { top_p: 0.0, ..usual },
            pb::Sampling { repetition_penalty: 1e-30, ..usual },
            pb::Sampling { top_logits: MAX_TOP_LOGITS + 1, ..usual },
        ] {
            assert!(matches!(sampling_of(wrong), Err(WireError::Illegal(_))), "{wrong:?}");
        }
    }
}
