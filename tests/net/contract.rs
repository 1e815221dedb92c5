//! The contract of every hop, against memory, NATS, gRPC and shared memory alike.

use crate::hops::{Hop, on_doorbell};
use crate::mails::frame;
use crate::nats::NatsServer;
use crate::soon;
use stageline_base::ReplicaId;
use stageline_core::{Body, FrameContent, LinkMail, LinkReply, Mail};
use stageline_transport::{Arrived, Inbox, MAILBOX_CAPACITY, NatsNet, NatsSettings, Peer, Plane, Post, PostError};
use stageline_wire::Subjects;

/// The manifest digest of every test.
pub const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// The subjects of every test.
pub fn subjects() -> Subjects {
    Subjects::new("test", DIGEST).unwrap()
}

/// A connection to `server`.
pub async fn connect(server: &NatsServer) -> NatsNet {
    NatsNet::connect(NatsSettings::new(server.url(), subjects())).await.unwrap()
}

/// The `n`th replica of a stage.
pub fn peer(stage: u16, n: u64) -> Peer {
    Peer { stage, replica: ReplicaId::new("pod", u64::from(stage) << 32 | n) }
}

/// A control message that counts.
pub fn ack(from: &Peer, number: u64) -> Mail {
    Mail { from: from.replica.clone(), stage: from.stage, body: Body::FeedbackAck { number } }
}

fn close_ack(from: &Peer, number: u64) -> Mail {
    Mail { from: from.replica.clone(), stage: from.stage, body: Body::CloseAck { number } }
}

/// The next mail on a plane.
pub async fn mail(plane: &mut Inbox) -> Mail {
    match soon("mail", plane.recv()).await {
        Some(Arrived::Mail(mail)) => mail,
        other => panic!("mail was to come: {other:?}"),
    }
}

/// The number of a frame.
pub fn number(mail: &Mail) -> u64 {
    match &mail.body {
        Body::Link(LinkMail::Frame { number, .. }) => *number,
        Body::FeedbackAck { number } | Body::CloseAck { number } => *number,
        body => panic!("no number in {body:?}"),
    }
}

#[test]
fn a_plane_keeps_its_order_and_its_mail() {
    on_doorbell(async |doorbell| {
        for hop in Hop::all(doorbell).await {
            let (from, to) = (peer(0, 1), peer(1, 1));
            let mut mailbox = hop.register_b(to.clone()).await;
            // As links do, no more is sent than the receiver is known to have room for.
            let window = tokio::sync::Semaphore::new(MAILBOX_CAPACITY);
            let nth = |n: u64| frame(&from.replica, n, 4 + 4 * (n as usize % 9));
            let send = async {
                for n in 1..=3000 {
                    window.acquire().await.unwrap().forget();
                    hop.a().post(&to, nth(n)).unwrap();
                }
            };
            let read = async {
                for n in 1..=3000 {
                    assert_eq!(format!("{:?}", mail(&mut mailbox.stream).await), format!("{:?}", nth(n)));
                    window.add_permits(1);
                }
            };
            tokio::join!(send, read);
        }
    });
}

#[test]
fn every_message_goes_to_its_plane_and_to_its_peer_only() {
    on_doorbell(async |doorbell| {
        for hop in Hop::all(doorbell).await {
            let (from, to) = (peer(0, 1), peer(1, 1));
            let mut mailbox = hop.register_b(to.clone()).await;
            let mut other = hop.register_b(peer(1, 2)).await;
            let reply = LinkReply::State { epoch: 1, got: 2, returned_rows: 3, returned_bytes: 4, broken: false };
            let bodies = [
                Body::Link(LinkMail::Hello { epoch: 1 }),
                Body::Reply(reply),
                Body::Feedback(stageline_core::Feedback { stage: 0, number: 1, reports: Vec::new() }),
                Body::FeedbackAck { number: 1 },
                Body::CloseNow { number: 1, closes: Vec::new() },
                Body::CloseAck { number: 1 },
            ];
            for body in bodies {
                let plane = Plane::of(&body);
                hop.a().post(&to, Mail { from: from.replica.clone(), stage: from.stage, body: body.clone() }).unwrap();
                let receiver = match plane {
                    Plane::Control => &mut mailbox.control,
                    Plane::Feedback => &mut mailbox.feedback,
                    Plane::Stream => &mut mailbox.stream,
                };
                assert_eq!(format!("{:?}", mail(receiver).await.body), format!("{body:?}"));
            }
            hop.a().post(&peer(1, 2), ack(&from, 9)).unwrap();
            assert_eq!(number(&mail(&mut other.control).await), 9);
            for receiver in [&mut mailbox.control, &mut mailbox.feedback, &mut mailbox.stream] {
                assert!(receiver.is_empty(), "nothing more came");
            }
        }
    });
}

