//! Hop ports and those who join them: who lies is refused, who cannot be joined is said to be unreachable, and nobody grows.

use crate::contract::{DIGEST, connect, mail, number, peer};
use crate::hops::{on_doorbell, open};
use crate::leases::status;
use crate::mails::frame;
use crate::nats::NatsServer;
use crate::soon;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use stageline_base::hex;
use stageline_core::{Body, LinkMail, Mail};
use stageline_proto::join::hop_client::HopClient;
use stageline_proto::join::hop_server::{Hop, HopServer};
use stageline_proto::join::{FromReceiver, FromSender, JoinHello, JoinWelcome, Ring, from_receiver, from_sender};
use stageline_transport::{Arrived, Doorbell, HopKind, Hops, Mailbox, Peer, Post};
use stageline_wire::{Status, WIRE_VERSION, encode};
use std::pin::Pin;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Streaming};

/// A receiver, the second stage.
struct Receiver {
    hops: Hops,
    mailbox: Mailbox,
    record: Status,
    records: watch::Sender<Vec<Status>>,
    _server: NatsServer,
}

impl Receiver {
    async fn open(doorbell: &Doorbell) -> Self {
        let server = NatsServer::start().await;
        let records = (1..=300).map(|n| record(&peer(0, n))).collect();
        let (records, replicas) = watch::channel(records);
        let me = (&peer(1, 1), HopKind::Nats);
        let (hops, mailbox, record) = open(&connect(&server).await, me, replicas, doorbell).await;
        Self { hops, mailbox, record, records, _server: server }
    }

    async fn client(&self) -> HopClient<Channel> {
        let address = format!("http://{}", self.hops.address().unwrap());
        HopClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
    }

    /// Joins with `first`; what is sent to the end it returns goes on the stream.
    async fn join(&self, first: from_sender::What) -> Result<Joined, tonic::Status> {
        join_by(&mut self.client().await, first).await
    }
}

struct Joined {
    say: mpsc::Sender<FromSender>,
    replies: Streaming<FromReceiver>,
}

impl Joined {
    async fn parcel(&self, bytes: bytes::Bytes) {
        self.say.send(FromSender { what: Some(from_sender::What::Parcel(bytes)) }).await.unwrap();
    }
}

async fn join_by(client: &mut HopClient<Channel>, first: from_sender::What) -> Result<Joined, tonic::Status> {
    let (say, said) = mpsc::channel(16);
    say.try_send(FromSender { what: Some(first) }).unwrap();
    let mut replies = soon("an answer", client.join(ReceiverStream::new(said))).await?.into_inner();
    match soon("a welcome", replies.message()).await? {
        Some(FromReceiver { what: Some(from_receiver::What::Welcome(_)) }) => Ok(Joined { say, replies }),
        other => panic!("{other:?}"),
    }
}

fn hello(from: &Peer) -> JoinHello {
    JoinHello {
        wire_version: WIRE_VERSION,
        manifest: DIGEST.into(),
        from: from.replica.to_string(),
        from_stage: from.stage.into(),
        to: peer(1, 1).replica.to_string(),
        shm: false,
        secret: secret(from).into(),
    }
}

/// What a replica of these tests shows.
fn secret(of: &Peer) -> Vec<u8> {
    Sha256::digest(of.replica.as_str()).to_vec()
}

/// Its record.
fn record(of: &Peer) -> Status {
    let hash = hex(&Sha256::digest(secret(of)));
    Status { join: Some(hash), ..status(of) }
}

