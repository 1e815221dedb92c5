//! Mail and lease records that others have forged, against real processes: on a broker without users, and on one with the
//! users that are shipped. docs/security.md says which row of its table each test proves.

use crate::looking::found;
use crate::nats::NatsServer;
use crate::patience::soon;
use crate::pipelines::{Cluster, ENDLESS, LONG, PROMPT, Pipeline, right_ids};
use crate::places::{Place, ids_of};
use async_nats::jetstream::{self, kv::Operation};
use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt;
use serde_json::json;
use stageline_base::{ReplicaId, SequenceId, StageIndex, Task, Tensors, Trace};
use stageline_core::message::{Body, Feedback, FrameContent, LinkMail, Report, Segment};
use stageline_core::{Emission, Mail, Opening, Sampling, Work};
use stageline_wire::{Plane, Status, Subjects, encode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Tokens of an answer that is under way while others forge: a second or two.
const TOKENS: u32 = 1500;
/// Tokens that are read before anything is forged.
const BEGUN: usize = 20;

/// Somebody at the broker who knows everything that there is to know of a pipeline.
struct Forger {
    client: Client,
    /// How often the broker has said that it does not let this user.
    denied: Arc<AtomicUsize>,
    name: String,
    records: Vec<Status>,
}

impl Forger {
    async fn connect(url: &str, name: &str, records: Vec<Status>) -> Self {
        let denied = Arc::new(AtomicUsize::new(0));
        let count = denied.clone();
        let options = credentials(url).event_callback(move |event| {
            if matches!(&event, Event::ServerError(error) if error.to_string().to_lowercase().contains("permissions")) {
                count.fetch_add(1, SeqCst);
            }
            std::future::ready(())
        });
        let client = options.connect(url).await.expect("the broker");
        Self { client, denied, name: name.to_owned(), records }
    }

    fn subjects(&self) -> Subjects {
        Subjects::new(&self.name, &self.records[0].manifest).expect("a name")
    }

    fn replica(&self, stage: usize) -> &ReplicaId {
        &self.records[stage].replica
    }

    /// Says that in the name of a replica of `stage`, to the one that the pipeline has of stage `to`.
    async fn say(&self, (stage, from): (StageIndex, &ReplicaId), to: usize, body: Body) {
        let plane = Plane::of(&body);
        let subject = self.subjects().subject((to as StageIndex, self.replica(to)), plane, (stage, from));
        let parcel = encode(Mail { from: from.clone(), stage, body }).bytes;
        self.put(subject, parcel).await;
    }

    async fn put(&self, subject: String, payload: bytes::Bytes) {
        self.client.publish(subject, payload).await.expect("the library takes it");
    }

    /// What it has sent has been looked at by the broker: the broker answers a connection in order.
    async fn done(&self) {
        soon("the broker", self.client.flush()).await.expect("the broker");
    }

    fn key(&self, stage: usize) -> String {
        let subjects = self.subjects();
        let key = subjects.lease_key(stage as StageIndex, self.replica(stage));
        format!("$KV.{}.{key}", subjects.lease_bucket())
    }

    /// A frame of an own link into stage 1, in that name.
    async fn frame(&self, from: (StageIndex, &ReplicaId), (epoch, number): (u32, u64), content: FrameContent) {
        self.say(from, 1, Body::Link(LinkMail::Frame { epoch, number, content })).await;
    }

    fn opening(&self, door: &ReplicaId, counter: u64) -> FrameContent {
        FrameContent::Open(Arc::new(Opening {
            sequence: SequenceId { boot: door.boot(), counter },
            attempt: 1,
            door: door.clone(),
            path: vec![door.clone(), self.replica(1).clone(), self.replica(2).clone()],
            call_id: String::new(),
            trace: Trace::begun(1, 1),
            work: Work::of(Task::GENERATE, Sampling::GREEDY),
            known: vec![1],
            capacity_tokens: 1000,
        }))
    }

    fn feedback(&self, counter: u64, position: u32, id: u32) -> Body {
        let sequence = SequenceId { boot: self.replica(0).boot(), counter };
        let emission = Emission::Token { id, observed: None };
        let reports = vec![Report::Emitted { sequence, attempt: 1, position, emission }];
        Body::Feedback(Feedback { stage: 2, number: 1 << 40, reports })
    }
}

fn rows(sequence: SequenceId, door: &ReplicaId, start: u32) -> FrameContent {
    let segments = vec![Segment { sequence, attempt: 1, door: door.clone(), start, rows: 1, emit: true }];
    let hidden = stageline_engine::fake::HIDDEN;
    let payload = Tensors::hidden(1, vec![7; hidden * 4].into()).expect("a row");
    FrameContent::Rows { segments, payload }
}

/// Options with the URL's user, whose inboxes are where its permissions let it listen.
fn credentials(url: &str) -> ConnectOptions {
    let user =
        url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).and_then(|(user, _)| user.split_once(':'));
    match user {
        Some((name, password)) => {
            let prefix = if name == "door" { "_STAGELINE.s0" } else { "_INBOX" };
            ConnectOptions::with_user_and_password(name.into(), password.into()).custom_inbox_prefix(prefix)
        }
        None => ConnectOptions::new(),
    }
}

