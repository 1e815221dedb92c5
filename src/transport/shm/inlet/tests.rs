use super::*;
use crate::shm::{Outlet, PushError};
use proptest::prelude::*;
use stageline_core::LinkMail;
use stageline_core::message::{FrameContent, Segment as Rows};
use stageline_wire::encode_parts;

const MOST: usize = 1 << 20;

struct Pair {
    bell: Bell,
    inlet: Inlet,
    outlet: Outlet,
}

fn pair(arena_bytes: u64) -> Pair {
    let bell = Bell::new(7, None).unwrap();
    let geometry = Geometry::of(arena_bytes).unwrap();
    let inlet = Inlet::create(&bell, geometry, MOST, (me(), HopMetrics::default())).unwrap();
    let me = std::process::id();
    let outlet = Outlet::open(me, (inlet.number(), bell.number()), 7, geometry).unwrap();
    Pair { bell, inlet, outlet }
}

fn me() -> ReplicaId {
    ReplicaId::new("sender", 1)
}

/// The `n`th frame, whose payload is so many rows of four bytes.
fn frame(n: u64, rows: usize) -> Mail {
    let ids: Vec<u32> = (0..rows as u32).map(|i| i.wrapping_mul(n as u32)).collect();
    let segment = Rows {
        sequence: stageline_base::SequenceId { boot: 1, counter: 1 },
        attempt: 1,
        door: me(),
        start: 0,
        rows: rows as u32,
        emit: true,
    };
    let content = FrameContent::Rows { segments: vec![segment], payload: stageline_base::Tensors::tokens(&ids) };
    Mail { from: me(), stage: 0, body: Body::Link(LinkMail::Frame { epoch: 1, number: n, content }) }
}

fn push(outlet: &mut Outlet, mail: Mail) -> std::result::Result<(), PushError> {
    let (payload, rest) = encode_parts(mail);
    outlet.push(&payload, &rest)
}

#[test]
fn parcels_come_out_as_they_went_in_and_let_go_of_in_any_order() {
    let Pair { bell, mut inlet, mut outlet } = pair(64 << 10);
    let mut held = Vec::new();
    for n in 1..=5000u64 {
        let rows = 1 + (n * 37 % 500) as usize;
        let seen = bell.rings();
        push(&mut outlet, frame(n, rows)).unwrap();
        assert_ne!(bell.rings(), seen, "every parcel rings");
        let mail = inlet.next().unwrap().unwrap();
        assert_eq!(format!("{mail:?}"), format!("{:?}", frame(n, rows)));
        held.push((mail, frame(n, rows)));
        // In an order that is neither first nor last in, first out.
        if held.len() > 8 {
            let (mail, want) = held.swap_remove((n * 7 % 8) as usize);
            assert_eq!(format!("{mail:?}"), format!("{want:?}"), "nobody wrote over it meanwhile");
        }
    }
    assert!(inlet.next().unwrap().is_none());
}

#[test]
fn a_ring_without_room_says_so_until_there_is_some() {
    let Pair { mut inlet, mut outlet, .. } = pair(64 << 10);
    let sent = (1..).take_while(|n| push(&mut outlet, frame(*n, 1000)).is_ok()).count();
    assert_eq!(sent, 15, "15 of 4,000 bytes and a header each");
    assert_eq!(push(&mut outlet, frame(1, 20_000)), Err(PushError::Full));
    let first = inlet.next().unwrap().unwrap();
    assert_eq!(push(&mut outlet, frame(99, 1000)), Err(PushError::Full), "read, but not let go of");
    drop(first);
    assert_eq!(push(&mut outlet, frame(99, 1000)), Ok(()));

    let Pair { mut inlet, mut outlet, .. } = pair(1 << 20);
    let hello = || Mail { from: me(), stage: 0, body: Body::Link(LinkMail::Hello { epoch: 1 }) };
    let sent = (1..).take_while(|_| push(&mut outlet, hello()).is_ok()).count();
    assert_eq!(sent, SLOTS as usize, "descriptors are bounded too");
    while inlet.next().unwrap().is_some() {}
    assert_eq!(push(&mut outlet, hello()), Ok(()));
}

