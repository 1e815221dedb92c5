//! The wire: what was sent is what is read, and no bytes at all can hurt the reader.

use crate::{allocations, mails};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use stageline_base::prng::Prng;
use stageline_base::{Element, HostTensor, ReplicaId, SequenceId, Tensors};
use stageline_core::batch::trailer_room;
use stageline_core::{Body, FrameContent, LinkMail, Mail, Segment};
use stageline_wire::{MAGIC, WireError, decode, encode};

proptest! {
    #![proptest_config(Config { cases: 4000, ..Config::default() })]

    #[test]
    fn every_mail_reads_back(mail in mails::mail()) {
        let before = format!("{mail:?}");
        let parcel = encode(mail).bytes;
        prop_assert_eq!(format!("{:?}", decode(parcel).unwrap()), before);
    }
}

/// What one decode may ask for, all allocations added up, those of growing lists too.
fn bound(parcel_bytes: usize) -> usize {
    32 * parcel_bytes + 1024
}

#[test]
fn a_hundred_thousand_broken_parcels_are_errors_or_mail_and_never_dear() {
    let mut runner = TestRunner::deterministic();
    let mut random = Prng::new(1);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..2000 {
        let mail = mails::mail().new_tree(&mut runner).unwrap().current();
        let parcel = encode(mail).bytes.to_vec();
        for _ in 0..50 {
            let broken = Bytes::from(mutated(parcel.clone(), &mut random));
            let len = broken.len();
            let (result, allocated) = allocations::during(|| decode(broken));
            assert!(allocated <= bound(len), "{len} bytes cost {allocated}");
            match result {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 10_000 && read > 1000, "{refused} refused, {read} read: both must be exercised");
}

/// One to four changes: a bit, a byte, a cut, bytes put in or taken out, a number at its extreme.
fn mutated(mut bytes: Vec<u8>, random: &mut Prng) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next_u64() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.remove(at)),
            4 => bytes.insert(at, random.next_u64() as u8),
            5 => bytes[at] = 0xff,
            _ => {
                // The header's length, or the magic.
                let from = bytes.len().saturating_sub(8);
                let at = from + random.below((bytes.len() - from) as u64) as usize;
                bytes[at] = bytes[at].wrapping_add(random.below(5) as u8);
            }
        }
    }
    bytes
}

/// A parcel of this header, with a right trailer.
fn parcel(header: &[u8]) -> Bytes {
    let trailer = [(header.len() as u32).to_le_bytes(), MAGIC.to_le_bytes()].concat();
    [header, &trailer].concat().into()
}

#[test]
fn headers_made_to_be_dear_are_not() {
    // Field 7 is Feedback, its field 2 a Report: two bytes each. Field 9 likewise, a close each.
    for field in [7u8, 9] {
        for entries in [10usize, 1000, 100_000] {
            let list = [field_key(2), 0].repeat(entries);
            let mut header = vec![field_key(field)];
            prost_varint(list.len(), &mut header);
            header.extend(list);
            let parcel = parcel(&header);
            let len = parcel.len();
            let (result, allocated) = allocations::during(|| decode(parcel));
            assert!(result.is_err());
            assert!(allocated <= bound(len), "{entries} entries of {len} bytes cost {allocated}");
        }
    }
}

#[test]
fn a_list_of_as_many_tensors_as_fit_is_not_dear() {
    // Names of one byte, without dimensions: of all legal tensors these say the least for what they cost.
    let empty = || HostTensor::new(Element::U8, [0], Bytes::new()).unwrap();
    for tensors in [1, 10, 64, 65, 1000] {
        let payload = (0..tensors).map(|_| ("a".into(), empty())).collect();
        let parcel = encode(rows_of(payload, 1)).bytes;
        let len = parcel.len();
        let (result, allocated) = allocations::during(|| decode(parcel));
        assert_eq!(result.is_ok(), tensors <= 64, "{tensors} tensors");
        assert!(allocated <= bound(len), "{tensors} tensors of {len} bytes cost {allocated}");
    }
}