/// The records of the three stages, as the lease bucket holds them.
async fn records(url: &str, name: &str) -> Vec<Status> {
    let context = jetstream::new(credentials(url).connect(url).await.expect("the broker"));
    let store = context.get_key_value(format!("stageline-v1-{name}")).await.expect("the leases");
    let mut entries = store.watch_with_history(">").await.expect("the leases");
    let mut records: Vec<Status> = Vec::new();
    while records.len() < 3 {
        let entry = soon("a lease", entries.next()).await.expect("a lease").expect("an entry");
        if entry.operation == Operation::Put
            && let Ok(status) = Status::from_json(&entry.value)
            && records.iter().all(|record| record.stage != status.stage)
        {
            records.push(status);
        }
    }
    records.sort_by_key(|record| record.stage);
    records
}

async fn right_answer(cluster: &Cluster) {
    let answer = cluster.place(0).stream(&PROMPT, json!({"max_tokens": 100})).await.rest().await;
    assert_eq!(ids_of(&answer), right_ids(100));
    cluster.hold(&[0, 1, 2], 0).await;
}

/// Waits until a stage has refused as much for that reason.
async fn refused(place: &Place, why: &str, least: f64) {
    let label = format!("why=\"{why}\"");
    let enough = async || place.metric("refused_total", &label).await.filter(|count| *count >= least);
    found(&format!("{least} refusals, why {why}"), enough).await;
}

#[tokio::test]
async fn what_strangers_and_false_names_say_changes_no_answer() {
    let cluster = Cluster::start(Pipeline::fake()).await;
    right_answer(&cluster).await;
    let (url, name) = (cluster.broker.url(), cluster.pipeline.name());
    let forger = Forger::connect(&url, &name, records(&url, &name).await).await;
    let (door, stage_0) = (forger.replica(0).clone(), (0, forger.replica(0)));
    let stranger = ReplicaId::new("stranger", 0xbad);
    let mut stream = cluster.place(0).stream(&PROMPT, json!({"max_tokens": TOKENS})).await;
    let mut tokens = stream.tokens(BEGUN).await;
    // The second request of this door.
    let sequence = SequenceId { boot: door.boot(), counter: 2 };

    // In its own name a stranger opens nothing, feeds nothing, closes nothing, and no made-up door is told anything.
    forger.say((0, &stranger), 1, Body::Link(LinkMail::Hello { epoch: 1 })).await;
    for n in 1..=70 {
        forger.frame((0, &stranger), (1, n), forger.opening(&stranger, n)).await;
    }
    forger.frame((0, &stranger), (1, 71), rows(sequence, &door, PROMPT.len() as u32 + TOKENS / 2)).await;
    for n in 0..200 {
        let nobody = ReplicaId::new("nobody", 0xe000 + n);
        let made_up = SequenceId { boot: nobody.boot(), counter: 1 };
        forger.frame((0, &stranger), (1, 72 + n), rows(made_up, &nobody, 0)).await;
        forger.say((0, &nobody), 1, Body::Link(LinkMail::Hello { epoch: 1 })).await;
    }
    // The Hello, 70 Opens, rows of the victim, and 200 times rows and a Hello.
    refused(&cluster.place(1), "stranger", 472.0).await;
    let closes: Vec<_> = (1..=40_000).map(|counter| (SequenceId { boot: 0xbad, counter }, u32::MAX)).collect();
    let victims = vec![(sequence, u32::MAX)];
    forger.say((0, &stranger), 1, Body::CloseNow { number: 1, closes }).await;
    forger.say((0, &stranger), 1, Body::CloseNow { number: 2, closes: victims.clone() }).await;
    refused(&cluster.place(1), "stranger", 474.0).await;
    // Nor does another stage, though it lives, close what is a door's.
    forger.say((2, forger.replica(2)), 1, Body::CloseNow { number: 3, closes: victims }).await;
    refused(&cluster.place(1), "stranger", 475.0).await;
    // A door believes no one whom the request did not go to.
    forger.say((2, &stranger), 0, forger.feedback(2, PROMPT.len() as u32 + TOKENS / 2, 5)).await;
    refused(&cluster.place(0), "report", 1.0).await;
    // Nobody outside speaks in a process's own name, nor as of another stage than its lease's.
    forger.say(stage_0, 0, Body::Link(LinkMail::Hello { epoch: 9 })).await;
    refused(&cluster.place(0), "name", 1.0).await;
    forger.say((0, forger.replica(2)), 1, Body::CloseNow { number: 4, closes: Vec::new() }).await;
    refused(&cluster.place(1), "name", 1.0).await;

    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), right_ids(TOKENS));
    assert_eq!(cluster.place(0).metric("replays_total", "").await, Some(0.0), "nothing had to be done anew");
    cluster.hold(&[0, 1, 2], 0).await;
}

