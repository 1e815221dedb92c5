//! Calls that are broken on purpose, over real HTTP/2 connections.

use crate::support::{Connection, Door, Script, Setup};
use futures::stream::{self, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use stageline_base::prng::Prng;
use stageline_door::Limits;
use stageline_door::{AnswerEvent, FinishReason};
use stageline_proto::inference::{self as pb, generate_request::Input, inference_client::InferenceClient};
use std::convert::Infallible;
use std::time::Duration;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Broken messages that one connection carries.
const CALLS_PER_CONNECTION: u64 = 10_000;

/// How many broken messages are sent; the full count is STAGELINE_MUTATIONS=100000.
fn mutations() -> u64 {
    std::env::var("STAGELINE_MUTATIONS").map_or(5_000, |text| text.parse().expect("STAGELINE_MUTATIONS is a number"))
}

fn answering() -> Script {
    let token = AnswerEvent::Token { id: 1, text: "a".into(), observed: None };
    Script::Answer(vec![token, AnswerEvent::Finished { reason: FinishReason::Stop, text: String::new() }])
}

/// Messages that are right, with the method that takes each.
fn right() -> Vec<(&'static str, Vec<u8>)> {
    let message = |role: &str| pb::ChatMessage { role: role.into(), content: "what is it?".into() };
    let chat = pb::Conversation { messages: vec![message("system"), message("user")] };
    let generate = |input| pb::GenerateRequest {
        input: Some(input),
        max_tokens: Some(8),
        temperature: Some(0.7),
        top_k: Some(40),
        top_p: Some(0.95),
        repetition_penalty: Some(1.1),
        seed: Some(u64::MAX),
        stop: vec!["\n\n".into(), "é".into()],
        top_logits: 4,
        ..Default::default()
    };
    let (name, shape) = ("hidden".into(), vec![2, 3]);
    let tensor = pb::Tensor { element: 1, rows: 2, columns: 3, data: vec![1; 24].into(), name, shape };
    let infer = pb::InferRequest { inputs: vec![tensor.clone()], manifest: "ab".repeat(4) };
    let run = pb::RunRequest { inputs: vec![tensor], top_logits: 3, stage: Some(0) };
    vec![
        ("Generate", generate(Input::Prompt("Once upon a time, é".into())).encode_to_vec()),
        ("Generate", generate(Input::Chat(chat)).encode_to_vec()),
        ("Generate", generate(Input::Tokens(pb::TokenIds { ids: (0..64).collect() })).encode_to_vec()),
        (
            "Embed",
            pb::EmbedRequest { given: Some(pb::embed_request::Given::Input("a text".into())), ..Default::default() }
                .encode_to_vec(),
        ),
        ("Infer", infer.encode_to_vec()),
        ("Run", run.encode_to_vec()),
        ("Status", Vec::new()),
    ]
}

/// One to four changes: a bit, a byte, a piece taken out, doubled or overwritten, or the end cut off.
fn mutate(bytes: &mut Vec<u8>, prng: &mut Prng) {
    for _ in 0..=prng.below(3) {
        if bytes.is_empty() {
            bytes.push(prng.next_u64() as u8);
        }
        let at = prng.below(bytes.len() as u64) as usize;
        let end = (at + 1 + prng.below(8) as usize).min(bytes.len());
        match prng.below(6) {
            0 => bytes[at] ^= 1 << prng.below(8),
            1 => bytes.insert(at, prng.next_u64() as u8),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
            4 => bytes[at..end].fill([0, 0x7f, 0x80, 0xff][prng.below(4) as usize]),
            _ => bytes.truncate(at),
        }
    }
}

/// Sends `body` as it is, and reads the reply to its end: the status, if there is one.
async fn call(channel: &mut Channel, method: &str, body: Vec<u8>) -> Option<Code> {
    let frames = stream::iter([Ok::<_, Infallible>(Frame::data(body.into()))]);
    let request = http::Request::post(format!("http://door/stageline.v1.Inference/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(frames)))
        .unwrap();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let response = channel.call(request).await.ok()?;
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Some(status.code());
    }
    let body = response.into_body().collect().await.ok()?;
    Status::from_header_map(body.trailers()?).map(|status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_message_has_a_status_and_harms_nothing() {
    let door = Door::open(Setup { script: answering(), ..Setup::default() }).await;
    // A connection whose streams were reset for errors 1,024 times is closed by the library, which is as it should be.
    let mut channels = Vec::new();
    for _ in 0..=mutations() / CALLS_PER_CONNECTION {
        channels.push(door.channel().await);
    }
    let right = right();
    let before = resident_bytes();
    let (calls, mut codes) = (mutations(), std::collections::BTreeMap::<i32, u64>::new());
    let mut replies = stream::iter(0..calls)
        .map(|seed| {
            let (mut channel, mut prng) = (channels[(seed / CALLS_PER_CONNECTION) as usize].clone(), Prng::new(seed));
            let (method, mut message) = right[prng.below(right.len() as u64) as usize].clone();
            async move {
                // Most changes are the message's; some are of the five bytes before it, which say its length.
                let lies = prng.chance(100);
                if !lies {
                    mutate(&mut message, &mut prng);
                }
                let mut body = vec![0];
                body.extend_from_slice(&(message.len() as u32).to_be_bytes());
                body.extend_from_slice(&message);
                if lies {
                    mutate(&mut body, &mut prng);
                }
                (seed, call(&mut channel, method, body).await)
            }
        })
        .buffer_unordered(64);
    while let Some((seed, code)) = replies.next().await {
        let code = code.unwrap_or_else(|| panic!("no status for seed {seed}"));
        *codes.entry(code as i32).or_default() += 1;
    }
    // All three kinds must have come up, or the changes change nothing: taken all the same, refused by the door, no protobuf.
    for code in [Code::Ok, Code::InvalidArgument, Code::Internal] {
        assert!(codes.contains_key(&(code as i32)), "{codes:?}");
    }
    let grown = resident_bytes().saturating_sub(before);
    // Other tests run beside this one: it is a leak of each call that would show.
    assert!(grown < 512 << 20, "{calls} calls left {grown} bytes; {codes:?}");
    assert_eq!(door.metrics.door.requests_in_flight.get(), 0);
    whole_answer(InferenceClient::new(channels[0].clone())).await;
}

/// What this process has in memory.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn whole_answer(mut client: InferenceClient<Channel>) {
    let input = Some(Input::Prompt("x".into()));
    let answer = client.generate(pb::GenerateRequest { input, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(answer.filter(|event| std::future::ready(event.is_ok())).count().await, 3);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let limits = Limits { max_body_bytes: 1000, ..Limits::default() };
    let door = Door::open(Setup { limits, script: answering(), ..Setup::default() }).await;
    let mut client = door.client().await;
    let mut ask = async |bytes: usize| {
        let input = Some(Input::Prompt("x".repeat(bytes)));
        client.generate(pb::GenerateRequest { input, ..Default::default() }).await.map(drop)
    };
    ask(900).await.unwrap();
    let status = ask(1001).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
}

#[tokio::test]
async fn a_message_that_does_not_come_is_not_waited_for() {
    let limits = Limits { body_timeout: Duration::from_millis(30), ..Limits::default() };
    let door = Door::open(Setup { limits, script: answering(), ..Setup::default() }).await;
    let mut channel = door.channel().await;
    // The length says 100 bytes, three come, and the stream stays open.
    let frames = stream::iter([Ok::<_, Infallible>(Frame::data(vec![0, 0, 0, 0, 100, 1, 2, 3].into()))]);
    let request = http::Request::post("http://door/stageline.v1.Inference/Generate")
        .header("content-type", "application/grpc")
        .body(Body::new(StreamBody::new(frames.chain(stream::pending()))))
        .unwrap();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).expect("a status");
    assert!(status.message().contains("took longer than 0.03 s"), "{status}");
}

#[tokio::test]
async fn a_connection_that_does_not_say_what_it_speaks_is_closed() {
    let limits = Limits { head_timeout: Duration::from_millis(30), ..Limits::default() };
    let door = Door::open(Setup { limits, script: answering(), ..Setup::default() }).await;
    for bytes in ["", "P", "PRI"] {
        let mut connection = Connection::open(door.address).await;
        connection.send(bytes).await;
        assert!(connection.read_to_end().await.is_empty(), "{bytes:?}");
    }
    // The preface and no settings, and no HTTP/2 at all behind the first word.
    for bytes in
        ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage garbage garbage", "PRI / HTTP/1.1\r\nconnection: close\r\n\r\n"]
    {
        let mut connection = Connection::open(door.address).await;
        connection.send(bytes).await;
        connection.read_to_end().await;
    }
    whole_answer(door.client().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_hold_nobody_up() {
    let mut door = Door::open(Setup::default()).await;
    let mut client = door.client().await;
    let input = || Some(Input::Prompt("x".into()));
    let (mut held, mut answers) = (Vec::new(), Vec::new());
    // As many as one connection may have at once: none of them is read.
    for _ in 0..256 {
        held.push(client.generate(pb::GenerateRequest { input: input(), ..Default::default() }).await.unwrap());
        let served = door.served().await;
        served.send(AnswerEvent::Token { id: 1, text: "a".repeat(1000), observed: None }).await;
        answers.push(served);
    }
    door.script(answering());
    // One more waits at its own client; another client does not notice.
    let mut more = client.clone();
    let request = pb::GenerateRequest { input: input(), ..Default::default() };
    let mut waiting = Box::pin(more.generate(request));
    assert!(futures::poll!(&mut waiting).is_pending());
    whole_answer(door.client().await).await;
    assert!(futures::poll!(&mut waiting).is_pending());
    drop((held, answers));
    waiting.await.unwrap();
}

#[tokio::test]
async fn what_is_no_call_is_refused_in_words_of_http() {
    let door = Door::open(Setup { script: answering(), ..Setup::default() }).await;
    let over_1 = "POST /stageline.v1.Inference/Generate HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    let reply = door.send(over_1).await;
    assert_eq!((reply.status, reply.error().0.as_str()), (505, "invalid_request"));
    let stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    for (method, path, kind, status) in [
        ("POST", "/stageline.v1.Inference/Generate", "application/json", 415),
        ("POST", "/stageline.v1.Inference/Run", "application/grpc-web+proto", 415),
        ("POST", "/stageline.v1.Inference/Status", "", 415),
        ("GET", "/stageline.v1.Inference/Status", "application/grpc", 405),
        ("POST", "/grpc.health.v1.Health/Check", "text/plain", 415),
        ("POST", "/stageline.v1.Inference/Status", "application/grpc+proto", 200),
        ("POST", "/no.such.Service/Call", "application/grpc", 404),
    ] {
        let request = http::Request::builder().method(method).uri(format!("http://door{path}"));
        let request = request.header("content-type", kind).body(()).unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(bytes::Bytes::from_static(&[0; 5]), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), status, "{method} {path} {kind}");
        assert_eq!(response.headers().contains_key("allow"), status == 405);
    }
}
