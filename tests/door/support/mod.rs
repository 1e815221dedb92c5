//! A door to knock at: a scripted pipeline behind it, and a client that sees every byte.

mod client;
mod log;

pub use client::{Connection, Reply, exchange};
pub use log::logged;

use futures::future::BoxFuture;
use stageline_base::{Fault, FaultClass, ReplicaId, StageIndex, Task};
use stageline_core::{DirectOutput, DirectRun, Observed};
use stageline_door::api::forms::AllForms;
use stageline_door::durable::{Keeper, KeeperSetup};
use stageline_door::http::serve;
use stageline_door::keys::Keys;
use stageline_door::outgoing::Outgoing;
use stageline_door::stages::StageFacts;
use stageline_door::stages::{Here, Overview, Stages};
use stageline_door::{Answer, AnswerEvent, Intake, Readiness, Request};
use stageline_door::{Limits, NoStore, Site, SiteSetup, router, routers_apart};
use stageline_metrics::Metrics;
use stageline_proto::inference::inference_client::InferenceClient;
use stageline_store::MemoryStore;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// The pipeline's side of an admitted request.
pub struct Served {
    /// What was asked.
    pub request: Request,
    /// Where the answer's pieces go.
    pub events: mpsc::Sender<AnswerEvent>,
    /// Ends when the answer is dropped.
    pub alive: oneshot::Receiver<()>,
}

impl Served {
    /// Sends a token.
    pub async fn token(&self, id: u32, text: &str) {
        self.send(AnswerEvent::Token { id, text: text.to_string(), observed: None }).await;
    }

    /// Sends a piece.
    pub async fn send(&self, event: AnswerEvent) {
        self.events.send(event).await.unwrap();
    }

    /// Waits until the answer is dropped.
    pub async fn dropped(self) {
        assert!(self.alive.await.is_err());
    }
}

/// What the pipeline does with a request.
#[derive(Clone)]
pub enum Script {
    /// Hands it to the test.
    Hand,
    /// Refuses it.
    Refuse(Fault),
    /// Answers with these pieces.
    Answer(Vec<AnswerEvent>),
}

struct Pipeline {
    script: Mutex<Script>,
    task: Task,
    served: mpsc::Sender<Served>,
}

impl Intake for Pipeline {
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Answer, Fault>> {
        let script = self.script.lock().unwrap().clone();
        Box::pin(async move {
            let (events, receiver) = mpsc::channel(64);
            let (alive, other_end) = oneshot::channel();
            let answer = Answer { prompt_tokens: 5, events: receiver, alive };
            match script {
                Script::Refuse(fault) => return Err(fault),
                Script::Answer(pieces) => {
                    for piece in pieces {
                        events.try_send(piece).unwrap();
                    }
                }
                Script::Hand => {
                    let served = Served { request, events, alive: other_end };
                    self.served.send(served).await.map_err(|_| Fault::internal("the test is over"))?;
                }
            }
            Ok(answer)
        })
    }

    fn task(&self) -> Task {
        self.task
    }
}

/// Stages that give back what they are given.
struct Echo {
    served: StageIndex,
}

impl Stages for Echo {
    fn run(&self, stage: Option<StageIndex>, run: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
        Box::pin(async move {
            if stage.is_some_and(|stage| stage != self.served) {
                return Err(Fault::new(FaultClass::Misdirected, "another stage"));
            }
            let observed = (run.top_logits > 0).then(|| Observed { digest: 7, top: vec![(1, 0.5)] });
            Ok(DirectOutput { output: run.input, observed })
        })
    }

    fn overview(&self) -> Overview {
        let cut = vec![StageFacts { layers: 0..4, parameters: 9, cost: 1.0 }];
        let here = vec![Here { stage: self.served, takes: stageline_base::Border::tokens(), hop: "nats" }];
        Overview { manifest: "ab".repeat(32), cut, here, ..Overview::default() }
    }
}

/// How a door is set up.
pub struct Setup {
    pub limits: Limits,
    pub script: Script,
    pub task: Task,
    /// The stage; only stage 0 takes prompts.
    pub stage: u16,
    /// Whether operators have a port of their own.
    pub apart: bool,
    /// How durable requests are kept, if they are.
    pub keeping: Option<KeeperSetup>,
    /// Whose requests are answered.
    pub keys: Option<Arc<Keys>>,
}

