//! The calls of `stageline.v1.Inference`, health and reflection.

use crate::support::{Door, Script, Setup};
use futures::StreamExt;
use stageline_base::{Course, Element, Fault, FaultClass, Gives, HostTensor, Takes, Task, Tensors};
use stageline_core::Observed;
use stageline_door::Limits;
use stageline_door::{AnswerEvent, ChatMessage, Conversation, FinishReason, Input, Readiness};
use stageline_proto::inference::{self as pb, generate_event::Event};
use std::time::Duration;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

fn token(id: u32, text: &str) -> AnswerEvent {
    AnswerEvent::Token { id, text: text.to_string(), observed: None }
}

fn done(text: &str) -> AnswerEvent {
    AnswerEvent::Finished { reason: FinishReason::Stop, text: text.to_string() }
}

fn prompt(text: &str) -> pb::GenerateRequest {
    let input = Some(pb::generate_request::Input::Prompt(text.into()));
    pb::GenerateRequest { input, ..Default::default() }
}

/// The events of a whole answer, or the status that ended it.
async fn events(door: &Door, request: pb::GenerateRequest) -> Result<Vec<Event>, Status> {
    let mut stream = door.client().await.generate(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event?.event.expect("an event"));
    }
    Ok(events)
}

#[tokio::test]
async fn a_request_reaches_the_pipeline_and_its_answer_the_client() {
    let mut door = Door::open(Setup::default()).await;
    let asked = pb::GenerateRequest {
        max_tokens: Some(7),
        temperature: Some(0.5),
        top_k: Some(3),
        top_p: Some(0.9),
        repetition_penalty: Some(1.1),
        seed: Some(9),
        stop: vec!["\n".into()],
        top_logits: 1,
        ..prompt("Hi")
    };
    let mut request = Request::new(asked);
    request.metadata_mut().insert("x-call-id", "mine".parse().unwrap());
    request.metadata_mut().insert("grpc-timeout", "1500m".parse().unwrap());
    let mut client = door.client().await;
    let calling = tokio::spawn(async move { client.generate(request).await });
    let served = door.served().await;
    let r = &served.request;
    assert_eq!((r.call_id.as_str(), &r.input), ("mine", &Input::Text("Hi".into())));
    let drawn = r.sampling;
    assert_eq!((r.max_tokens, drawn.temperature, drawn.top_k, drawn.top_p), (Some(7), Some(0.5), Some(3), Some(0.9)));
    assert_eq!((drawn.repetition_penalty, drawn.seed, drawn.top_logits), (Some(1.1), Some(9), Some(1)));
    assert_eq!(r.stop, ["\n"]);
    // Counted from the head, of which some time has passed.
    assert!(r.deadline.is_some_and(|left| !left.is_zero() && left < Duration::from_millis(1500)), "{:?}", r.deadline);
    let answer = calling.await.unwrap().unwrap();
    assert_eq!(answer.metadata().get("x-call-id").unwrap(), "mine");
    let mut answer = answer.into_inner();
    let mut next = async || answer.next().await.unwrap().unwrap().event.unwrap();
    assert_eq!(next().await, Event::Started(pb::Started { prompt_tokens: 5 }));
    let observed = Some(Observed { digest: 0xab, top: vec![(4, 1.5), (2, -0.25)] });
    served.send(AnswerEvent::Token { id: 4, text: "He".into(), observed }).await;
    let top = Some(pb::TopLogits { digest: 0xab, ids: vec![4, 2], logits: vec![1.5, -0.25] });
    // Each token as it comes: the answer is not over.
    assert_eq!(
        next().await,
        Event::Token(pb::GeneratedToken { index: 0, token_id: 4, text: "He".into(), logits: top })
    );
    served.token(2, "").await;
    assert_eq!(
        next().await,
        Event::Token(pb::GeneratedToken { index: 1, token_id: 2, text: String::new(), logits: None })
    );
    served.send(done("y")).await;
    let finished =
        pb::Finished { finish_reason: pb::finished::Reason::Stop.into(), text: "y".into(), answer_tokens: 2 };
    assert_eq!(next().await, Event::Finished(finished));
    assert!(answer.next().await.is_none());
    served.dropped().await;
    assert_eq!((door.metrics.door.ends(None), door.metrics.door.requests_in_flight.get()), (1, 0));
}

