//! What a client that behaves badly costs another: the time of a small gRPC answer, alone and beside a client that sends
//! slowly, one that never reads, and one that opens 10,000 streams.
//!
//! `cargo bench --bench neighbours`; needs SmolLM2's folder (scripts/fetch_models.py). The pipeline computes nothing, so the
//! server's own time is all there is to worsen. Rounds alone and beside take turns: a machine that is slow for a while is
//! slow for both.

#[allow(dead_code, reason = "this bench asks over gRPC")]
#[path = "support/mod.rs"]
mod support;

use futures::StreamExt;
use http_body_util::StreamBody;
use stageline_door::http::serve;
use stageline_door::{Intake, Readiness};
use stageline_door::{Limits, NoStore, Site, SiteSetup, router};
use stageline_metrics::Metrics;
use stageline_proto::inference::{self as pb, generate_request::Input, inference_client::InferenceClient};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Layers, PROMPT, quantile};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

const ROUNDS: usize = 6;
const ANSWERS: usize = 1000;
const TOKENS: u32 = 8;
/// Streams that one connection may have open.
const STREAMS: usize = 250;

#[derive(Clone, Copy, Debug)]
enum Badly {
    /// 500 connections send a byte of a request every 100 ms, half of them HTTP/1.1, half HTTP/2.
    SendsSlowly,
    /// 50 answers of 40 tokens are asked for and never read. (A client whose library holds more small frames than it likes
    /// closes its own connection, which would end the attack.)
    NeverReads,
    /// 40 connections open 250 calls each and send nothing on them.
    OpensManyStreams,
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let serving = support::serve(2, &Layers::Fake).await;
        let address = open(&serving).await;
        println!("microseconds for {TOKENS} tokens, median of {ROUNDS} rounds of {ANSWERS} answers");
        for badly in [Badly::SendsSlowly, Badly::NeverReads, Badly::OpensManyStreams] {
            let mut figures: [Vec<f64>; 4] = Default::default();
            for _ in 0..ROUNDS {
                let alone = answers(address).await;
                let neighbour = start(badly, address).await;
                let beside = answers(address).await;
                drop(neighbour);
                figures.iter_mut().zip([alone, beside].concat()).for_each(|(figures, figure)| figures.push(figure));
            }
            let [p50, p99, p50_beside, p99_beside] = figures.map(|mut values| quantile(&mut values, 0.5));
            println!(
                "{badly:?}: alone p50 {p50:.0} p99 {p99:.0}, beside it p50 {p50_beside:.0} p99 {p99_beside:.0}: p99 {:.2} x",
                p99_beside / p99
            );
        }
        support::end(serving).await;
    });
}

/// Serves HTTP and gRPC.
async fn open(serving: &stageline_server::Serving) -> SocketAddr {
    let limits = Limits::default();
    let metrics = Arc::new(Metrics::new("bench", 0..2));
    let site = Site::new(SiteSetup {
        intake: serving.reception.clone().map(|reception| reception as Arc<dyn Intake>),
        readiness: watch::Sender::new(Readiness::Ready).subscribe(),
        metrics: metrics.clone(),
        limits: limits.clone(),
        pipeline: "bench".into(),
        stage: 0,
        keeper: Err(NoStore::Unasked),
        keys: None,
        stages: serving.access.clone(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, router(site), limits, metrics, std::future::pending()));
    address
}

async fn channel(address: SocketAddr) -> Channel {
    Endpoint::new(format!("http://{address}")).expect("an address").connect().await.expect("a connection")
}

fn request(max_tokens: u32) -> pb::GenerateRequest {
    let input = Some(Input::Tokens(pb::TokenIds { ids: PROMPT.to_vec() }));
    pb::GenerateRequest { input, max_tokens: Some(max_tokens), ..Default::default() }
}

/// p50 and p99 of answers one after the other, in microseconds.
async fn answers(address: SocketAddr) -> Vec<f64> {
    let mut client = InferenceClient::new(channel(address).await);
    let mut times = Vec::with_capacity(ANSWERS);
    for _ in 0..ANSWERS {
        let begun = Instant::now();
        let mut events = client.generate(request(TOKENS)).await.expect("an answer").into_inner();
        while let Some(event) = events.next().await {
            event.expect("an event");
        }
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    vec![quantile(&mut times, 0.5), quantile(&mut times, 0.99)]
}

/// A client that behaves badly until it is dropped. On return it is at it.
async fn start(badly: Badly, address: SocketAddr) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    match badly {
        Badly::SendsSlowly => {
            for i in 0..500 {
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                tasks.spawn(async move {
                    let text =
                        if i % 2 == 0 { "POST / HTTP/1.1\r\nx-filler: " } else { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" };
                    for byte in text.bytes().chain(std::iter::repeat(b'x')) {
                        // A server that has had enough is what is hoped for.
                        if stream.write_all(&[byte]).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                });
            }
        }
        Badly::NeverReads => {
            let mut client = InferenceClient::new(channel(address).await);
            for _ in 0..50 {
                let answer = client.generate(request(40)).await.expect("an answer");
                tasks.spawn(async move {
                    let _unread = answer;
                    std::future::pending().await
                });
            }
        }
        Badly::OpensManyStreams => {
            for _ in 0..40 {
                let mut channel = channel(address).await;
                for _ in 0..STREAMS {
                    let body = StreamBody::new(futures::stream::pending::<
                        Result<http_body::Frame<bytes::Bytes>, Infallible>,
                    >());
                    let call = http::Request::post("http://door/stageline.v1.Inference/Generate")
                        .header("content-type", "application/grpc")
                        .body(Body::new(body))
                        .expect("a request");
                    std::future::poll_fn(|turn| channel.poll_ready(turn)).await.expect("a connection");
                    let answer = channel.call(call);
                    tasks.spawn(async move {
                        let _unread = answer.await;
                    });
                }
            }
        }
    }
    tasks
}