/// A store of this process, for a pipeline that is called tiny.
pub fn keeping() -> KeeperSetup {
    KeeperSetup {
        store: Arc::new(MemoryStore::new(Duration::from_secs(3), 100)),
        me: ReplicaId::new("door", 1),
        manifest: "ab".repeat(32),
        at_once: 8,
        timeout: Duration::from_secs(600),
        keep: Duration::from_secs(600),
        name: "tiny".to_owned(),
        outgoing: Outgoing::default(),
        callback_url: None,
        join_always: false,
        metrics: Arc::new(Metrics::new("tiny", 0..1)),
        forms: &AllForms,
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            script: Script::Hand,
            task: Task::GENERATE,
            stage: 0,
            apart: false,
            keeping: None,
            keys: None,
        }
    }
}

/// A door that is being served.
pub struct Door {
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// What its doors have in common.
    pub site: Arc<Site>,
    pub metrics: Arc<Metrics>,
    pub readiness: watch::Sender<Readiness>,
    pub serving: JoinHandle<()>,
    /// Who keeps its durable requests.
    pub keeper: Option<Arc<Keeper>>,
    pipeline: Arc<Pipeline>,
    served: mpsc::Receiver<Served>,
    stop: Option<oneshot::Sender<()>>,
}

impl Door {
    /// Opens a door on a free port.
    pub async fn open(setup: Setup) -> Self {
        log::keep();
        let (to_test, served) = mpsc::channel(16);
        let pipeline = Arc::new(Pipeline { script: Mutex::new(setup.script), task: setup.task, served: to_test });
        let metrics = Arc::new(Metrics::new("tiny", 0..1));
        let readiness = watch::Sender::new(Readiness::Ready);
        let keeper = setup.keeping.map(|setup| Keeper::new(setup).unwrap());
        if let Some(keeper) = &keeper {
            let intake = Arc::clone(&pipeline) as Arc<dyn Intake>;
            let (closing, release) = (CancellationToken::new(), CancellationToken::new());
            tokio::spawn(Arc::clone(keeper).work(intake, closing, release));
        }
        let site = Site::new(SiteSetup {
            intake: (setup.stage == 0).then(|| Arc::clone(&pipeline) as Arc<dyn Intake>),
            readiness: readiness.subscribe(),
            metrics: Arc::clone(&metrics),
            limits: setup.limits.clone(),
            pipeline: "tiny".to_string(),
            stage: setup.stage,
            keeper: keeper.clone().ok_or(NoStore::Unasked),
            keys: setup.keys,
            stages: Arc::new(Echo { served: setup.stage }),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            // A door that is forgotten is never stopped.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let (clients, operators) = match setup.apart {
            false => (router(site.clone()), None),
            true => {
                let (clients, operators) = routers_apart(site.clone());
                (clients, Some(operators))
            }
        };
        let admin = match operators {
            Some(operators) => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::spawn(serve(listener, operators, setup.limits.clone(), metrics.clone(), std::future::pending()));
                Some(address)
            }
            None => None,
        };
        let serving = tokio::spawn(serve(listener, clients, setup.limits, metrics.clone(), shutdown));
        Self { address, admin, site, metrics, readiness, serving, keeper, pipeline, served, stop: Some(stop) }
    }

    /// What the pipeline does with the requests from now on.
    pub fn script(&self, script: Script) {
        *self.pipeline.script.lock().unwrap() = script;
    }

    /// Whether no other request has been admitted.
    pub fn served_nothing(&mut self) -> bool {
        self.served.try_recv().is_err()
    }

    /// The next admitted request.
    pub async fn served(&mut self) -> Served {
        self.served.recv().await.unwrap()
    }

    /// A gRPC channel to it.
    pub async fn channel(&self) -> Channel {
        Endpoint::new(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// A client of its gRPC service.
    pub async fn client(&self) -> InferenceClient<Channel> {
        InferenceClient::new(self.channel().await)
    }

    /// Tells it to stop.
    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Sends `request` and reads the whole reply.
    pub async fn send(&self, request: impl AsRef<[u8]>) -> Reply {
        exchange(self.address, request.as_ref()).await
    }

    /// Posts `body` as JSON.
    pub async fn post(&self, body: &str) -> Reply {
        self.send(post("content-type: application/json\r\n", body)).await
    }

    /// Gets `path`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }
}

/// A `POST /` of `body` with its length and more `headers`, after which the connection closes.
pub fn post(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}
