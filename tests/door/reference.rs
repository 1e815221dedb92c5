//! A door's answers, held against docs/openapi.json.

use crate::support::{Door, Reply, Script, Setup, exchange, keeping, post};
use serde_json::Value;
use stageline_base::{Fault, FaultClass, Task};
use stageline_core::Observed;
use stageline_door::keys::Keys;
use stageline_door::{AnswerEvent, FinishReason, Limits, Readiness};
use std::collections::BTreeSet;
use std::time::Duration;

/// Headers that HTTP itself has, and those of which OpenAPI speaks elsewhere.
const OF_HTTP: [&str; 5] = ["connection", "content-length", "content-type", "date", "transfer-encoding"];

/// The reference, and what of `POST /` has been seen: statuses, each with its headers.
struct Reference {
    openapi: Value,
    seen: BTreeSet<(String, String)>,
}

impl Reference {
    fn open() -> Self {
        let path = std::path::Path::new(env!("STAGELINE_ROOT")).join("docs/openapi.json");
        let openapi = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        Self { openapi, seen: BTreeSet::new() }
    }

    fn operation(&self, path: &str) -> &Value {
        let (method, path) = path.split_once(' ').unwrap_or(("", path));
        let path = &self.openapi["paths"][path];
        path.get(method).or_else(|| path.get("post")).or_else(|| path.get("get")).unwrap()
    }

    /// Holds a reply against what is said of its status.
    fn hold(&mut self, path: &str, reply: &Reply) {
        let status = reply.status.to_string();
        let said =
            self.operation(path)["responses"].get(&status).unwrap_or_else(|| panic!("{path}: {reply:?}")).clone();
        let Some(kind) = reply.header("content-type").map(|kind| kind.split(';').next().unwrap()) else {
            assert!(said.get("content").is_none() && reply.body.is_empty(), "{path}: {reply:?}");
            return;
        };
        let content = said["content"].get(kind).unwrap_or_else(|| panic!("{path} answers {kind}: {reply:?}"));
        match kind {
            "application/json" => self.is(&reply.json(), &content["schema"]).unwrap(),
            "text/event-stream" => {
                for event in reply.body.split_inclusive("\n\n") {
                    let lines = event.trim_end().lines().map(|line| line.split_once(": ").unwrap());
                    let event: Value = lines.map(|(name, value)| (name.to_string(), Value::from(value))).collect();
                    if content["schema"]["type"] == "string" {
                        continue;
                    }
                    self.is(&event, &content["schema"]).unwrap();
                    let data = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
                    self.is(&data, &content["schema"]["properties"]["data"]["contentSchema"]).unwrap();
                }
            }
            _ => {}
        }
        let names = said["headers"].as_object().unwrap().keys().map(|name| name.to_lowercase()).collect::<Vec<_>>();
        for (name, _) in reply.headers.iter().filter(|(name, _)| !OF_HTTP.contains(&name.as_str())) {
            assert!(names.contains(name), "{path} {status}: the header {name} is not in the reference");
            if path == "/" {
                self.seen.insert((status.clone(), name.clone()));
            }
        }
    }

    /// Whether `value` is what `schema` says, as far as our types say something.
    fn is(&self, value: &Value, schema: &Value) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str() {
            let schema = self.openapi.pointer(name.strip_prefix('#').unwrap()).unwrap();
            return self.is(value, schema);
        }
        if let Some(schemas) = schema["oneOf"].as_array() {
            let fitting = schemas.iter().filter(|schema| self.is(value, schema).is_ok()).count();
            return if fitting == 1 { Ok(()) } else { Err(format!("{fitting} of {schemas:?} fit {value}")) };
        }
        if let Some(schemas) = schema["anyOf"].as_array() {
            let fits = schemas.iter().any(|schema| self.is(value, schema).is_ok());
            return if fits { Ok(()) } else { Err(format!("none of {schemas:?} fits {value}")) };
        }
        if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
            return Err(format!("{value} is none of {}", schema["enum"]));
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let kinds = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
        if kinds != [Value::Null]
            && !kinds.iter().any(|known| known == kind || (known == "number" && kind == "integer"))
        {
            return Err(format!("{value} is {kind}, not {kinds:?}"));
        }
        for item in value.as_array().into_iter().flatten() {
            self.is(item, &schema["items"])?;
        }
        if let Some(object) = value.as_object() {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                object.get(name).ok_or_else(|| format!("{value} has no {name}"))?;
            }
            for (name, value) in object {
                let field = schema["properties"].get(name).ok_or_else(|| format!("{name} is not in the reference"))?;
                self.is(value, field)?;
            }
        }
        Ok(())
    }
}

fn answered(events: Vec<AnswerEvent>, task: Task) -> Setup {
    Setup { script: Script::Answer(events), task, ..Setup::default() }
}

fn finished() -> AnswerEvent {
    AnswerEvent::Finished { reason: FinishReason::Length, text: "!".into() }
}

