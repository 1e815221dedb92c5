//! Small servers of each kind, all with the same answers: what a prompt's first token id says.

use futures::StreamExt;
use futures::future::BoxFuture;
use stageline_base::{Fault, FaultClass, StageIndex, Task};
use stageline_core::requests::FinishReason;
use stageline_core::{DirectOutput, DirectRun};
use stageline_door::http::serve;
use stageline_door::stages::{Overview, Stages};
use stageline_door::{Answer, AnswerEvent, Input, Intake, Readiness, Request};
use stageline_door::{Limits, NoStore, Site, SiteSetup, router, routers_apart};
use stageline_metrics::Metrics;
use stageline_proto::inference as pb;
use stageline_proto::inference::inference_server::{Inference, InferenceServer};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, Status};

/// A prompt that begins so is refused.
pub const REFUSED: u32 = 7;
/// A prompt that begins so is answered in part, and then fails.
pub const BROKEN: u32 = 8;

/// Answers with as many tokens as are asked for.
pub struct Pipeline;

impl Intake for Pipeline {
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Answer, Fault>> {
        Box::pin(async move {
            let Input::Tokens(ids) = request.input else { return Err(Fault::invalid("token ids are expected")) };
            if ids[0] == REFUSED {
                return Err(Fault::new(FaultClass::Overloaded, "no room"));
            }
            let tokens = request.max_tokens.unwrap_or(1);
            let (events, answer) = mpsc::channel(tokens as usize + 2);
            let (alive, _) = oneshot::channel();
            for id in 0..tokens {
                events.try_send(AnswerEvent::Token { id, text: format!("{id}"), observed: None }).unwrap();
            }
            let end = match ids[0] {
                BROKEN => AnswerEvent::Failed(Fault::device("it broke")),
                _ => AnswerEvent::Finished { reason: FinishReason::Length, text: String::new() },
            };
            events.try_send(end).unwrap();
            Ok(Answer { prompt_tokens: ids.len() as u32, events: answer, alive })
        })
    }

    fn task(&self) -> Task {
        Task::GENERATE
    }
}

impl Stages for Pipeline {
    fn run(&self, _: Option<StageIndex>, _: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
        Box::pin(std::future::ready(Err(Fault::invalid("no rows are run here"))))
    }

    fn overview(&self) -> Overview {
        Overview::default()
    }
}

/// The same with a model of so many tokens.
pub struct Small(pub u32);

impl Intake for Small {
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Answer, Fault>> {
        let vocab = self.0;
        if let Input::Tokens(ids) = &request.input
            && let Some(id) = ids.iter().find(|id| **id >= vocab)
        {
            let fault = Fault::invalid(format!("token {id} at place 0 is not one of the model's {vocab} tokens"));
            return Box::pin(std::future::ready(Err(fault)));
        }
        Pipeline.submit(request)
    }

    fn task(&self) -> Task {
        Task::GENERATE
    }
}

impl Stages for Small {
    fn run(&self, stage: Option<StageIndex>, run: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
        Pipeline.run(stage, run)
    }

    fn overview(&self) -> Overview {
        Overview { vocab: self.0, ..Overview::default() }
    }
}

fn site(intake: Arc<dyn Intake>, stages: Arc<dyn Stages>) -> Arc<Site> {
    Site::new(SiteSetup {
        intake: Some(intake),
        readiness: watch::Sender::new(Readiness::Ready).subscribe(),
        metrics: Arc::new(Metrics::new("p", 0..1)),
        limits: Limits::default(),
        pipeline: "p".into(),
        stage: 0,
        keeper: Err(NoStore::Unasked),
        keys: None,
        stages,
    })
}

/// Serves `router`; gives its address.
async fn served(router: axum::Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let metrics = Arc::new(Metrics::new("p", 0..1));
    tokio::spawn(serve(listener, router, Limits::default(), metrics, std::future::pending()));
    address
}

/// A function door; gives its URL.
pub async fn http() -> String {
    format!("http://{}", served(router(site(Arc::new(Pipeline), Arc::new(Pipeline)))).await)
}

/// A door of a model of so many tokens; gives its address.
pub async fn small(vocab: u32) -> String {
    served(router(site(Arc::new(Small(vocab)), Arc::new(Small(vocab))))).await
}

/// The same with an address of its own for operators, the second.
pub async fn small_apart(vocab: u32) -> (String, String) {
    let (clients, admin) = routers_apart(site(Arc::new(Small(vocab)), Arc::new(Small(vocab))));
    (served(clients).await, served(admin).await)
}

/// The client service of stage `stage`, whose rows are 4 wide.
struct Service {
    stage: u32,
}