#[test]
fn who_says_something_wrong_at_the_door_is_refused() {
    on_doorbell(async |doorbell| {
        let receiver = Receiver::open(doorbell).await;
        let good = hello(&peer(0, 1));
        let lies = [
            (JoinHello { wire_version: WIRE_VERSION + 1, ..good.clone() }, Code::FailedPrecondition),
            (JoinHello { manifest: "ff".repeat(32), ..good.clone() }, Code::FailedPrecondition),
            (JoinHello { to: peer(1, 2).replica.to_string(), ..good.clone() }, Code::NotFound),
            (JoinHello { from_stage: 1, ..good.clone() }, Code::NotFound),
            (JoinHello { from_stage: u32::MAX, ..good.clone() }, Code::NotFound),
            (JoinHello { from: "x.y>".into(), ..good.clone() }, Code::InvalidArgument),
            (JoinHello { secret: Vec::new().into(), ..good.clone() }, Code::Unauthenticated),
            (JoinHello { secret: secret(&peer(0, 2)).into(), ..good.clone() }, Code::Unauthenticated),
            // Nobody has seen its lease.
            (hello(&peer(0, 999)), Code::Unavailable),
        ];
        for (lie, code) in lies {
            let refused = receiver.join(from_sender::What::Hello(lie.clone())).await.err().unwrap();
            assert_eq!(refused.code(), code, "{lie:?}: {refused}");
        }
        let no_hello = receiver.join(from_sender::What::Parcel(b"x"[..].into())).await.err().unwrap();
        assert_eq!(no_hello.code(), Code::InvalidArgument);
        assert_eq!(receiver.hops.metrics().hop_refused.get(), 10);
        receiver.join(from_sender::What::Hello(good)).await.unwrap();
    });
}

#[test]
fn parcels_that_are_not_their_senders_or_no_parcels_are_left_out() {
    on_doorbell(async |doorbell| {
        let mut receiver = Receiver::open(doorbell).await;
        let from = peer(0, 1);
        let joined = receiver.join(from_sender::What::Hello(hello(&from))).await.unwrap();
        let other_sender = frame(&peer(0, 2).replica, 1, 4);
        let other_plane = Mail { from: from.replica.clone(), stage: 0, body: Body::FeedbackAck { number: 1 } };
        joined.parcel(b"no parcel"[..].into()).await;
        joined.parcel(encode(other_sender).bytes).await;
        joined.parcel(encode(other_plane).bytes).await;
        joined.say.send(FromSender { what: None }).await.unwrap();
        joined.say.send(FromSender { what: Some(from_sender::What::Hello(hello(&from))) }).await.unwrap();
        joined.parcel(encode(frame(&from.replica, 7, 4)).bytes).await;
        assert_eq!(number(&mail(&mut receiver.mailbox.stream).await), 7);
        assert_eq!((receiver.hops.metrics().hop_refused.get(), receiver.hops.metrics().hop_received.get()), (5, 1));
        assert!(receiver.mailbox.control.is_empty() && receiver.mailbox.feedback.is_empty());
    });
}

#[test]
fn a_parcel_over_the_limit_ends_its_stream_only() {
    on_doorbell(async |doorbell| {
        let mut receiver = Receiver::open(doorbell).await;
        let mut large = receiver.join(from_sender::What::Hello(hello(&peer(0, 1)))).await.unwrap();
        let other = receiver.join(from_sender::What::Hello(hello(&peer(0, 2)))).await.unwrap();
        large.parcel(vec![0; 80 << 20].into()).await;
        let end = soon("the end of the stream", large.replies.message()).await;
        assert!(!matches!(end, Ok(Some(_))), "{end:?}");
        other.parcel(encode(frame(&peer(0, 2).replica, 5, 4)).bytes).await;
        assert_eq!(number(&mail(&mut receiver.mailbox.stream).await), 5);
    });
}

#[test]
fn no_more_join_than_may_and_who_leaves_makes_room() {
    on_doorbell(async |doorbell| {
        let receiver = Receiver::open(doorbell).await;
        let mut all = Vec::new();
        let mut client = receiver.client().await;
        for n in 1..=256 {
            if n % 16 == 0 {
                client = receiver.client().await;
            }
            all.push(join_by(&mut client, from_sender::What::Hello(hello(&peer(0, n)))).await.unwrap());
        }
        let refused = receiver.join(from_sender::What::Hello(hello(&peer(0, 300)))).await.err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        // Who has a seat may come anew, and its stream before ends.
        let again = receiver.join(from_sender::What::Hello(hello(&peer(0, 1)))).await.unwrap();
        let before = soon("the end of the first stream", all[0].replies.message()).await;
        assert!(!matches!(before, Ok(Some(_))), "{before:?}");
        drop((again, all));
        let room = async || receiver.join(from_sender::What::Hello(hello(&peer(0, 300)))).await.is_err();
        soon("a seat", async { while room().await {} }).await;
    });
}