#[tokio::test]
async fn every_form_of_a_prompt_is_taken_and_none_is_refused() {
    let mut door = Door::open(Setup::default()).await;
    let message = |role: &str| pb::ChatMessage { role: role.into(), content: "x".into() };
    let chat = |messages| Some(pb::generate_request::Input::Chat(pb::Conversation { messages }));
    let tokens = Some(pb::generate_request::Input::Tokens(pb::TokenIds { ids: vec![1, 2] }));
    let said = |role: &str| Input::Chat(Conversation::of(vec![ChatMessage::new(role, "x")]));
    for (input, want) in [
        (chat(vec![message("user")]), said("user")),
        (chat(vec![message("developer")]), said("developer")),
        (chat(vec![message("tool")]), said("tool")),
        (tokens, Input::Tokens(vec![1, 2])),
    ] {
        let mut client = door.client().await;
        let request = pb::GenerateRequest { input, ..Default::default() };
        let calling = tokio::spawn(async move { client.generate(request).await.map(drop) });
        let served = door.served().await;
        assert_eq!(served.request.input, want);
        assert!(
            served.request.deadline.is_some_and(|left| !left.is_zero() && left < Limits::default().default_deadline)
        );
        calling.await.unwrap().unwrap();
    }
    for (input, field) in [(None, "prompt"), (chat(vec![]), "chat"), (chat(vec![message("ipython")]), "role")] {
        let status = events(&door, pb::GenerateRequest { input, ..Default::default() }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
    }
}

#[tokio::test]
async fn every_class_of_fault_has_its_code_and_details_before_and_during_an_answer() {
    let door = Door::open(Setup::default()).await;
    for class in FaultClass::ALL {
        let fault = Fault::new(class, "what failed").at_stage(3);
        let during = vec![token(1, "a"), AnswerEvent::Failed(fault.clone())];
        for script in [Script::Refuse(fault), Script::Answer(during)] {
            door.script(script);
            let status = events(&door, prompt("x")).await.unwrap_err();
            let row = class.row();
            assert_eq!((status.code(), status.message()), (Code::from_i32(row.grpc), "what failed"));
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((info.domain.as_str(), info.reason.as_str()), ("stageline", row.name.to_uppercase().as_str()));
            assert_eq!(info.metadata["stage"], "3");
            assert_eq!(details.retry_info().is_some(), row.retry, "{class:?}");
        }
        assert_eq!(door.metrics.door.ends(Some(class)), 2, "{class:?}");
    }
}

#[tokio::test]
async fn a_call_in_the_wrong_place_is_told_where_to_go() {
    let later = Door::open(Setup { stage: 2, ..Setup::default() }).await;
    let status = events(&later, prompt("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("stage 0 of pipeline tiny"), "{status}");
    let text = || pb::EmbedRequest { given: Some(pb::embed_request::Given::Input("a".into())), ..Default::default() };
    let pieces = vec![AnswerEvent::Vector(vec![0.5, -1.0]), done("")];
    let encoder = Door::open(Setup { task: Task::EMBED, script: Script::Answer(pieces), ..Setup::default() }).await;
    let reply = encoder.client().await.embed(text()).await.unwrap().into_inner();
    assert_eq!(reply, pb::EmbedReply { embedding: vec![0.5, -1.0], prompt_tokens: 5 });
    let status = events(&encoder, prompt("x")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "this pipeline embeds: call Embed or Infer"));
    let decoder = Door::open(Setup::default()).await;
    let status = decoder.client().await.embed(text()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "this pipeline generates: call Generate"));
}

#[tokio::test]
async fn tensors_are_answered_with_tensors() {
    use pb::tensor::Element as Of;
    let tensor = |name: &str, element: Of, shape: &[u64], data: Vec<u8>| {
        let (element, shape, data) = (element.into(), shape.to_vec(), data.into());
        let (rows, columns) = if let [rows, columns] = shape[..] { (rows as u32, columns as u32) } else { (0, 0) };
        pb::Tensor { element, rows, columns, data, name: name.into(), shape }
    };
    let answer: Tensors = [
        ("label".into(), HostTensor::new(Element::I64, [], 7i64.to_le_bytes().to_vec().into()).unwrap()),
        ("scores".into(), HostTensor::of_f32([2, 1], &[0.5, -1.0]).unwrap()),
    ]
    .into_iter()
    .collect();
    let task = Task { takes: Takes::Tensors, gives: Gives::Tensors, course: Course::Once, cached: false };
    let mut door = Door::open(Setup { task, ..Setup::default() }).await;
    let mut client = door.client().await;
    let picture = tensor("picture", Of::U8, &[3, 1, 2], (0..6).collect());
    let asked = pb::InferRequest { inputs: vec![picture], manifest: "ab".repeat(4) };
    let asking = tokio::spawn({
        let (mut client, asked) = (client.clone(), asked.clone());
        async move { client.infer(asked).await.unwrap().into_inner().outputs }
    });
    let served = door.served().await;
    served.send(AnswerEvent::Tensors(answer)).await;
    served.send(done("")).await;
    let outputs = asking.await.unwrap();
    let scores = [0.5f32, -1.0].iter().flat_map(|score| score.to_le_bytes()).collect();
    let want = [tensor("label", Of::I64, &[], 7i64.to_le_bytes().to_vec()), tensor("scores", Of::F32, &[2, 1], scores)];
    assert_eq!(outputs, want);
    let request = served.request;
    let Input::Tensors(tensors) = request.input else { panic!("{:?} came", request.input) };
    let picture = HostTensor::new(Element::U8, [3, 1, 2], (0..6).collect::<Vec<u8>>().into()).unwrap();
    assert_eq!((tensors.by_name("picture"), request.manifest.as_deref()), (Some(&picture), Some("abababab")));

    let status = events(&door, prompt("x")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "this pipeline infers: call Infer"));
    for broken in [
        pb::InferRequest { inputs: Vec::new(), ..asked.clone() },
        pb::InferRequest { inputs: vec![pb::Tensor::default(); 65], ..asked.clone() },
        pb::InferRequest { inputs: vec![tensor("a", Of::I32, &[3], vec![0; 8])], ..asked.clone() },
        pb::InferRequest { inputs: vec![tensor("a", Of::Bool, &[2], vec![1, 2])], ..asked },
    ] {
        assert_eq!(client.infer(broken).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let (class, words) = door.post("a picture of a cat").await.error();
    assert_eq!(class, "invalid_request");
    assert!(words.contains("call Infer over gRPC"), "{words}");
}

#[tokio::test]
async fn a_client_that_cancels_drops_its_answer() {
    let mut door = Door::open(Setup::default()).await;
    let mut client = door.client().await;
    // The channel stays: it is the call that is cancelled.
    let answer = client.generate(prompt("x")).await.unwrap();
    let served = door.served().await;
    drop(answer);
    served.dropped().await;
    assert_eq!(
        (door.metrics.door.ends(Some(FaultClass::Cancelled)), door.metrics.door.requests_in_flight.get()),
        (1, 0)
    );
}

#[tokio::test]
async fn a_full_door_refuses_and_has_room_again() {
    let limits = Limits { max_inflight: Some(1), ..Limits::default() };
    let mut door = Door::open(Setup { limits, ..Setup::default() }).await;
    let first = door.client().await.generate(prompt("x")).await.unwrap();
    let served = door.served().await;
    let status = events(&door, prompt("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_error_details().retry_info().is_some());
    drop(first);
    served.dropped().await;
    door.script(Script::Answer(vec![done("ok")]));
    assert_eq!(events(&door, prompt("x")).await.unwrap().len(), 2);
}

#[tokio::test]
async fn rows_are_run_on_any_stage() {
    use pb::tensor::Element;
    let door = Door::open(Setup { stage: 3, ..Setup::default() }).await;
    let mut client = door.client().await;
    let data: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = pb::Tensor {
        element: Element::F32.into(),
        rows: 2,
        columns: 2,
        data: data.clone().into(),
        name: "hidden".into(),
        shape: vec![2, 2],
    };
    let run = pb::RunRequest { inputs: vec![tensor.clone()], top_logits: 1, stage: None };
    let reply = client.run(run.clone()).await.unwrap().into_inner();
    let top = pb::TopLogits { digest: 7, ids: vec![1], logits: vec![0.5] };
    assert_eq!(reply, pb::RunReply { outputs: vec![tensor.clone()], logits: Some(top) });
    // Of two dimensions, as they were said before there was a shape.
    let old = pb::Tensor { shape: Vec::new(), ..tensor.clone() };
    let again = client.run(pb::RunRequest { inputs: vec![old.clone()], ..run.clone() }).await.unwrap().into_inner();
    assert_eq!(again, reply);
    let nan = pb::Tensor {
        element: Element::Bf16.into(),
        rows: 2,
        columns: 1,
        data: vec![0, 0, 0xc0, 0x7f].into(),
        ..old.clone()
    };
    for (change, code) in [
        (pb::RunRequest { inputs: Vec::new(), ..run.clone() }, Code::InvalidArgument),
        (pb::RunRequest { top_logits: 21, ..run.clone() }, Code::InvalidArgument),
        (pb::RunRequest { stage: Some(70_000), ..run.clone() }, Code::InvalidArgument),
        (pb::RunRequest { stage: Some(1), ..run.clone() }, Code::FailedPrecondition),
        (pb::RunRequest { inputs: vec![pb::Tensor { rows: 3, ..old.clone() }], ..run.clone() }, Code::InvalidArgument),
        (
            pb::RunRequest {
                inputs: vec![pb::Tensor { rows: u32::MAX, columns: u32::MAX, ..old.clone() }],
                ..run.clone()
            },
            Code::InvalidArgument,
        ),
        (
            pb::RunRequest { inputs: vec![pb::Tensor { shape: vec![u64::MAX, 4], ..tensor.clone() }], ..run.clone() },
            Code::InvalidArgument,
        ),
        (
            pb::RunRequest { inputs: vec![pb::Tensor { shape: vec![1; 9], ..tensor.clone() }], ..run.clone() },
            Code::InvalidArgument,
        ),
        (pb::RunRequest { inputs: vec![nan], ..run.clone() }, Code::InvalidArgument),
        (pb::RunRequest { inputs: vec![pb::Tensor { element: 9, ..tensor }], ..run }, Code::InvalidArgument),
    ] {
        assert_eq!(client.run(change).await.unwrap_err().code(), code);
    }
    let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.pipeline.as_str(), status.manifest.len(), status.requests_in_flight), ("tiny", 64, 0));
    assert_eq!((status.stages[0].end_layer, status.stages[0].parameters), (4, 9));
}

#[tokio::test]
async fn health_follows_readiness() {
    let door = Door::open(Setup::default()).await;
    let mut health = HealthClient::new(door.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "stageline.v1.Inference"] {
        let reply = health.check(ask(service)).await.unwrap().into_inner();
        assert_eq!(reply.status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = health.watch(ask("nobody")).await.unwrap().into_inner();
    assert_eq!(unknown.next().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let mut watched = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    door.readiness.send_replace(Readiness::NotReady("draining".into()));
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    // Another reason is nothing new.
    door.readiness.send_replace(Readiness::NotReady("loading".into()));
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    door.readiness.send_replace(Readiness::Ready);
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_client_without_files_learns_of_every_service() {
    let door = Door::open(Setup::default()).await;
    let mut reflection = ServerReflectionClient::new(door.channel().await);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let list = ask(MessageRequest::ListServices(String::new()));
    let symbol = ask(MessageRequest::FileContainingSymbol("stageline.v1.GenerateRequest".into()));
    let asked = futures::stream::iter([list, symbol]);
    let mut replies = reflection.server_reflection_info(asked).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = replies.next().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["stageline.v1.Inference", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let Some(MessageResponse::FileDescriptorResponse(file)) = replies.next().await.unwrap().unwrap().message_response
    else {
        panic!("no file")
    };
    assert!(!file.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn both_protocols_are_served_on_one_port() {
    let door = Door::open(Setup { script: Script::Answer(vec![done("ok")]), ..Setup::default() }).await;
    assert_eq!(events(&door, prompt("x")).await.unwrap().len(), 2);
    assert_eq!(door.post(r#"{"prompt": "x"}"#).await.status, 200);
    assert_eq!(door.get("/stageline.v1.Nothing/Generate").await.status, 404);
}

#[tokio::test]
async fn a_stopped_door_finishes_the_calls_in_progress() {
    let mut door = Door::open(Setup::default()).await;
    let mut answer = door.client().await.generate(prompt("x")).await.unwrap().into_inner();
    let served = door.served().await;
    door.stop();
    served.send(done("bye")).await;
    let mut count = 0;
    while let Some(event) = answer.next().await {
        event.unwrap();
        count += 1;
    }
    assert_eq!(count, 2);
    drop((answer, served));
    (&mut door.serving).await.unwrap();
}
