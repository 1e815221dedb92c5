//! Mail of every kind, drawn at random.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use stageline_base::{Element, Fault, FaultClass, HostTensor, ReplicaId, SequenceId, Shape, Task, Tensors, Trace};
use stageline_core::message::Cause;
use stageline_core::*;
use std::sync::Arc;

fn replica() -> impl Strategy<Value = ReplicaId> {
    ("[a-zA-Z0-9_-]{0,20}", any::<u64>()).prop_map(|(host, boot)| ReplicaId::new(&host, boot))
}

fn sequence() -> impl Strategy<Value = SequenceId> {
    (any::<u64>(), 1..=u64::MAX).prop_map(|(boot, counter)| SequenceId { boot, counter })
}

fn fault() -> impl Strategy<Value = Fault> {
    (0..FaultClass::ALL.len(), "\\PC{0,60}", proptest::option::of(0u16..1024))
        .prop_map(|(class, message, stage)| Fault { class: FaultClass::ALL[class], message, stage, retry_after: None })
}

fn work() -> impl Strategy<Value = Work> {
    let sampling = (0.0f32..5.0, any::<u32>(), 0.001f32..=1.0, 0.1f32..3.0, any::<u64>(), 0u32..=20).prop_map(
        |(temperature, top_k, top_p, repetition_penalty, seed, top_logits)| {
            Work::of(Task::GENERATE, Sampling { temperature, top_k, top_p, repetition_penalty, seed, top_logits })
        },
    );
    prop_oneof![sampling, Just(Work::of(Task::EMBED, Sampling::GREEDY))]
}

fn trace() -> impl Strategy<Value = Trace> {
    (1..=u128::MAX, 1..=u64::MAX, any::<bool>())
        .prop_map(|(id, parent, sampled)| Trace::new(id, parent, sampled).expect("neither is 0"))
}

fn opening() -> impl Strategy<Value = Opening> {
    (
        sequence(),
        any::<u32>(),
        replica(),
        vec(replica(), 1..6),
        ("\\PC{0,30}", trace()),
        work(),
        vec(any::<u32>(), 0..40),
        1u32..99,
    )
        .prop_map(|(sequence, attempt, door, path, (call_id, trace), work, known, more)| {
            let capacity_tokens = known.len() as u32 + more;
            Opening { sequence, attempt, door, path, call_id, trace, work, known, capacity_tokens }
        })
}

fn segment() -> impl Strategy<Value = Segment> {
    (sequence(), any::<u32>(), replica(), 0u32..1 << 30, 1u32..5, any::<bool>())
        .prop_map(|(sequence, attempt, door, start, rows, emit)| Segment { sequence, attempt, door, start, rows, emit })
}

fn tensor() -> impl Strategy<Value = HostTensor> {
    (0..Element::ALL.len(), vec(0usize..5, 0..5), any::<u8>()).prop_map(|(element, extents, first)| {
        let (element, shape) = (Element::ALL[element], Shape::new(&extents).unwrap());
        let bytes: Bytes =
            (0..shape.elements().unwrap() * element.bytes()).map(|i| first.wrapping_add(i as u8)).collect();
        HostTensor::new(element, shape, bytes).unwrap()
    })
}

fn tensors() -> impl Strategy<Value = Tensors> {
    vec(("[A-Za-z0-9_.-]{1,20}", tensor()), 0..4)
        .prop_map(|tensors| tensors.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect())
}

fn rows() -> impl Strategy<Value = FrameContent> {
    (vec(segment(), 1..8), tensors()).prop_map(|(segments, payload)| FrameContent::Rows { segments, payload })
}

