//! Functions that are no flows: the gateway's, to which calls are passed.

use crate::support::{Door, Gateway, Reply, Said, Setup};
use reqwest::Method;
use serde_json::json;

const ONE: &str = "{flows: {one: {nodes: {work: {}}}}}";

#[tokio::test]
async fn a_function_that_is_no_flow_gets_the_call_as_it_is_and_its_answer_goes_back() {
    let gateway = Gateway::open().await;
    for name in ["upper", "upper/a%20b/c", "/async-function/upper"] {
        gateway.function(name, |call| async move {
            let body: Vec<u8> = call.body.iter().rev().copied().collect();
            let said = Said::status(418, "").header("x-own", call.header("x-mine"));
            said.with(body)
        });
    }
    let door = Door::of(ONE, &gateway).await;
    for (method, path, name) in [
        (Method::POST, "/function/upper?a=b&c=%20", "upper"),
        (Method::PUT, "/function/upper/a%20b/c", "upper/a%20b/c"),
        (Method::GET, "/function/upper", "upper"),
        (Method::POST, "/async-function/upper", "/async-function/upper"),
    ] {
        let request = door.request(method.clone(), path).header("x-mine", "7").header("x-call-id", "c");
        let reply = Reply::of(request.header("content-type", "x/y").body(vec![0_u8, 255, 7])).await;
        assert_eq!(
            (reply.status, reply.header("x-own"), &reply.body[..]),
            (418, Some("7"), &[7, 255, 0][..]),
            "{path}"
        );
        let call = gateway.calls(name).pop().unwrap();
        assert_eq!((&*call.method, call.header("content-type")), (method.as_str(), "x/y"));
        assert_eq!((call.header("x-call-id"), call.header("host")), ("c", gateway.url().trim_start_matches("http://")));
        assert_eq!(call.query, path.split_once('?').map_or("", |(_, query)| query));
    }
    // It is no run.
    assert_eq!(door.get("/runs").await.json(), json!({ "runs": [] }));
}

#[tokio::test]
async fn a_redirection_is_the_callers_to_follow() {
    let gateway = Gateway::open().await;
    gateway.says("moved", Said::status(307, "").header("location", "/function/elsewhere"));
    gateway.says("elsewhere", Said::text("here"));
    let door = Door::of(ONE, &gateway).await;
    let reply = door.post("/function/moved", "x").await;
    assert_eq!((reply.status, reply.header("location")), (307, Some("/function/elsewhere")));
    assert_eq!(gateway.names(), ["moved"]);
    // A node's function that redirects has given no answer.
    gateway.says("work", Said::status(302, "").header("location", "/function/elsewhere"));
    let reply = door.post("/flows/one", "x").await;
    assert_eq!((reply.status, reply.failure().0), (502, json!("status")));
    assert_eq!(gateway.names(), ["moved", "work"]);
}

#[tokio::test]
async fn long_bodies_are_passed_on_that_no_flow_would_take() {
    let gateway = Gateway::open().await;
    gateway.function("upper", |call| async move { Said::body("x/y", call.body.clone()) });
    let door = Door::open(Setup { max_value_bytes: 10, ..Setup::new(ONE, &gateway) }).await;
    let body = vec![7_u8; 20 << 20];
    let reply = Reply::of(door.request(Method::POST, "/function/upper").body(body.clone())).await;
    assert!(reply.status == 200 && reply.body == body, "{}", reply.status);
}

#[tokio::test]
async fn without_a_gateway_a_function_is_not_there_and_words_say_why() {
    let door = Door::open(Setup::alone(ONE)).await;
    for path in ["/function/upper", "/async-function/upper", "/function/upper/a"] {
        let reply = door.post(path, "x").await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.text().contains("provider.gateway") && reply.text().contains("--gateway"), "{reply:?}");
    }
    let reply = door.post("/flows/one", "x").await;
    assert_eq!((reply.status, reply.failure().0), (500, json!("refused")), "{reply:?}");
    assert!(reply.text().contains("--gateway"), "{reply:?}");
}

#[tokio::test]
async fn a_gateway_that_is_away_is_named() {
    // A port at which nobody listens any more.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let door = Door::open(Setup { gateway: Some(url.clone()), ..Setup::alone(ONE) }).await;
    let reply = door.post("/function/upper", "x").await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.text().contains(&url), "{reply:?}");
}

#[tokio::test]
async fn a_flow_that_is_deployed_as_a_function_is_at_the_root() {
    let gateway = Gateway::open().await;
    gateway.appends("work", " done");
    let door = Door::open(Setup { only: Some("one".to_owned()), ..Setup::new(ONE, &gateway) }).await;
    let reply = door.post("/", "x").await;
    assert_eq!((reply.status, reply.text()), (200, "x done"));
    let other = Door::of(ONE, &gateway).await.post("/", "x").await;
    assert_eq!(other.status, 404, "{other:?}");
    assert!(other.text().contains("/flows/NAME"), "{other:?}");
}

#[tokio::test]
async fn what_there_is_to_run_is_told_in_either_manner() {
    let gateway = Gateway::open().await;
    let door = Door::of(ONE, &gateway).await;
    assert_eq!(door.get("/flows").await.json(), json!({ "flows": [{ "name": "one", "nodes": 1 }] }));
    assert_eq!(door.get("/flows/one").await.status, 200);
    for reply in [door.get("/flows/one?export-dag=true").await, door.post("/flows/one?export-dag=true", "").await] {
        assert!(reply.status == 200 && reply.json()["nodes"].is_object(), "{reply:?}");
    }
    assert_eq!(door.get("/flows/none").await.status, 404);
    assert_eq!(door.post("/flows/none", "x").await.status, 404);
    for path in ["/_/health", "/_/ready", "/metrics"] {
        assert_eq!(door.get(path).await.status, 200, "{path}");
    }
    assert!(gateway.names().is_empty());
}