#[tokio::test]
async fn no_one_message_in_anothers_name_does_lasting_harm() {
    let cluster = Cluster::start(Pipeline::fake()).await;
    right_answer(&cluster).await;
    let (url, name) = (cluster.broker.url(), cluster.pipeline.name());
    let forger = Forger::connect(&url, &name, records(&url, &name).await).await;
    let stage_0 = (0, forger.replica(0));

    // An epoch that no link will reach, and the highest that is taken.
    forger.say(stage_0, 1, Body::Link(LinkMail::Hello { epoch: u32::MAX })).await;
    refused(&cluster.place(1), "epoch", 1.0).await;
    right_answer(&cluster).await;
    forger.say(stage_0, 1, Body::Link(LinkMail::Hello { epoch: 1024 })).await;
    right_answer(&cluster).await;

    // Records under stage 1's key: junk, another's, and a marker that it has gone.
    let other = forger.records[2].to_json();
    // Each is waited for: of two the broker shows the last alone.
    for (record, seen) in [(b"{}".to_vec(), 1.0), (other, 2.0)] {
        forger.put(forger.key(1), record.into()).await;
        let place = cluster.place(0);
        let refused = async || place.metric("lease_records_refused_total", "").await.filter(|count| *count >= seen);
        found("a record to be refused", refused).await;
    }
    right_answer(&cluster).await;
    let store = jetstream::new(forger.client.clone()).get_key_value(format!("stageline-v1-{name}")).await.unwrap();
    store.delete(forger.key(1).rsplit_once(&format!("{name}.")).unwrap().1).await.unwrap();
    right_answer(&cluster).await;

    // A token that the model has not, in the name of who makes the tokens: the attempt is given up, the answer is right.
    let before = cluster.place(0).metric("replays_total", "").await.unwrap();
    let counter = 5;
    // It must not be over before the forger is heard.
    let mut stream = cluster.place(0).stream(&PROMPT, json!({"max_tokens": ENDLESS})).await;
    let mut tokens = stream.tokens(BEGUN).await;
    for counter in counter..counter + 20 {
        forger.say((2, forger.replica(2)), 0, forger.feedback(counter, 0, u32::MAX)).await;
    }
    refused(&cluster.place(0), "token", 1.0).await;
    let replayed = async || cluster.place(0).metric("replays_total", "").await.filter(|replays| *replays > before);
    found("the attempt to be given up", replayed).await;
    tokens.extend(stream.tokens(LONG as usize).await);
    assert_eq!(ids_of(&tokens), right_ids(tokens.len() as u32));
    drop(stream);
    cluster.hold(&[0, 1, 2], 0).await;
}

/// What every stage has refused so far.
async fn refusals(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    for stage in 0..3 {
        let (_, page) = cluster.place(stage).get("/metrics").await.expect("a page");
        lines.extend(page.lines().filter(|line| line.contains("refused_total{")).map(str::to_owned));
    }
    assert!(lines.len() > 3 * 7, "{lines:?}");
    lines
}