fn link() -> impl Strategy<Value = LinkMail> {
    let close = (sequence(), any::<u32>()).prop_map(|(sequence, attempt)| FrameContent::Close { sequence, attempt });
    let open = opening().prop_map(|opening| FrameContent::Open(Arc::new(opening)));
    prop_oneof![
        (1..=u32::MAX).prop_map(|epoch| LinkMail::Hello { epoch }),
        (1..=u32::MAX, any::<u64>()).prop_map(|(epoch, sent)| LinkMail::Probe { epoch, sent }),
        (1..=u32::MAX, 1..=u64::MAX, prop_oneof![open, rows(), close])
            .prop_map(|(epoch, number, content)| LinkMail::Frame { epoch, number, content }),
    ]
}

fn reply() -> impl Strategy<Value = LinkReply> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>());
    numbers.prop_map(|(epoch, before, got, rows, bytes, flag)| match before % 2 {
        0 => LinkReply::Welcome { epoch, before, got, credit_rows: rows, credit_bytes: bytes },
        _ => LinkReply::State { epoch, got, returned_rows: rows, returned_bytes: bytes, broken: flag },
    })
}

fn emission() -> impl Strategy<Value = Emission> {
    let observed = (any::<u64>(), vec((any::<u32>(), any::<f32>()), 0..=20));
    let observed = observed.prop_map(|(digest, top)| Observed { digest, top });
    prop_oneof![
        (any::<u32>(), proptest::option::of(observed)).prop_map(|(id, observed)| Emission::Token { id, observed }),
        tensors().prop_map(Emission::Tensors),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    let causes = prop_oneof![Just(Cause::Gap), Just(Cause::Unknown), Just(Cause::Lost), Just(Cause::Device)];
    prop_oneof![
        (sequence(), any::<u32>()).prop_map(|(sequence, attempt)| Report::Opened { sequence, attempt }),
        (sequence(), any::<u32>(), fault()).prop_map(|(sequence, attempt, fault)| Report::Refused {
            sequence,
            attempt,
            fault
        }),
        (sequence(), any::<u32>(), any::<u32>(), emission()).prop_map(|(sequence, attempt, position, emission)| {
            Report::Emitted { sequence, attempt, position, emission }
        }),
        (sequence(), any::<u32>(), causes, 0u16..1024, fault()).prop_map(|(sequence, attempt, cause, stage, fault)| {
            Report::Failed { sequence, attempt, cause, stage, fault }
        }),
    ]
}

/// Mail of every kind.
pub fn mail() -> impl Strategy<Value = Mail> {
    let feedback = (0..1024u16, any::<u64>(), vec(report(), 0..6)).prop_map(|(stage, number, reports)| Feedback {
        stage,
        number,
        reports,
    });
    let body = prop_oneof![
        4 => link().prop_map(Body::Link),
        1 => reply().prop_map(Body::Reply),
        2 => feedback.prop_map(Body::Feedback),
        1 => any::<u64>().prop_map(|number| Body::FeedbackAck { number }),
        1 => (any::<u64>(), vec((sequence(), any::<u32>()), 0..6))
            .prop_map(|(number, closes)| Body::CloseNow { number, closes }),
        1 => any::<u64>().prop_map(|number| Body::CloseAck { number }),
    ];
    (replica(), 0..1024u16, body).prop_map(|(from, stage, body)| Mail { from, stage, body })
}

/// A frame from a replica of stage 0, of one segment whose payload is `bytes` long (a multiple of 4, at least 4), numbered.
pub fn frame(from: &ReplicaId, number: u64, bytes: usize) -> Mail {
    let segment = Segment {
        sequence: SequenceId { boot: 1, counter: 1 },
        attempt: 1,
        door: from.clone(),
        start: 0,
        rows: (bytes / 4) as u32,
        emit: true,
    };
    let payload: Vec<u8> = (0..bytes).map(|i| (i as u64).wrapping_mul(number) as u8).collect();
    let payload = Tensors::hidden(bytes / 4, payload.into()).unwrap();
    let content = FrameContent::Rows { segments: vec![segment], payload };
    Mail { from: from.clone(), stage: 0, body: Body::Link(LinkMail::Frame { epoch: 1, number, content }) }
}