#[test]
fn what_finds_nobody_comes_back() {
    on_doorbell(async |doorbell| {
        for hop in Hop::all(doorbell).await {
            let (from, alive, dead) = (peer(0, 1), peer(1, 1), peer(1, 2));
            let mut sender = hop.register_a(from.clone()).await;
            let mut mailbox = hop.register_b(alive.clone()).await;
            for plane in [frame(&from.replica, 1, 4), ack(&from, 1), close_ack(&from, 1)] {
                hop.a().post(&alive, plane.clone()).unwrap();
                hop.a().post(&dead, plane).unwrap();
                match soon("news of the dead", sender.control.recv()).await {
                    Some(Arrived::Unreachable { peer }) => assert_eq!(peer, dead),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(number(&mail(&mut mailbox.stream).await), 1);
            // A replica that was there and went.
            drop(mailbox);
            let gone = async {
                loop {
                    // Asked faster than it can be sent, a queue may be full.
                    let _ = hop.a().post(&alive, ack(&from, 2));
                    if let Ok(arrived) = sender.control.try_recv() {
                        return arrived;
                    }
                    tokio::task::yield_now().await;
                }
            };
            match soon("news of the one that went", gone).await {
                Arrived::Unreachable { peer } => assert_eq!(peer, alive),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_slow_reader_grows_nobody_and_holds_no_other_plane_up() {
    on_doorbell(async |doorbell| {
        for hop in Hop::all(doorbell).await {
            let (from, to) = (peer(0, 1), peer(1, 1));
            let mut mailbox = hop.register_b(to.clone()).await;
            // Far more than everything between the two ends can hold, while nobody reads the stream.
            let bytes = if hop.name() == "grpc" { 4096 } else { 4 };
            let mut taken = 0;
            for n in 1..=20_000 {
                match hop.a().post(&to, frame(&from.replica, n, bytes)) {
                    Ok(()) => taken += 1,
                    Err(error) => assert_eq!(error, PostError::Full),
                }
                tokio::task::yield_now().await;
            }
            hop.a().post(&to, ack(&from, 7)).unwrap();
            assert_eq!(number(&mail(&mut mailbox.control).await), 7, "an ack passes a full stream");
            assert!(mailbox.stream.len() <= MAILBOX_CAPACITY);
            match &hop {
                Hop::Memory(_) => assert_eq!(taken, MAILBOX_CAPACITY, "no room is an error at the sender"),
                Hop::Nats { b, .. } => {
                    assert!(taken < 20_000 || b.metrics().nats_dropped.get() > 0, "no room is a loss at either end")
                }
                Hop::Own(_) => assert!(taken < 10_000, "no room is an error at the sender of {}", hop.name()),
            }
            // What comes out is in order, and begins with the first.
            let mut last = 0;
            while let Ok(Arrived::Mail(mail)) = mailbox.stream.try_recv() {
                assert!(number(&mail) > last && (last > 0 || number(&mail) == 1));
                last = number(&mail);
            }
            // And when the reader goes on, new mail gets through.
            let again = async {
                loop {
                    let _ = hop.a().post(&to, frame(&from.replica, 10_000, 4));
                    while let Ok(Arrived::Mail(mail)) = mailbox.stream.try_recv() {
                        if number(&mail) == 10_000 {
                            return;
                        }
                    }
                    tokio::task::yield_now().await;
                }
            };
            soon("mail after a flood", again).await;
        }
    });
}

/// Sends frames of these payload sizes through a server with this max_payload, acks between them.
async fn through(max_payload: usize, sizes: &[usize]) {
    let server = NatsServer::with_max_payload(max_payload).await;
    let (a, b) = (connect(&server).await, connect(&server).await);
    let (from, to) = (peer(0, 1), peer(1, 1));
    let mut mailbox = b.register(to.clone()).await.unwrap();
    let send = async {
        for (n, size) in (1..).zip(sizes) {
            a.post(&to, frame(&from.replica, n, *size)).unwrap();
            a.post(&to, ack(&from, n)).unwrap();
        }
    };
    let read = async {
        for (n, size) in (1..).zip(sizes) {
            let got = mail(&mut mailbox.stream).await;
            let Body::Link(LinkMail::Frame { number, content: FrameContent::Rows { payload, .. }, .. }) = got.body
            else {
                panic!("no rows")
            };
            let bytes = payload[0].tensor.bytes();
            assert_eq!((number, bytes.len()), (n, *size));
            let right = bytes.iter().enumerate().all(|(i, byte)| *byte == (i as u64).wrapping_mul(n) as u8);
            assert!(right, "the bytes of frame {n} arrived as they were");
        }
        for n in (1..).take(sizes.len()) {
            assert_eq!(number(&mail(&mut mailbox.control).await), n);
        }
    };
    tokio::join!(send, read);
    let pieces = |size: &&usize| **size + 200 > max_payload;
    assert!(a.metrics().nats_fragments.get() >= 2 * sizes.iter().filter(pieces).count() as u64);
    assert_eq!((b.metrics().nats_refused.get(), b.metrics().nats_dropped.get()), (0, 0));
}

#[tokio::test]
async fn parcels_over_a_max_payload_of_64_kib_arrive_whole() {
    let limit = 64 << 10;
    through(limit, &[4, limit - 400, limit - 132, limit - 128, limit - 64, limit, limit + 4, 3 * limit, 10 << 20, 4])
        .await;
}

#[tokio::test]
async fn parcels_over_a_max_payload_of_1_mib_arrive_whole() {
    let limit = 1 << 20;
    through(limit, &[4, limit - 400, limit - 128, limit, limit + 4, 10_000_000, 4]).await;
}

#[tokio::test]
async fn what_is_larger_than_a_parcel_may_be_is_refused_at_the_sender() {
    let server = NatsServer::start().await;
    let settings = NatsSettings { max_payload_bytes: 1 << 20, ..NatsSettings::new(server.url(), subjects()) };
    let net = NatsNet::connect(settings).await.unwrap();
    let (from, to) = (peer(0, 1), peer(1, 1));
    assert_eq!(net.post(&to, frame(&from.replica, 1, (1 << 20) + 4)), Err(PostError::TooLarge));
}

#[tokio::test]
async fn what_strangers_send_is_refused_and_does_no_harm() {
    let server = NatsServer::start().await;
    let net = connect(&server).await;
    let (from, to) = (peer(0, 1), peer(1, 1));
    let mut mailbox = net.register(to.clone()).await.unwrap();
    let stranger = async_nats::connect(server.url()).await.unwrap();
    let (place, sender) = ((to.stage, &to.replica), (from.stage, &from.replica));
    let subject = subjects().subject(place, Plane::Stream, sender);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Stageline-Fragment", "no fragment");
    stranger.publish(subject.clone(), "no parcel".into()).await.unwrap();
    stranger.publish_with_headers(subject.clone(), headers, "no piece".into()).await.unwrap();
    let wrong_plane = stageline_wire::encode(ack(&from, 1)).bytes;
    stranger.publish(subject.clone(), wrong_plane).await.unwrap();
    let good = stageline_wire::encode(frame(&from.replica, 5, 4)).bytes;
    // In another's name than its subject's, of another stage than its subject's, and on a subject that names nobody.
    for other in [(0, &peer(0, 2).replica), (1, &from.replica)] {
        stranger.publish(subjects().subject(place, Plane::Stream, other), good.clone()).await.unwrap();
    }
    let nobody = subjects().all_of(place, Plane::Stream).replace('*', "x");
    stranger.publish(nobody, good.clone()).await.unwrap();
    // Pieces of a parcel count for their subject's sender alone.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Stageline-Fragment", "0000000000000007.1.0.2.8");
    stranger.publish_with_headers(subject.clone(), headers, "1234".into()).await.unwrap();
    stranger.publish(subject, good).await.unwrap();
    assert_eq!(number(&mail(&mut mailbox.stream).await), 5);
    assert_eq!(net.metrics().nats_refused.get(), 7);
}

#[test]
fn both_ends_can_talk() {
    on_doorbell(async |doorbell| {
        for hop in Hop::all(doorbell).await {
            let (one, two) = (peer(0, 1), peer(1, 1));
            let mut first = hop.register_a(one.clone()).await;
            let mut second = hop.register_b(two.clone()).await;
            hop.a().post(&two, frame(&one.replica, 1, 8)).unwrap();
            assert_eq!(number(&mail(&mut second.stream).await), 1);
            hop.b().post(&one, ack(&two, 1)).unwrap();
            assert_eq!(number(&mail(&mut first.control).await), 1);
        }
    });
}

#[tokio::test]
async fn what_was_flushed_arrives_though_its_sender_is_gone() {
    let server = NatsServer::with_max_payload(64 << 10).await;
    let (a, b) = (connect(&server).await, connect(&server).await);
    let (from, to) = (peer(0, 1), peer(1, 1));
    let mut mailbox = b.register(to.clone()).await.unwrap();
    for n in 1..=20 {
        a.post(&to, frame(&from.replica, n, 500_000)).unwrap();
        a.post(&to, ack(&from, n)).unwrap();
    }
    a.flush().await.unwrap();
    drop(a);
    for n in 1..=20 {
        assert_eq!(number(&mail(&mut mailbox.stream).await), n);
        assert_eq!(number(&mail(&mut mailbox.control).await), n);
    }
}
