//! The door on NATS, with a scripted pipeline behind it and a real nats-server before it.

use crate::nats::NatsServer;
use crate::patience::soon;
use crate::support::{Door, Script, Setup, logged};
use async_nats::{Client, HeaderMap, Message};
use stageline_door::api::nats::NatsDoor;
use stageline_door::{AnswerEvent, FinishReason};
use stageline_transport::{NatsNet, NatsSettings, connect_client};
use stageline_wire::Subjects;
use std::path::Path;
use tokio_util::sync::CancellationToken;

const SUBJECT: &str = "stageline.v1.tiny.ask";
/// What a door must be allowed to listen to.
const ALLOWED: &str = ", \"stageline.>\"";

/// Settings of a broker whose door may listen to what `may` names.
fn settings(may: &str) -> String {
    format!(
        "authorization {{ users = [
            {{ user: door, password: d, permissions: {{ publish: \">\", subscribe: [\"_STAGELINE.>\"{may}] }} }}
            {{ user: client, password: c }}
        ] }}"
    )
}

struct Site {
    broker: NatsServer,
    door: Door,
    net: NatsNet,
    client: Client,
    stop: CancellationToken,
}

impl Site {
    /// A door that answers every request that it takes, behind the broker that `conf` sets up.
    async fn open(conf: &Path) -> Self {
        let broker = NatsServer::with(&["-c", conf.to_str().unwrap()]).await;
        let place = broker.url().replace("nats://", "");
        let subjects = Subjects::new("tiny", &"ab".repeat(32)).unwrap();
        let net = NatsNet::connect(NatsSettings::new(format!("nats://door:d@{place}"), subjects)).await.unwrap();
        let client = connect_client("client", &format!("nats://client:c@{place}"), None).await.unwrap();
        let done = AnswerEvent::Finished { reason: FinishReason::Stop, text: "ok".into() };
        let door = Door::open(Setup { script: Script::Answer(vec![done]), ..Setup::default() }).await;
        let stop = CancellationToken::new();
        let on_nats = NatsDoor::new(net.client().clone(), net.errors(), door.router.clone());
        tokio::spawn(on_nats.serve(SUBJECT.into(), stop.clone()));
        Self { broker, door, net, client, stop }
    }

    async fn ask(&self, headers: HeaderMap, body: &'static [u8]) -> Option<Message> {
        self.client.request_with_headers(SUBJECT, headers, body.into()).await.ok()
    }

    /// Waits until a request is answered.
    async fn answers(&self) {
        soon("an answer", async { while self.ask(HeaderMap::new(), b"{\"prompt\": \"x\"}").await.is_none() {} }).await;
    }
}

/// A folder with the broker's settings.
fn folder(may: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("nats.conf");
    std::fs::write(&conf, settings(may)).unwrap();
    (folder, conf)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_head_says_of_a_payload_counts_as_over_http() {
    let (_folder, conf) = folder(ALLOWED);
    let site = Site::open(&conf).await;
    site.answers().await;
    for (lines, body, status) in [
        (&[("Content-Encoding", "gzip")][..], &b"{\"prompt\": \"x\"}"[..], "415"),
        (&[("content-type", "multipart/form-data; boundary=b")], b"--b--", "415"),
        (&[("Content-Type", "text/plain; charset=utf-16")], b"x", "415"),
        (&[("Content-Type", "text/plain"), ("content-type", "application/json")], b"{}", "400"),
        (&[("X-Timeout", "10")], b"{\"prompt\": \"x\"}", "400"),
        (&[("X-Timeout", "1s"), ("X-TIMEOUT", "2s")], b"{\"prompt\": \"x\"}", "400"),
        (&[], b"\xef\xbb\xbf{\"prompt\": \"x\"}", "200"),
        (&[], b"{\0\"\0", "400"),
        (&[], b"", "400"),
        (&[("Content-Type", "text/plain")], b"caf\xe9", "400"),
        (&[("X-Call-Id", "a\tb: c")], b"{\"prompt\": \"x\"}", "200"),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.insert(*name, *value);
        }
        let reply = soon("a reply", site.ask(headers, body)).await.unwrap();
        let said = reply.headers.as_ref().and_then(|headers| headers.get("Stageline-Status")).unwrap();
        assert_eq!(said.as_str(), status, "{lines:?}: {}", String::from_utf8_lossy(&reply.payload));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_the_broker_took_away_is_taken_up_again() {
    let (_folder, conf) = folder("");
    let site = Site::open(&conf).await;
    // Not allowed yet: the broker takes no subscription, and says so to nobody in particular.
    let told = || logged().contains("the door's subscription at NATS has ended: it is taken up again");
    soon("the log", async {
        while !told() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let reload = |may: &str| {
        std::fs::write(&conf, settings(may)).unwrap();
        site.broker.reload();
    };
    reload(ALLOWED);
    site.answers().await;
    // Taken away while it is at work, and given back.
    let mut errors = site.net.errors();
    reload("");
    soon("the broker's word", errors.recv()).await.unwrap();
    reload(ALLOWED);
    site.answers().await;
    site.stop.cancel();
    assert!(site.door.metrics.door.ends(None) >= 2);
}