/// A sender, the first stage, that sends to a receiver with this record.
async fn sender(hop: HopKind, record: Status, doorbell: &Doorbell) -> (Hops, Mailbox, NatsServer) {
    let server = NatsServer::start().await;
    let (_, replicas) = watch::channel(vec![record]);
    let (hops, mailbox, _) = open(&connect(&server).await, (&peer(0, 1), hop), replicas, doorbell).await;
    (hops, mailbox, server)
}

/// Posts a Hello and asserts that it comes back.
async fn assert_unreachable(hops: &Hops, mailbox: &mut Mailbox) {
    let body = Body::Link(LinkMail::Hello { epoch: 1 });
    hops.post(&peer(1, 1), Mail { from: peer(0, 1).replica, stage: 0, body }).unwrap();
    match soon("news of the hop", mailbox.control.recv()).await {
        Some(Arrived::Unreachable { peer: who }) => assert_eq!(who, peer(1, 1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hop_that_cannot_be_made_is_an_error_and_nothing_goes_another_way() {
    on_doorbell(async |doorbell| {
        for hop in [HopKind::Grpc, HopKind::Shm] {
            let receiver = Receiver::open(doorbell).await;
            // Over NATS it could be reached.
            let without_port = Status { hop: None, ..receiver.record.clone() };
            let (hops, mut mailbox, _server) = sender(hop, without_port, doorbell).await;
            for tries in 1..=3 {
                assert_unreachable(&hops, &mut mailbox).await;
                assert_eq!(hops.metrics().hops_impossible.get(), tries);
            }
            assert!(receiver.mailbox.stream.is_empty());
        }
    });
}

/// A receiver that offers a ring of its choice, and tells what the sender says of it.
struct Liar {
    ring: Option<Ring>,
    heard: mpsc::Sender<String>,
}

#[tonic::async_trait]
impl Hop for Liar {
    type JoinStream = Pin<Box<dyn futures::Stream<Item = Result<FromReceiver, tonic::Status>> + Send>>;

    async fn join(&self, request: Request<Streaming<FromSender>>) -> Result<Response<Self::JoinStream>, tonic::Status> {
        let mut inbound = request.into_inner();
        inbound.message().await?;
        let welcome = FromReceiver { what: Some(from_receiver::What::Welcome(JoinWelcome { ring: self.ring })) };
        let heard = self.heard.clone();
        let end = futures::stream::once(async move {
            if let Ok(Some(FromSender { what: Some(from_sender::What::RingRefused(why)) })) = inbound.message().await {
                heard.send(why).await.unwrap();
            }
            Err(tonic::Status::cancelled("that was all"))
        });
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(welcome)]).chain(end))))
    }
}

