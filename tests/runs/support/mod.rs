//! A door of flows to knock at, the engine behind it, and the gateway that it calls.

mod events;
mod gateway;
mod reply;

pub use events::Events;
pub use gateway::{Call, Gateway, Said};
pub use reply::Reply;

use crate::patience::soon;
use futures::StreamExt;
use futures::future::BoxFuture;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use stageline_base::{Fault, FaultClass, ReplicaId, StageIndex};
use stageline_core::{DirectOutput, DirectRun};
use stageline_door::api::flows::{FlowsSetup, router};
use stageline_door::http::serve;
use stageline_door::keys::Keys;
use stageline_door::outgoing::Outgoing;
use stageline_door::stages::{Overview, Stages};
use stageline_door::{Limits, NoStore, Readiness, Site, SiteSetup};
use stageline_flow::file;
use stageline_metrics::Metrics;
use stageline_runner::{HttpCaller, Keeper, KeeperSetup};
use stageline_store::{FileSettings, FileStore, MemoryStore, Name, Store};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// There are no stages of a model here.
struct NoStages;

impl Stages for NoStages {
    fn run(&self, _: Option<StageIndex>, _: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
        Box::pin(async { Err(Fault::new(FaultClass::Misdirected, "there are no stages")) })
    }

    fn overview(&self) -> Overview {
        Overview::default()
    }
}

/// How a door is set up.
pub struct Setup {
    /// What its flows are.
    pub text: String,
    pub store: Arc<dyn Store>,
    /// Instead of what the file says.
    pub gateway: Option<String>,
    pub outgoing: Outgoing,
    pub max_value_bytes: u64,
    pub limits: Limits,
    pub keys: Option<Arc<Keys>>,
    /// Most runs that the engine owns at once.
    pub at_once: usize,
    /// The engine's name.
    pub me: &'static str,
    /// The folder of secrets.
    pub secrets: Option<PathBuf>,
    /// The flow of `POST /`.
    pub only: Option<String>,
}

/// A store of this process.
pub fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(Duration::from_secs(1), 10_000))
}

/// A store of a file in `folder`.
pub fn file(folder: &Path) -> Arc<dyn Store> {
    let settings = FileSettings { lease: Duration::from_secs(1), ..FileSettings::default() };
    Arc::new(FileStore::open(&folder.join("runs.db"), settings).unwrap())
}

impl Setup {
    /// A door of the flows of `text`, whose functions are behind `gateway`.
    pub fn new(text: impl Into<String>, gateway: &Gateway) -> Self {
        Self { gateway: Some(gateway.url()), ..Self::alone(text) }
    }

    /// A door without a gateway.
    pub fn alone(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            store: memory(),
            gateway: None,
            outgoing: Outgoing::default(),
            max_value_bytes: 8 << 20,
            limits: Limits { max_body_bytes: 16 << 20, ..Limits::default() },
            keys: None,
            at_once: 1000,
            me: "engine",
            secrets: None,
            only: None,
        }
    }
}

/// A door that is being served, and its engine.
pub struct Door {
    pub address: SocketAddr,
    pub keeper: Arc<Keeper>,
    client: Client,
    working: JoinHandle<()>,
}

impl Door {
    /// A door of the flows of `text`, whose functions are behind `gateway`.
    pub async fn of(text: impl Into<String>, gateway: &Gateway) -> Self {
        Self::open(Setup::new(text, gateway)).await
    }

    /// Opens a door on a free port; its engine takes runs.
    pub async fn open(setup: Setup) -> Self {
        let read = file::read(&setup.text);
        let file = Arc::new(read.file.unwrap_or_else(|| panic!("{:?}", read.problems)));
        let (outgoing, most) = (setup.outgoing, setup.max_value_bytes);
        let caller = HttpCaller::new(outgoing.clone(), setup.gateway.clone(), None, setup.secrets, most).unwrap();
        let me = ReplicaId::new(setup.me, 1);
        let keeping = KeeperSetup {
            store: setup.store,
            me,
            at_once: setup.at_once,
            caller: Arc::new(caller),
            outgoing,
            max_value_bytes: most,
        };
        let keeper = Keeper::new(keeping).unwrap();
        let definition = keeper.define(&setup.text, &file).await.unwrap();
        let (closing, release) = (CancellationToken::new(), CancellationToken::new());
        let working = tokio::spawn(Arc::clone(&keeper).work(closing, release));
        let metrics = Arc::new(Metrics::new("flows", 0..0));
        let site = Site::new(SiteSetup {
            intake: None,
            readiness: watch::Sender::new(Readiness::Ready).subscribe(),
            metrics: Arc::clone(&metrics),
            limits: setup.limits.clone(),
            pipeline: "flows".to_owned(),
            stage: 0,
            keys: setup.keys,
            keeper: Err(NoStore::Unasked),
            stages: Arc::new(NoStages),
        });
        let (gateway, only) = (setup.gateway, setup.only);
        let flows = router(FlowsSetup { site, keeper: Arc::clone(&keeper), file, definition, gateway, only });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, flows, setup.limits, metrics, std::future::pending()));
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { address, keeper, client, working }
    }

    /// Ends the engine as if its process were killed; the door goes on.
    pub async fn kill_engine(&mut self) {
        self.working.abort();
        assert!((&mut self.working).await.is_err_and(|error| error.is_cancelled()));
    }

    /// A request, for a test to add to.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    /// Posts a text.
    pub async fn post(&self, path: &str, body: impl Into<String>) -> Reply {
        let request = self.request(Method::POST, path).header("content-type", "text/plain");
        Reply::of(request.body(body.into())).await
    }

    /// Posts JSON.
    pub async fn post_json(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::POST, path).json(body)).await
    }

    /// Begins a run of `flow` with a text, or JSON, without waiting for it; its id.
    pub async fn begin(&self, flow: &str, input: &Value) -> String {
        let path = format!("/async-function/{flow}");
        let reply = match input {
            Value::String(text) => self.post(&path, text.as_str()).await,
            input => self.post_json(&path, input).await,
        };
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.header("x-stageline-run").unwrap().to_owned()
    }

    /// Gives a run an order, which it must take.
    pub async fn order(&self, run: &str, order: &str) {
        let reply = self.post(&format!("/runs/{run}/{order}"), "").await;
        assert_eq!(reply.status, 202, "{reply:?}");
    }

    /// The answer that a run came to, once it has ended.
    pub async fn ended(&self, run: &str) -> Reply {
        let mut events = self.events(run).await;
        soon("the run's end", async { while events.next().await.is_some() {} }).await;
        self.get(&format!("/runs/{run}")).await
    }

    /// All that is said of a run, as it stands.
    pub async fn told(&self, run: &str) -> Value {
        self.get(&format!("/runs/{run}?full")).await.json()
    }

    /// What happens in a run, from its beginning.
    pub async fn events(&self, run: &str) -> Events {
        Events::of(self.request(Method::GET, &format!("/runs/{run}/events"))).await
    }

    /// Waits until nothing is left to do for a run: who is to be told has been.
    pub async fn settled(&self, run: &str) {
        let log = Name::new("run", run).unwrap();
        let mut said = self.keeper.follow(&log, 0);
        soon("nothing to be left to do", async { while said.next().await.is_some() {} }).await;
    }
}