#[tokio::test]
async fn a_door_answers_as_the_reference_says_and_no_otherwise() {
    let mut reference = Reference::open();
    let observed = Some(Observed { digest: 7, top: vec![(4, 1.5)] });
    let token = || AnswerEvent::Token { id: 4, text: "a".into(), observed: observed.clone() };
    let broken = || AnswerEvent::Failed(Fault::new(FaultClass::Unavailable, "x").at_stage(1));
    let stream = || post("accept: text/event-stream\r\n", "x");
    for (events, task) in [
        (vec![token(), finished()], Task::GENERATE),
        (vec![AnswerEvent::Token { id: 4, text: "a".into(), observed: None }, finished()], Task::GENERATE),
        (vec![AnswerEvent::Vector(vec![0.5, 1.0]), finished()], Task::EMBED),
        (vec![token(), broken()], Task::GENERATE),
    ] {
        let door = Door::open(answered(events, task)).await;
        for request in [post("", "x"), stream()] {
            reference.hold("/", &door.send(request).await);
        }
    }
    let door = Door::open(answered(vec![finished()], Task::GENERATE)).await;
    for class in FaultClass::ALL.into_iter().filter(|class| *class != FaultClass::Cancelled) {
        door.script(Script::Refuse(Fault::new(class, "x").at_stage(1)));
        reference.hold("/", &door.send(post("", "x")).await);
    }
    reference.hold("/", &door.send(post("content-encoding: br\r\n", "x")).await);
    durable_requests(&mut reference).await;
    let gzip = "POST / HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    reference.hold("/", &door.send(gzip).await);
    let limits = Limits { body_timeout: Duration::from_millis(20), ..Limits::default() };
    let slow = Door::open(Setup { limits, ..Setup::default() }).await;
    reference.hold("/", &slow.send("POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nx").await);
    let second = Door::open(Setup { stage: 1, ..Setup::default() }).await;
    reference.hold("/", &second.send(post("", "x")).await);
    let apart = Door::open(Setup { apart: true, ..Setup::default() }).await;
    reference.hold("/", &exchange(apart.admin.unwrap(), post("", "x").as_bytes()).await);
    reference.hold("/metrics", &apart.get("/metrics").await);
    for path in ["/_/health", "/_/ready", "/metrics"] {
        reference.hold(path, &door.get(path).await);
    }
    door.readiness.send_replace(Readiness::NotReady("loading".into()));
    reference.hold("/_/ready", &door.get("/_/ready").await);
    let responses = reference.operation("/")["responses"].as_object().unwrap();
    let headers = responses.iter().flat_map(|(status, said)| {
        said["headers"].as_object().unwrap().keys().map(move |name| (status.clone(), name.to_lowercase()))
    });
    assert_eq!(headers.collect::<BTreeSet<_>>(), reference.seen, "what the reference says, and what was seen");
}

/// Those of a door that keeps requests.
async fn durable_requests(reference: &mut Reference) {
    let setup = answered(vec![finished()], Task::GENERATE);
    let door = Door::open(Setup { keeping: Some(keeping()), ..setup }).await;
    let later = "prefer: respond-async\r\nidempotency-key: k\r\n";
    let accepted = door.send(post(later, "x")).await;
    reference.hold("/", &accepted);
    reference.hold("/", &door.send(post(later, "y")).await);
    for headers in ["idempotency-key: k\r\n", "idempotency-key: k\r\naccept: text/event-stream\r\n"] {
        reference.hold("/", &door.send(post(headers, "x")).await);
    }
    let (path, place) = ("get /requests/{id}", accepted.header("location").unwrap().to_owned());
    let get = |headers: &str| format!("GET {place} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
    reference.hold(path, &door.send(get("accept: text/event-stream\r\n")).await);
    reference.hold(path, &door.send(get("")).await);
    reference.hold(path, &door.send(get("accept: text/event-stream\r\nlast-event-id: x\r\n")).await);
    reference.hold(path, &door.get("/requests/x").await);
    let delete = format!("DELETE {place} HTTP/1.1\r\nconnection: close\r\n\r\n");
    reference.hold("delete /requests/{id}", &door.send(delete).await);
    let waits = Door::open(Setup { keeping: Some(keeping()), ..Setup::default() }).await;
    let accepted = waits.send(post(later, "x")).await;
    let waiting = accepted.header("location").unwrap();
    reference.hold(path, &waits.get(waiting).await);
    waits.send(format!("DELETE {waiting} HTTP/1.1\r\nconnection: close\r\n\r\n")).await;
    let cancelled = waits.send(post("idempotency-key: k\r\n", "x")).await;
    assert_eq!(cancelled.status, 499);
    reference.hold("/", &cancelled);
    for class in [
        FaultClass::InvalidRequest,
        FaultClass::TooLarge,
        FaultClass::Misdirected,
        FaultClass::DeviceFailed,
        FaultClass::DeadlineExceeded,
    ] {
        waits.script(Script::Refuse(Fault::new(class, "x")));
        reference.hold("/", &waits.send(post(&format!("idempotency-key: {class:?}\r\n"), "x")).await);
    }
    waits.script(Script::Hand);
    waits.keeper.as_ref().unwrap().leave();
    let elsewhere = waits.send(post("idempotency-key: elsewhere\r\n", "x")).await;
    assert_eq!(elsewhere.status, 503);
    reference.hold("/", &elsewhere);
    reference.hold("/requests", &door.get("/requests").await);
    reference.hold("/requests", &door.get("/requests?limit=x").await);
    let retry = format!("POST {place}/retry HTTP/1.1\r\nconnection: close\r\n\r\n");
    reference.hold("/requests/{id}/retry", &door.send(retry).await);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys"), "alice key\n").unwrap();
    let keys = Some(Keys::open(&folder.path().join("keys")).unwrap());
    let asks = Door::open(Setup { keys, ..Setup::default() }).await;
    reference.hold("/", &asks.send(post("", "x")).await);
}