/// Everything that a user may try and must not be let, and how often the broker then has to say no.
async fn try_everything(forger: &Forger) -> usize {
    let (door, stage_0, stage_1) = (forger.replica(0).clone(), (0, forger.replica(0)), (1, forger.replica(1)));
    let sequence = SequenceId { boot: door.boot(), counter: 2 };
    let subjects = forger.subjects();
    let bucket = subjects.lease_bucket();
    // In the names of others.
    forger.say(stage_0, 1, Body::Link(LinkMail::Hello { epoch: 600 })).await;
    forger.frame(stage_0, (600, 1), rows(sequence, &door, PROMPT.len() as u32 + TOKENS / 2)).await;
    forger.frame(stage_0, (600, 2), forger.opening(&door, 3)).await;
    for stage in [1, 2] {
        let closes = vec![(sequence, u32::MAX)];
        forger.say(stage_0, stage, Body::CloseNow { number: 1, closes }).await;
        forger.say(stage_0, stage, Body::FeedbackAck { number: 1 }).await;
    }
    forger.say(stage_1, 0, forger.feedback(2, PROMPT.len() as u32 + TOKENS / 2, 5)).await;
    // Leases of others, one that would come after theirs, and the bucket itself.
    for stage in [0, 1] {
        forger.put(forger.key(stage), forger.records[stage].to_json().into()).await;
    }
    let later = Status { replica: ReplicaId::new("later", 1), started_unix_ms: u64::MAX, ..forger.records[1].clone() };
    let key = format!("$KV.{bucket}.{}", subjects.lease_key(1, &later.replica));
    forger.put(key, later.to_json().into()).await;
    for order in ["STREAM.DELETE", "STREAM.PURGE", "STREAM.UPDATE"] {
        forger.put(format!("$JS.API.{order}.KV_{bucket}"), bytes::Bytes::new()).await;
    }
    // What is kept of others' requests.
    let id = "0123456789abcdef0123456789abcdef";
    for kept in [format!("log.request.{id}"), "job.jobs.0123456789abcdef".to_owned(), format!("key.ended.{id}")] {
        forger.put(format!("stageline.v1.smollm2.store.{kept}"), "x".into()).await;
    }
    for order in ["DIRECT.GET", "STREAM.MSG.GET", "STREAM.PURGE"] {
        forger.put(format!("$JS.API.{order}.{bucket}-logs"), bytes::Bytes::new()).await;
    }
    forger.done().await;
    // What others hear.
    for subject in ["stageline.>", "$KV.>", "_STAGELINE.>", ">"] {
        let mut heard = forger.client.subscribe(subject).await.expect("the library takes it");
        forger.done().await;
        assert!(futures::poll!(heard.next()).is_pending(), "{subject}");
    }
    forger.done().await;
    24
}

#[tokio::test]
async fn with_the_shipped_users_the_pipeline_is_whole_and_nobody_speaks_for_another() {
    let broker = NatsServer::with_users().await;
    let cluster = Cluster::start_with_users(Pipeline::fake(), broker).await;
    let name = "smollm2";
    right_answer(&cluster).await;
    // All that a store does: also what is too large for a message of the broker.
    let body = json!({"tokens": PROMPT, "max_tokens": 20}).to_string() + &" ".repeat(1 << 20);
    let path = cluster.place(0).later_as(&[], body).await;
    found("an answer that was kept", async || (cluster.place(0).get(&path).await?.0 == 200).then_some(())).await;
    let mut events = cluster.place(0).follow(&path, 3).await.expect("a door");
    assert_eq!(ids_of(&events.tokens(17).await), right_ids(20)[3..]);
    let denied = |lines: &[String]| lines.iter().any(|line| line.to_lowercase().contains("violation"));
    assert!(!cluster.log(0, denied), "the broker lets the door keep requests");
    let records = records(&cluster.broker.url_of("door"), name).await;
    // At the start a link may have greeted before its lease was seen.
    let before = refusals(&cluster).await;
    let mut stream = cluster.place(0).stream(&PROMPT, json!({"max_tokens": TOKENS})).await;
    let mut tokens = stream.tokens(BEGUN).await;
    for user in ["client", "stage-2"] {
        let forger = Forger::connect(&cluster.broker.url_of(user), name, records.clone()).await;
        let tried = try_everything(&forger).await;
        found(&format!("the broker to say no to {user} {tried} times"), async || {
            (forger.denied.load(SeqCst) >= tried).then_some(())
        })
        .await;
    }
    tokens.extend(stream.rest().await);
    assert_eq!(ids_of(&tokens), right_ids(TOKENS));
    assert_eq!(refusals(&cluster).await, before, "nothing of it came through");
    assert_eq!(cluster.place(0).metric("replays_total", "").await, Some(0.0));

    // The client may ask, by the name and by the digest, and hears its answers.
    let forger = Forger::connect(&cluster.broker.url_of("client"), name, records).await;
    for subject in [forger.subjects().ask(), forger.subjects().ask_digest()] {
        let body = json!({"tokens": PROMPT, "max_tokens": 20}).to_string();
        let ask = async || forger.client.request(subject.clone(), body.clone().into()).await.ok();
        let reply = found("an answer over NATS", ask).await;
        let answer: serde_json::Value = serde_json::from_slice(&reply.payload).expect("JSON");
        assert_eq!(answer["token_ids"], json!(right_ids(20)), "{subject}");
    }
    assert_eq!(forger.denied.load(SeqCst), 0);
    let digest = &forger.records[0].manifest;
    for (manifest, status) in [(&digest[..8], 200), (digest, 200), ("00000000", 421), ("0000000g", 400)] {
        let answer = cluster.place(0).send(&json!({"tokens": PROMPT, "max_tokens": 1, "manifest": manifest})).await;
        assert_eq!(answer.status(), status, "{manifest}");
        assert!(status != 421 || answer.text().await.expect("words").contains(digest.as_str()));
    }
}