#[test]
fn a_payload_is_as_long_as_its_tensors() {
    let tensors: Tensors = [Element::I64, Element::Bool, Element::Bf16]
        .map(|element| (element.as_str().into(), HostTensor::zeros(element, [3, 2]).unwrap()))
        .into_iter()
        .collect();
    let whole = encode(rows_of(tensors.clone(), 1)).bytes;
    let Body::Link(LinkMail::Frame { content: FrameContent::Rows { payload, .. }, .. }) =
        decode(whole.clone()).unwrap().body
    else {
        panic!()
    };
    assert_eq!(payload, tensors);
    for changed in [whole.slice(1..), [&[0], &whole[..]].concat().into()] {
        assert!(matches!(decode(changed), Err(WireError::Illegal(_))));
    }
}

fn field_key(field: u8) -> u8 {
    field << 3 | 2
}

fn prost_varint(mut value: usize, to: &mut Vec<u8>) {
    while value > 0x7f {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

#[test]
fn a_parcel_that_is_none_says_so() {
    assert_eq!(decode(Bytes::new()).unwrap_err(), WireError::Short { bytes: 0 });
    assert_eq!(decode(Bytes::from_static(b"12345678")).unwrap_err(), WireError::Version { found: 0x38373635 });
    let mut later = encode(mail(1)).bytes.to_vec();
    *later.last_mut().unwrap() += 1;
    assert!(matches!(decode(later.into()), Err(WireError::Version { .. })));
    let mut long = encode(mail(1)).bytes.to_vec();
    let at = long.len() - 6;
    long[at] = 1;
    assert!(matches!(decode(long.into()), Err(WireError::Short { .. })));
}

fn rows_of(payload: Tensors, segments: u32) -> Mail {
    let from = ReplicaId::new("pod", 1);
    let segments = (0..segments).map(|i| Segment {
        sequence: SequenceId { boot: u64::MAX, counter: u64::MAX },
        attempt: u32::MAX,
        door: ReplicaId::new(&"d".repeat(63), u64::from(i)),
        start: u32::MAX - 1,
        rows: 1,
        emit: true,
    });
    let content = FrameContent::Rows { segments: segments.collect(), payload };
    Mail { from, stage: 0, body: Body::Link(LinkMail::Frame { epoch: u32::MAX, number: u64::MAX, content }) }
}

fn mail(rows: usize) -> Mail {
    rows_of(Tensors::hidden(rows, vec![0; rows * 32].into()).unwrap(), rows as u32)
}

#[test]
fn a_payload_with_room_behind_it_is_not_copied_at_either_end() {
    for rows in [1usize, 7, 300] {
        let mut buffer = BytesMut::with_capacity(rows * 32 + trailer_room(rows));
        buffer.resize(rows * 32, 3);
        let at = buffer.as_ptr();
        let mail = rows_of(Tensors::hidden(rows, buffer.freeze()).unwrap(), rows as u32);
        let encoded = encode(mail);
        assert_eq!(encoded.copied_bytes, 0, "{rows} rows");
        assert_eq!(encoded.bytes.as_ptr(), at);
        let read = decode(encoded.bytes).unwrap();
        let Body::Link(LinkMail::Frame { content: FrameContent::Rows { payload, .. }, .. }) = read.body else {
            panic!()
        };
        assert_eq!(payload[0].tensor.bytes().as_ptr(), at);
    }
}

#[test]
fn a_payload_that_others_hold_is_copied_and_counted() {
    let shared: Bytes = vec![1u8; 64].into();
    let encoded = encode(rows_of(Tensors::hidden(2, shared.clone()).unwrap(), 2));
    assert_eq!(encoded.copied_bytes, 64);
    assert_eq!(shared, vec![1u8; 64], "what others hold is left alone");
    assert_eq!(encode(mail(2)).copied_bytes, 64, "a buffer without room is copied, too");
}

#[test]
fn a_text_that_is_too_long_is_cut_by_its_sender() {
    let fault = stageline_base::Fault::internal("ä".repeat(5000));
    let sequence = SequenceId { boot: 1, counter: 1 };
    let report = stageline_core::Report::Refused { sequence, attempt: 1, fault };
    let feedback = stageline_core::Feedback { stage: 0, number: 1, reports: vec![report] };
    let mail = Mail { from: ReplicaId::new("pod", 1), stage: 0, body: Body::Feedback(feedback) };
    let Body::Feedback(read) = decode(encode(mail).bytes).unwrap().body else { panic!() };
    let stageline_core::Report::Refused { fault, .. } = &read.reports[0] else { panic!() };
    assert_eq!(fault.message, "ä".repeat(512));
}