#[test]
fn payloads_outlive_both_ends() {
    let Pair { mut inlet, mut outlet, .. } = pair(64 << 10);
    push(&mut outlet, frame(3, 100)).unwrap();
    let mail = inlet.next().unwrap().unwrap();
    drop((inlet, outlet));
    assert_eq!(format!("{mail:?}"), format!("{:?}", frame(3, 100)));
}

#[test]
fn mail_of_another_sender_or_plane_is_left_out() {
    let Pair { mut inlet, mut outlet, .. } = pair(64 << 10);
    let other = Mail { from: ReplicaId::new("other", 2), ..frame(1, 1) };
    let order = Mail { from: me(), stage: 0, body: Body::FeedbackAck { number: 1 } };
    for mail in [other, order, frame(2, 1)] {
        push(&mut outlet, mail).unwrap();
    }
    outlet.push(&[], b"no parcel at all").unwrap();
    let mail = inlet.next().unwrap().unwrap();
    assert_eq!(format!("{mail:?}"), format!("{:?}", frame(2, 1)));
    assert!(inlet.next().unwrap().is_none());
    assert_eq!((inlet.metrics.hop_received.get(), inlet.metrics.hop_refused.get()), (1, 3));
}

#[test]
fn a_receivers_impossible_count_ends_the_sending() {
    let Pair { inlet, mut outlet, .. } = pair(64 << 10);
    layout::read(&inlet.ring).store(5, Release);
    assert_eq!(push(&mut outlet, frame(1, 1)), Err(PushError::Broken));
}

#[test]
fn a_place_beyond_the_arena_is_refused() {
    let units = (64 << 10) / 64;
    let edge = [(units - 1, 32, 32, 0), (0, 0, 64 << 10, 0), (0, 64, 8, SLOTS - 1)];
    let beyond = [
        (units - 1, 32, 33, 0),
        (units, 1, 0, 0),
        (u32::MAX, 0, 8, 0),
        (0, u32::MAX, 8, 0),
        (0, 8, u32::MAX, 0),
        (0, 8, 8, SLOTS),
        (0, MOST as u32 + 1, 8, 0),
        (0, 0, (MAX_HEADER_BYTES + TRAILER_BYTES) as u32 + 1, 0),
    ];
    for (places, legal) in [(&edge[..], true), (&beyond[..], false)] {
        for (at, payload, rest, slot) in places {
            let mut inlet = pair(64 << 10).inlet;
            for (word, value) in layout::descriptor(&inlet.ring, 0).into_iter().zip([*at, *payload, *rest, *slot]) {
                word.store(value, Relaxed);
            }
            layout::sent(&inlet.ring).store(1, Release);
            // What lies there is no parcel: refused by itself, where the place is legal.
            assert_eq!(inlet.next().is_ok(), legal, "{at} {payload} {rest} {slot}");
        }
    }
}

proptest! {
    /// Whatever a peer writes, anywhere: nothing panics, nothing is read out of bounds (which would), nothing loops.
    #[test]
    fn any_bytes_in_the_ring_are_borne(
        words in proptest::collection::vec((0usize..6500, any::<u32>()), 0..60),
        small in proptest::collection::vec((1024usize..1040, 0u32..3000), 0..16),
        sent in prop_oneof![any::<u32>(), 0u32..1100],
    ) {
        let Pair { mut inlet, mut outlet, .. } = pair(8 << 10);
        let _ = push(&mut outlet, frame(1, 10));
        for (word, value) in words.into_iter().chain(small) {
            inlet.ring.word(word * 4).store(value, Relaxed);
        }
        layout::sent(&inlet.ring).store(sent, Release);
        let mut held = Vec::new();
        for _ in 0..=SLOTS {
            match inlet.next() {
                Ok(Some(mail)) => held.push(mail),
                Ok(None) | Err(Broken) => break,
            }
        }
        drop(held);
        let _ = push(&mut outlet, frame(2, 10));
    }
}
