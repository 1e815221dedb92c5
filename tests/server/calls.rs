//! gRPC clients of a pipeline whose stages are processes of their own.

use crate::looking::found;
use crate::patience::soon;
use crate::pipelines::{Cluster, ENDLESS, PROMPT, Pipeline, STAGES, right_ids};
use crate::real_models::{SMOLLM2, golden_cases, ids};
use futures::StreamExt;
use serde_json::json;
use stageline_proto::inference::{
    self as pb, generate_event::Event, inference_client::InferenceClient, tensor::Element,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

async fn client(cluster: &Cluster, stage: usize) -> InferenceClient<Channel> {
    let endpoint = Endpoint::new(cluster.place(stage).url()).expect("an address");
    let client = InferenceClient::new(endpoint.connect().await.expect("a stage that listens"));
    client.max_decoding_message_size(64 << 20)
}

/// A client of the door, once it has seen a replica of every stage.
async fn door(cluster: &Cluster) -> InferenceClient<Channel> {
    let client = client(cluster, 0).await;
    let answers = async || tokens(&mut client.clone(), generate(&PROMPT, 1)).await.ok();
    found("a live replica of every stage", answers).await;
    client
}

fn generate(prompt: &[u32], max_tokens: u32) -> pb::GenerateRequest {
    let input = Some(pb::generate_request::Input::Tokens(pb::TokenIds { ids: prompt.to_vec() }));
    pb::GenerateRequest { input, max_tokens: Some(max_tokens), top_logits: 5, ..Default::default() }
}

async fn tokens(
    client: &mut InferenceClient<Channel>,
    request: impl tonic::IntoRequest<pb::GenerateRequest>,
) -> Result<Vec<pb::GeneratedToken>, Status> {
    let mut events = client.generate(request).await?.into_inner();
    let mut tokens = Vec::new();
    while let Some(event) = events.next().await {
        if let Some(Event::Token(token)) = event?.event {
            tokens.push(token);
        }
    }
    Ok(tokens)
}

fn rows(ids: &[u32]) -> pb::Tensor {
    let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let shape = vec![ids.len() as u64, 1];
    pb::Tensor { element: Element::U32.into(), shape, data: data.into(), ..Default::default() }
}

#[tokio::test]
async fn the_references_tokens_come_and_stages_called_one_by_one_give_the_same_bits() {
    let cluster = Cluster::start(Pipeline::real()).await;
    let mut door = door(&cluster).await;
    let mut stages = Vec::new();
    for stage in 0..STAGES {
        stages.push(client(&cluster, stage).await);
    }
    for case in golden_cases(SMOLLM2) {
        let prompt = ids(&case["input_ids"]);
        let answer = tokens(&mut door, generate(&prompt, 16)).await.expect("an answer");
        let got: Vec<u32> = answer.iter().map(|token| token.token_id).collect();
        let want = ids(&case["greedy_ids"]);
        assert_eq!(got, want[..want.len().min(16)]);
        let mut tensors = vec![rows(&prompt)];
        let mut top = None;
        for client in &mut stages {
            let run = pb::RunRequest { inputs: tensors, top_logits: 5, stage: None };
            let reply = client.run(run).await.expect("the stage runs the rows").into_inner();
            (tensors, top) = (reply.outputs, reply.logits);
        }
        let [token] = &tensors[..] else { panic!("{} outputs", tensors.len()) };
        assert_eq!((token.name.as_str(), &token.shape[..]), ("tokens", &[1, 1][..]));
        assert_eq!((token.rows, token.columns, token.data.to_vec()), (1, 1, answer[0].token_id.to_le_bytes().to_vec()));
        assert_eq!(top, answer[0].logits, "the logits of rows that were run stage by stage have other bits");
    }
    cluster.hold(&[0, 1, 2], 0).await;
    let (_, page) = cluster.place(1).get("/metrics").await.expect("a page");
    assert!(page.contains("stage=\"1\"") && !page.contains("stage=\"0\""), "a page of another stage too: {page}");
    // Where the time went: rows waited and ran at every stage, and hopped from all but the last.
    for (stage, times) in [(0, 3), (1, 3), (2, 2)] {
        let labels = format!("stage=\"{stage}\"");
        for name in ["queue", "compute", "hop"].iter().take(times) {
            let count = cluster.place(stage).metric(&format!("stage_{name}_seconds_count"), &labels).await;
            assert!(count.expect("a count") >= 16.0, "{name} at stage {stage}: {count:?}");
        }
    }
}

#[tokio::test]
async fn a_stage_takes_only_rows_that_fit_it() {
    let cluster = Cluster::start(Pipeline::real()).await;
    let (mut first, mut second) = (client(&cluster, 0).await, client(&cluster, 1).await);
    let zeros = |rows: u32, columns: u32| {
        let data = vec![0; rows as usize * columns as usize * 4].into();
        // As two dimensions were said before there was a shape.
        pb::Tensor { element: Element::F32.into(), rows, columns, data, ..Default::default() }
    };
    let run = |input| pb::RunRequest { inputs: vec![input], top_logits: 0, stage: None };
    for tensor in [zeros(2, 576), zeros(0, 1), rows(&[0, 49_152]), rows(&vec![0; 257])] {
        let status = first.run(run(tensor)).await.expect_err("stage 0 takes up to 256 known tokens");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let misnamed = pb::Tensor { name: "tokens".into(), ..zeros(2, 576) };
    for tensor in [rows(&[1, 2]), zeros(2, 575), zeros(257, 576), misnamed] {
        let status = second.run(run(tensor)).await.expect_err("stage 1 takes up to 256 rows of 576 numbers");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    // More rows than a microbatch takes.
    let output = second.run(run(zeros(256, 576))).await.expect("a long run").into_inner().outputs.remove(0);
    assert_eq!((output.name.as_str(), &output.shape[..]), ("hidden", &[256, 576][..]));
    let elsewhere = pb::RunRequest { stage: Some(2), ..run(rows(&[1])) };
    assert_eq!(first.run(elsewhere).await.expect_err("not served here").code(), Code::FailedPrecondition);
    cluster.hold(&[0, 1, 2], 0).await;
    let status = second.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    let served: Vec<u32> = status.here.iter().map(|stage| stage.stage).collect();
    let live: Vec<(u32, &str)> = status.replicas.iter().map(|r| (r.stage, r.phase.as_str())).collect();
    assert_eq!((served, live), (vec![1], vec![(0, "ready"), (1, "ready"), (2, "ready")]));
    assert_eq!((status.stages.len(), status.stages[2].end_layer, status.here[0].hop.as_str()), (3, 30, "nats"));
    assert!(status.here[0].kv_blocks_free > 0 && status.here[0].kv_blocks_free == status.here[0].kv_blocks_total);
}

#[tokio::test]
async fn a_call_that_is_given_up_or_late_frees_every_stage() {
    let cluster = Cluster::start(Pipeline::fake()).await;
    let mut door = door(&cluster).await;
    let mut answer = door.generate(generate(&PROMPT, ENDLESS)).await.expect("an answer").into_inner();
    for _ in 0..3 {
        answer.next().await.expect("an event").expect("a good one");
    }
    cluster.hold(&[0, 1, 2], 1).await;
    drop(answer);
    cluster.hold(&[0, 1, 2], 0).await;
    let mut late = Request::new(generate(&PROMPT, ENDLESS));
    late.metadata_mut().insert("grpc-timeout", "300m".parse().expect("metadata"));
    let status = tokens(&mut door, late).await.expect_err("no answer of that length is so quick");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    cluster.hold(&[0, 1, 2], 0).await;
    let answer = tokens(&mut door, generate(&PROMPT, 20)).await.expect("an answer");
    assert_eq!(answer.iter().map(|token| token.token_id).collect::<Vec<_>>(), right_ids(20));
}

/// What `examples/generate.py` prints, and whether it ended well.
async fn example(arguments: &[&str]) -> (String, bool) {
    let python = std::env::var("STAGELINE_PYTHON").unwrap_or_else(|_| {
        let home = std::env::var("HOME").expect("HOME");
        format!("{home}/.cache/stageline/venv/bin/python")
    });
    let script = concat!(env!("STAGELINE_ROOT"), "/examples/generate.py");
    let program = tokio::process::Command::new(&python).arg(script).args(arguments).kill_on_drop(true).output();
    let output =
        soon("the example", program).await.unwrap_or_else(|error| panic!("{python}: {error}: run scripts/test"));
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).expect("text"), output.status.success())
}

#[tokio::test]
async fn the_python_example_does_what_it_says() {
    let cluster = Cluster::start(Pipeline::real()).await;
    door(&cluster).await;
    let address = cluster.place(0).url().replace("http://", "");
    let (text, good) = example(&[&address, "The capital of France is", "--max-tokens", "8"]).await;
    assert!(good && text.contains("Paris") && text.contains("[8 tokens, ended by length]"), "{text}");
    let (text, good) = example(&[&address, "--run", "1,2,3"]).await;
    assert!(good && text.starts_with("[3, 576]: ("), "{text}");
    let (text, good) = example(&[&address, "--run", "49152"]).await;
    assert!(!good && text.contains("error: INVALID_ARGUMENT: the model of 49152 tokens has no token 49152"), "{text}");
}

/// What `stageline call` prints, and its exit status.
async fn stageline_call(arguments: &[&str]) -> (String, Option<i32>) {
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_stageline"));
    let output = soon("the call", program.arg("call").args(arguments).kill_on_drop(true).output()).await;
    let output = output.expect("the program starts");
    (String::from_utf8([output.stdout, output.stderr].concat()).expect("text"), output.status.code())
}

#[tokio::test]
async fn the_command_line_calls_stages_one_after_the_other() {
    let cluster = Cluster::start(Pipeline::real()).await;
    door(&cluster).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file =
        |stage: usize| folder.path().join(format!("{stage}.safetensors")).to_str().expect("a plain path").to_owned();
    let case = &golden_cases(SMOLLM2)[0];
    let tokens: Vec<String> = ids(&case["input_ids"]).iter().map(u32::to_string).collect();
    let address = |stage: usize| cluster.place(stage).url().replace("http://", "");
    let first = stageline_call(&[&address(0), "--tokens", &tokens.join(","), "--save", &file(0)]).await;
    assert_eq!(first.1, Some(0), "{}", first.0);
    let second = stageline_call(&[&address(1), "--rows", &file(0), "--save", &file(1)]).await;
    assert_eq!(second.1, Some(0), "{}", second.0);
    let (text, _) = stageline_call(&[&address(2), "--rows", &file(1), "--json"]).await;
    let line: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(ids(&line["token_ids"]), ids(&case["greedy_ids"])[..1]);
    let (text, status) = stageline_call(&[&address(1), "--rows", &file(1), "--prompt", "x"]).await;
    assert!(status == Some(64) && text.contains("give one of them"), "{text}");
    let (text, status) = stageline_call(&[&address(1), "--prompt", "x"]).await;
    assert!(status == Some(1) && text.contains("FailedPrecondition (stage 1)"), "{text}");
    let (text, status) = stageline_call(&[&address(2)]).await;
    assert!(status == Some(0) && text.contains("cut into 3"), "{text}");
}

/// The value of a header.
fn header<'m>(message: &'m async_nats::Message, name: &str) -> Option<&'m str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}

