//! What hops stand on, without them.

use crate::nats::NatsServer;
use bytes::Bytes;
use futures::StreamExt;
use stageline_proto::join::hop_client::HopClient;
use stageline_proto::join::hop_server::{Hop, HopServer};
use stageline_proto::join::{FromReceiver, FromSender, from_receiver, from_sender};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

/// Two threads that wake each other: the standard library's park is a futex and a flag, nothing else. Between two rounds both
/// do what the ends of a hop do there: how long they are busy decides on which cores the system puts them.
pub fn futex(rounds: usize, between: impl Fn() + Clone + Send + 'static) -> Vec<Duration> {
    static TURN: AtomicBool = AtomicBool::new(false);
    let main = std::thread::current();
    let there = between.clone();
    let other = std::thread::spawn(move || {
        for _ in 0..rounds {
            there();
            while !TURN.load(SeqCst) {
                std::thread::park();
            }
            TURN.store(false, SeqCst);
            main.unpark();
        }
    });
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        between();
        let begun = Instant::now();
        TURN.store(true, SeqCst);
        other.thread().unpark();
        while TURN.load(SeqCst) {
            std::thread::park();
        }
        times.push(begun.elapsed() / 2);
    }
    other.join().unwrap();
    times
}

/// A copy of what has just been written, as by a device, into memory that was copied to before.
pub fn memcpy(bytes: usize, rounds: usize) -> Vec<Duration> {
    let mut to = vec![0u8; bytes];
    let copy = |_| {
        let from = vec![1u8; bytes];
        let begun = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        begun.elapsed()
    };
    (0..rounds).map(copy).collect()
}

/// A stream that echoes; both ends are tasks of one runtime.
pub async fn tonic(bytes: usize, rounds: usize) -> Vec<Duration> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let service = HopServer::new(Echo).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20);
    // Without it a parcel of more than one packet waits for an acknowledgement, 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(service).serve_with_incoming(incoming);
    let serving = tokio::spawn(server);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let mut client = HopClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20);
    let (say, said) = mpsc::channel(4);
    let mut answers = client.join(ReceiverStream::new(said)).await.unwrap().into_inner();
    let payload = Bytes::from(vec![1u8; bytes]);
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        say.send(FromSender { what: Some(from_sender::What::Parcel(payload.clone())) }).await.unwrap();
        answers.message().await.unwrap().unwrap();
        times.push(begun.elapsed() / 2);
    }
    serving.abort();
    times
}

struct Echo;

#[tonic::async_trait]
impl Hop for Echo {
    type JoinStream = Pin<Box<dyn futures::Stream<Item = Result<FromReceiver, Status>> + Send>>;

    async fn join(&self, request: Request<Streaming<FromSender>>) -> Result<Response<Self::JoinStream>, Status> {
        let echo = request.into_inner().map(|said| {
            let what = match said?.what {
                Some(from_sender::What::Parcel(parcel)) => Some(from_receiver::What::Parcel(parcel)),
                _ => None,
            };
            Ok(FromReceiver { what })
        });
        Ok(Response::new(Box::pin(echo)))
    }
}

/// Two connections that answer each other through the server.
pub async fn nats(server: &NatsServer, bytes: usize, rounds: usize) -> Vec<Duration> {
    let (a, b) = (async_nats::connect(server.url()).await.unwrap(), async_nats::connect(server.url()).await.unwrap());
    let (mut at_a, mut at_b) = (a.subscribe("a").await.unwrap(), b.subscribe("b").await.unwrap());
    a.flush().await.unwrap();
    b.flush().await.unwrap();
    let payload = Bytes::from(vec![1u8; bytes]);
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        a.publish("b", payload.clone()).await.unwrap();
        at_b.next().await.unwrap();
        b.publish("a", payload.clone()).await.unwrap();
        at_a.next().await.unwrap();
        times.push(begun.elapsed() / 2);
    }
    times
}