#[tonic::async_trait]
impl Inference for Service {
    type GenerateStream = futures::stream::BoxStream<'static, Result<pb::GenerateEvent, Status>>;

    async fn generate(
        &self,
        request: tonic::Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        use pb::generate_event::Event;
        let request = request.into_inner();
        let Some(pb::generate_request::Input::Tokens(prompt)) = request.input else {
            return Err(Status::invalid_argument("token ids are expected"));
        };
        if prompt.ids[0] == REFUSED {
            return Err(Status::resource_exhausted("no room"));
        }
        let mut events = vec![Ok(Event::Started(pb::Started { prompt_tokens: prompt.ids.len() as u32 }))];
        let tokens = request.max_tokens.unwrap_or(1);
        events.extend((0..tokens).map(|index| Ok(Event::Token(pb::GeneratedToken { index, ..Default::default() }))));
        events.push(match prompt.ids[0] {
            BROKEN => Err(Status::internal("it broke")),
            _ => Ok(Event::Finished(pb::Finished::default())),
        });
        let events = events.into_iter().map(|event| event.map(|event| pb::GenerateEvent { event: Some(event) }));
        Ok(Response::new(futures::stream::iter(events).boxed()))
    }

    type FollowStream = Self::GenerateStream;

    async fn follow(&self, _: tonic::Request<pb::FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("no load is measured by it"))
    }

    async fn embed(&self, _: tonic::Request<pb::EmbedRequest>) -> Result<Response<pb::EmbedReply>, Status> {
        Ok(Response::new(pb::EmbedReply { embedding: vec![1.0], prompt_tokens: 3 }))
    }

    async fn infer(&self, _: tonic::Request<pb::InferRequest>) -> Result<Response<pb::InferReply>, Status> {
        Err(Status::unimplemented("no load is measured by it"))
    }

    async fn run(&self, request: tonic::Request<pb::RunRequest>) -> Result<Response<pb::RunReply>, Status> {
        let inputs = request.into_inner().inputs;
        let [input] = &inputs[..] else { return Err(Status::invalid_argument("not one input")) };
        let (element, columns) = match self.stage {
            0 => (pb::tensor::Element::U32, 1),
            _ => (pb::tensor::Element::F32, 4),
        };
        let whole = input.data.len() as u64 == input.shape[0] * columns * 4;
        if input.element != element as i32 || input.shape[1..] != [columns] || !whole {
            return Err(Status::invalid_argument(format!("{:?} is not expected", input.shape)));
        }
        Ok(Response::new(pb::RunReply { outputs: inputs, logits: None }))
    }

    async fn status(&self, _: tonic::Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        let takes = ["tokens u32 [rows, 1]", "hidden f32 [rows, 4]", "hidden f32 [rows, 5]"][self.stage as usize];
        let here = vec![pb::LocalStage { stage: self.stage, takes: vec![takes.into()], ..Default::default() }];
        Ok(Response::new(pb::StatusReply { here, ..Default::default() }))
    }
}

/// A gRPC client service at stage `stage`; gives its URL.
pub async fn grpc(stage: u32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpc://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(InferenceServer::new(Service { stage }));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    url
}

/// A door of the pipeline `p` behind the broker at `url`: it asks the function door at `door`, and hands its answers on.
pub async fn nats(url: &str, door: String) {
    let client = async_nats::connect(url).await.unwrap();
    let mut asked = client.queue_subscribe("stageline.v1.p.ask", "door".into()).await.unwrap();
    // What comes back on the same connection shows that the broker has read the subscription before it.
    let mut echo = client.subscribe("echo").await.unwrap();
    client.publish("echo", "".into()).await.unwrap();
    echo.next().await.unwrap();
    tokio::spawn(async move {
        while let Some(ask) = asked.next().await {
            let streams = ask.headers.as_ref().is_some_and(|headers| headers.get("Accept").is_some());
            let accept = if streams { "text/event-stream" } else { "application/json" };
            let request = reqwest::Client::new().post(&door).header("content-type", "application/json");
            let answer = request.header("accept", accept).body(ask.payload).send().await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.bytes().await.unwrap();
            let reply = ask.reply.unwrap();
            if !streams || status != 200 {
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Stageline-Status", status.to_string().as_str());
                client.publish_with_headers(reply, headers, body).await.unwrap();
                continue;
            }
            for event in std::str::from_utf8(&body).unwrap().split("\n\n").filter(|event| !event.is_empty()) {
                let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Stageline-Event", line("event:").unwrap_or("message"));
                let payload = line("data:").unwrap().to_owned();
                client.publish_with_headers(reply.clone(), headers, payload.into()).await.unwrap();
            }
        }
    });
}