#[tokio::test]
async fn the_door_is_on_nats_too() {
    let cluster = Cluster::start(Pipeline::fake()).await;
    let client = async_nats::connect(cluster.broker.url()).await.expect("the broker");
    let subject = format!("stageline.v1.{}.ask", cluster.pipeline.name());
    let ask = |body: serde_json::Value| client.request(subject.clone(), body.to_string().into());
    door(&cluster).await;
    // Whoever is ready has not always subscribed yet.
    let reply =
        found("the door's subscription", async || ask(json!({"tokens": PROMPT, "max_tokens": 20})).await.ok()).await;
    assert_eq!(header(&reply, "Stageline-Status"), Some("200"));
    let answer: serde_json::Value = serde_json::from_slice(&reply.payload).expect("JSON");
    assert_eq!(ids(&answer["token_ids"]), right_ids(20));

    let refused = ask(json!({"prompt": 1})).await.expect("a reply");
    assert_eq!(header(&refused, "Stageline-Status"), Some("400"));

    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.expect("a subscription");
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Accept", "text/event-stream");
    let body = json!({"tokens": PROMPT, "max_tokens": 20}).to_string();
    client.publish_with_reply_and_headers(subject, inbox, headers, body.into()).await.expect("a message");
    let mut got = Vec::new();
    loop {
        let reply = soon("an event", replies.next()).await.expect("a reply");
        let data: serde_json::Value = serde_json::from_slice(&reply.payload).expect("JSON");
        match header(&reply, "Stageline-Event").expect("an event's name") {
            "token" => got.push(data["token_id"].as_u64().expect("an id") as u32),
            "done" => break assert_eq!(data["finish_reason"], "length"),
            other => panic!("{other}: {data}"),
        }
    }
    assert_eq!(got, right_ids(20));
    cluster.hold(&[0, 1, 2], 0).await;
}
