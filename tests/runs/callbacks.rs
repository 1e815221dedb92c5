//! Who is told how a run ended.

use crate::support::{Call, Door, Gateway, Reply, Said, Setup};
use hmac::{Hmac, Mac};
use reqwest::Method;
use serde_json::json;
use sha2::Sha256;
use stageline_door::outgoing::{Allowed, Outgoing};

const SECRET: &[u8] = b"a secret";

/// The signature that a callback must bear.
fn signature(call: &Call, run: &str) -> String {
    let said = call.header("x-stageline-signature");
    let seconds =
        said.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).unwrap_or_else(|| panic!("{said}")).0;
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(format!("{seconds}.{run}.").as_bytes());
    mac.update(&call.body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

fn one(callback: &str) -> String {
    let callback = if callback.is_empty() { String::new() } else { format!("callback_url: '{callback}', ") };
    format!("{{flows: {{one: {{{callback}nodes: {{work: {{}}}}}}}}}}")
}

async fn later(door: &Door, callback: &str) -> Reply {
    let request = door.request(Method::POST, "/async-function/one").body("x");
    Reply::of(request.header("x-callback-url", callback)).await
}

#[tokio::test]
async fn who_is_to_be_told_is_told_until_it_listens_with_a_signature() {
    let gateway = Gateway::open().await;
    gateway.appends("work", " done").function("/told", |call| async move {
        if call.before == 0 { Said::status(500, "not now") } else { Said::status(200, "") }
    });
    let outgoing = Outgoing { allow: Vec::new(), secret: Some(SECRET.to_vec()) };
    let door = Door::open(Setup { outgoing, ..Setup::new(one(""), &gateway) }).await;
    let reply = later(&door, &format!("{}/told?a=b", gateway.url())).await;
    assert_eq!(reply.status, 202);
    let run = reply.run().to_owned();
    door.settled(&run).await;
    let calls = gateway.calls("/told");
    assert_eq!(calls.len(), 2);
    for call in &calls {
        assert_eq!((&*call.method, &*call.query, call.text()), ("POST", "a=b", "x done"));
        assert_eq!(call.header("x-call-id"), reply.header("x-call-id").unwrap());
        assert_eq!(call.header("x-stageline-signature"), signature(call, &run));
    }
    assert_eq!((gateway.calls("work").len(), &door.told(&run).await["told"]), (1, &json!("yes")));
}

#[tokio::test]
async fn failures_and_cancellations_are_told_to_whom_the_file_names() {
    let gateway = Gateway::open().await;
    gateway.says("work", Said::status(400, "broken")).says("/told", Said::status(204, ""));
    let door = Door::of(one(&format!("{}/told", gateway.url())), &gateway).await;
    let run = door.begin("one", &json!("x")).await;
    door.settled(&run).await;
    let told = gateway.calls("/told");
    assert_eq!((told.len(), told[0].header("x-function-status")), (1, "422"));
    assert_eq!(told[0].json()["error"]["node"], "work");
    let go = gateway.holds("work");
    let run = door.begin("one", &json!("y")).await;
    gateway.called("work", 2).await;
    door.order(&run, "cancel").await;
    door.settled(&run).await;
    go.add_permits(1);
    let told = gateway.calls("/told");
    assert_eq!((told.len(), told[1].header("x-function-status")), (2, "499"));
}

#[tokio::test]
async fn who_does_not_want_to_be_told_is_not_told_again_and_the_run_says_so() {
    let gateway = Gateway::open().await;
    gateway.appends("work", " done").says("/told", Said::status(302, "").header("location", "/elsewhere"));
    let door = Door::of(one(""), &gateway).await;
    let run = later(&door, &format!("{}/told", gateway.url())).await.run().to_owned();
    door.settled(&run).await;
    assert_eq!(gateway.names(), ["work", "/told"]);
    let told = door.told(&run).await["told"].clone();
    assert!(told.as_str().unwrap().contains("302"), "{told}");
    assert_eq!(door.get(&format!("/runs/{run}")).await.text(), "x done");
}

#[tokio::test]
async fn a_callback_that_is_not_allowed_is_refused_before_anything_is_begun() {
    let gateway = Gateway::open().await;
    gateway.appends("work", " done");
    // The gateway itself may be called.
    let host = gateway.url().trim_start_matches("http://").split(':').next().unwrap().to_owned();
    let outgoing = Outgoing { allow: vec![Allowed { host, port: None }], secret: None };
    let door = Door::open(Setup { outgoing, ..Setup::new(one(""), &gateway) }).await;
    for (url, words) in [
        ("http://elsewhere.example/", "callback_allow"),
        ("http://169.254.169.254/latest", "never called"),
        ("ftp://127.0.0.1/", "must begin with"),
        ("nothing", "no URL"),
    ] {
        let reply = later(&door, url).await;
        assert_eq!(reply.status, 400, "{url}: {reply:?}");
        assert!(reply.text().contains(words) && reply.text().contains("X-Callback-Url"), "{url}: {reply:?}");
    }
    assert!(gateway.names().is_empty());
    assert_eq!(door.get("/runs").await.json(), json!({ "runs": [] }));
}

#[tokio::test]
async fn a_callback_under_its_name_of_faas_flow_is_called() {
    let gateway = Gateway::open().await;
    gateway.appends("work", " done").says("/told", Said::status(200, ""));
    let door = Door::of(one(""), &gateway).await;
    let request = door.request(Method::POST, "/flows/one").header("prefer", "respond-async");
    let reply =
        Reply::of(request.header("x-faas-flow-callback-url", format!("{}/told", gateway.url())).body("x")).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    door.settled(reply.run()).await;
    assert_eq!(gateway.calls("/told")[0].text(), "x done");
}