#[test]
fn a_ring_that_is_not_what_was_said_is_refused() {
    on_doorbell(async |doorbell| {
        // A true ring, to lie about.
        let receiver = Receiver::open(doorbell).await;
        let mut client = receiver.client().await;
        let (_say, said) = mpsc::channel(1);
        let hello = JoinHello { shm: true, ..hello(&peer(0, 1)) };
        let first = futures::stream::iter([FromSender { what: Some(from_sender::What::Hello(hello)) }]);
        let mut replies = client.join(first.chain(ReceiverStream::new(said))).await.unwrap().into_inner();
        let welcome = replies.message().await.unwrap().unwrap();
        let Some(from_receiver::What::Welcome(JoinWelcome { ring: Some(ring) })) = welcome.what else {
            panic!("no ring")
        };
        let parent = std::os::unix::process::parent_id();
        let lies = [
            Some(Ring { nonce: !ring.nonce, ..ring }),
            // Of another process: as if from another namespace.
            Some(Ring { pid: parent, ..ring }),
            Some(Ring { pid: u32::MAX, ..ring }),
            Some(Ring { ring_fd: 0, ..ring }),
            Some(Ring { ring_fd: ring.doorbell_fd, ..ring }),
            Some(Ring { doorbell_fd: ring.ring_fd, ..ring }),
            Some(Ring { doorbell_fd: u32::MAX, ..ring }),
            Some(Ring { arena_bytes: ring.arena_bytes - 64, ..ring }),
            Some(Ring { arena_bytes: u64::MAX, ..ring }),
            Some(Ring { arena_bytes: 0, ..ring }),
            None,
        ];
        for ring in lies {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (heard, mut why) = mpsc::channel(1);
            let liar = tonic::transport::Server::builder().add_service(HopServer::new(Liar { ring, heard }));
            let serving = tokio::spawn(liar.serve_with_incoming(TcpListenerStream::new(listener)));
            let record = Status { hop: Some(address), ..status(&peer(1, 1)) };
            let (hops, mut mailbox, _server) = sender(HopKind::Shm, record, doorbell).await;
            assert_unreachable(&hops, &mut mailbox).await;
            assert_eq!((hops.metrics().hops_impossible.get(), hops.metrics().hops_opened.get()), (1, 0), "{ring:?}");
            let why = soon("the sender's reason", why.recv()).await.unwrap();
            assert!(why.contains("ring"), "{why}");
            serving.abort();
        }
    });
}

#[test]
fn a_stream_that_ends_is_told_of_at_once_and_the_next_mail_opens_another() {
    on_doorbell(async |doorbell| {
        for hop in [HopKind::Grpc, HopKind::Shm] {
            let mut receiver = Receiver::open(doorbell).await;
            let (hops, mut mailbox, _server) = sender(hop, receiver.record.clone(), doorbell).await;
            let from = peer(0, 1).replica;
            let own = Status { join: Some(hops.join_hash().to_owned()), ..status(&peer(0, 1)) };
            for turn in 1..=20 {
                receiver.records.send_replace(vec![own.clone()]);
                hops.post(&peer(1, 1), frame(&from, turn, 400)).unwrap();
                assert_eq!(number(&mail(&mut receiver.mailbox.stream).await), turn);
                assert_eq!(hops.metrics().hops_opened.get(), turn);
                // Who cannot show what the record says takes nobody's seat.
                let refused = receiver.join(from_sender::What::Hello(hello(&peer(0, 1)))).await.err().unwrap();
                assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
                hops.post(&peer(1, 1), frame(&from, 1000 + turn, 400)).unwrap();
                assert_eq!(number(&mail(&mut receiver.mailbox.stream).await), 1000 + turn);
                assert_eq!(hops.metrics().hops_opened.get(), turn);
                // Who can ends its stream.
                receiver.records.send_replace(vec![record(&peer(0, 1))]);
                let heir = receiver.join(from_sender::What::Hello(hello(&peer(0, 1)))).await.unwrap();
                match soon("news of the stream", mailbox.control.recv()).await {
                    Some(Arrived::Unreachable { peer: who }) => assert_eq!(who, peer(1, 1)),
                    other => panic!("{other:?}"),
                }
                drop(heir);
            }
        }
    });
}

#[test]
fn who_does_not_join_keeps_no_connection() {
    on_doorbell(async |doorbell| {
        let receiver = Receiver::open(doorbell).await;
        let address = receiver.hops.address().unwrap();
        // More than one address may have: what is over is closed at once, the rest as soon as nobody has joined by it.
        let mut all = Vec::new();
        for _ in 0..300 {
            all.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        for mut stream in all {
            let mut rest = Vec::new();
            // A reset is an end, too.
            let _ = soon("the end of a connection", stream.read_to_end(&mut rest)).await;
        }
        assert!(receiver.hops.metrics().hop_refused.get() >= 44);
        receiver.join(from_sender::What::Hello(hello(&peer(0, 1)))).await.unwrap();
    });
}
