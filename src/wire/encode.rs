//! Values to protobuf messages.

use super::tensors::head;
use super::{MAX_FAULT_BYTES, pb, rows};
use bytes::Bytes;
use stageline_base::limits::MAX_CALL_ID_BYTES;
use stageline_base::{Attempt, Course, Fault, FaultClass, SequenceId, Tensors, Trace};
use stageline_core::message::Cause;
use stageline_core::{
    Body, Emission, Feedback, FrameContent, LinkMail, LinkReply, Mail, Observed, Opening, Report, Sampling, Work,
};

/// The header of `mail`, and its payload in parts: the bytes of each of its tensors.
pub(super) fn header(mail: Mail) -> (pb::Header, Vec<Bytes>) {
    use pb::header::Body as Wire;
    let mut payload = Vec::new();
    let body = match mail.body {
        Body::Link(LinkMail::Hello { epoch }) => Wire::Hello(pb::Hello { epoch }),
        Body::Link(LinkMail::Probe { epoch, sent }) => Wire::Probe(pb::Probe { epoch, sent }),
        Body::Link(LinkMail::Frame { epoch, number, content }) => {
            let content = Some(frame_content(content, &mut payload));
            Wire::Frame(pb::Frame { epoch, number, content })
        }
        Body::Reply(reply) => link_reply(reply),
        Body::Feedback(feedback) => Wire::Feedback(feedback_message(feedback, &mut payload)),
        Body::FeedbackAck { number } => Wire::FeedbackAck(number),
        Body::CloseNow { number, closes } => {
            let closes = closes.into_iter().map(|(sequence, attempt)| of(sequence, attempt)).collect();
            Wire::CloseNow(pb::CloseNow { number, closes })
        }
        Body::CloseAck { number } => Wire::CloseAck(number),
        Body::Ping => Wire::Ping(pb::Ping {}),
    };
    (pb::Header { from: mail.from.as_str().to_owned(), from_stage: mail.stage.into(), body: Some(body) }, payload)
}

fn of(sequence: SequenceId, attempt: Attempt) -> pb::SequenceAttempt {
    pb::SequenceAttempt { boot: sequence.boot, counter: sequence.counter, attempt }
}

fn frame_content(content: FrameContent, payload: &mut Vec<Bytes>) -> pb::frame::Content {
    match content {
        FrameContent::Open(opening) => pb::frame::Content::Open(open(&opening)),
        FrameContent::Rows { segments, payload: tensors } => {
            let message = rows::write(&segments, &tensors).into();
            payload.extend(tensors.into_iter().map(|named| named.tensor.into_bytes()));
            pb::frame::Content::Rows(message)
        }
        FrameContent::Close { sequence, attempt } => pb::frame::Content::Close(of(sequence, attempt)),
    }
}

/// The heads of `tensors`; their bytes go to the payload.
fn heads(tensors: Tensors, payload: &mut Vec<Bytes>) -> Vec<Bytes> {
    let heads = tensors.iter().map(|tensor| head(tensor).into()).collect();
    payload.extend(tensors.into_iter().map(|named| named.tensor.into_bytes()));
    heads
}

fn open(opening: &Opening) -> pb::Opening {
    let Work { course, cached, sampling } = opening.work;
    let course = match course {
        Course::Once => pb::opening::Course::Once,
        Course::Loop => pb::opening::Course::Loop,
    };
    pb::Opening {
        sequence: Some(of(opening.sequence, opening.attempt)),
        door: opening.door.as_str().to_owned(),
        path: opening.path.iter().map(|replica| replica.as_str().to_owned()).collect(),
        call_id: cut(&opening.call_id, MAX_CALL_ID_BYTES),
        trace: Some(trace(opening.trace)),
        sampling: sampling.map(sampling_message),
        course: course.into(),
        cached,
        known: opening.known.clone(),
        capacity_tokens: opening.capacity_tokens,
    }
}

fn trace(trace: Trace) -> pb::Trace {
    let (id_high, id_low) = ((trace.id() >> 64) as u64, trace.id() as u64);
    pb::Trace { id_high, id_low, parent: trace.parent(), sampled: trace.sampled() }
}

fn sampling_message(sampling: Sampling) -> pb::Sampling {
    let Sampling { temperature, top_k, top_p, repetition_penalty, seed, top_logits } = sampling;
    pb::Sampling { temperature, top_k, top_p, repetition_penalty, seed, top_logits }
}

fn link_reply(reply: LinkReply) -> pb::header::Body {
    match reply {
        LinkReply::Welcome { epoch, before, got, credit_rows, credit_bytes } => {
            pb::header::Body::Welcome(pb::Welcome { epoch, before, got, credit_rows, credit_bytes })
        }
        LinkReply::State { epoch, got, returned_rows, returned_bytes, broken } => {
            pb::header::Body::State(pb::State { epoch, got, returned_rows, returned_bytes, broken })
        }
    }
}

fn feedback_message(feedback: Feedback, payload: &mut Vec<Bytes>) -> pb::Feedback {
    let reports = feedback.reports.into_iter().map(|one| report(one, payload)).collect();
    pb::Feedback { number: feedback.number, reports, stage: feedback.stage.into() }
}

fn report(report: Report, payload: &mut Vec<Bytes>) -> pb::Report {
    use pb::report::What;
    let (sequence, attempt, what) = match report {
        Report::Opened { sequence, attempt } => (sequence, attempt, What::Opened(pb::Opened {})),
        Report::Refused { sequence, attempt, fault } => (sequence, attempt, What::Refused(fault_message(&fault))),
        Report::Emitted { sequence, attempt, position, emission } => {
            let what = match emission {
                Emission::Token { id, observed } => {
                    What::Token(pb::Token { position, id, observed: observed.map(observed_message) })
                }
                Emission::Tensors(tensors) => What::Answer(pb::Answer { position, tensors: heads(tensors, payload) }),
            };
            (sequence, attempt, what)
        }
        Report::Failed { sequence, attempt, cause, stage, fault } => {
            let mut failed =
                pb::Failed { stage: stage.into(), fault: Some(fault_message(&fault)), ..Default::default() };
            failed.set_cause(match cause {
                Cause::Gap => pb::failed::Cause::Gap,
                Cause::Unknown => pb::failed::Cause::UnknownSequence,
                Cause::Lost => pb::failed::Cause::Lost,
                Cause::Device => pb::failed::Cause::Device,
            });
            (sequence, attempt, What::Failed(failed))
        }
    };
    pb::Report { sequence: Some(of(sequence, attempt)), what: Some(what) }
}

pub(super) fn observed_message(observed: Observed) -> pb::Observed {
    let (ids, logits) = observed.top.into_iter().unzip();
    pb::Observed { digest: observed.digest, ids, logits }
}

pub(super) fn fault_message(fault: &Fault) -> pb::Fault {
    let class = FaultClass::ALL.iter().position(|class| *class == fault.class).unwrap_or_default();
    let message = cut(&fault.message, MAX_FAULT_BYTES);
    pb::Fault { class: class as i32, message, stage: fault.stage.map(u32::from) }
}

/// `text`, at most `max_bytes` of it, whole characters only: what is too long must not make a message that its receiver
/// refuses.
pub(super) fn cut(text: &str, max_bytes: usize) -> String {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
