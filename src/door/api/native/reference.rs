//! The reference of this API: docs/openapi.json and the tables of docs/http.md are made from the parser's own types, and held
//! against them. `STAGELINE_WRITE_DOCS=1 cargo test -p stageline-door --lib reference` writes both anew.

mod durable;
mod words;

use super::fields::Fields;
use super::replies::{DoneEvent, Embedding, Logit, Logits, TokenEvent, VectorEvent, Whole};
use crate::http::json::{must_be, names, settings};
use crate::http::refusal::ErrorBody;
use crate::site::Limits;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};
use stageline_base::limits::{
    DEFAULT_MAX_TOKENS, DIGEST_DIGITS, MAX_CALL_ID_BYTES, MAX_STOP_BYTES, MAX_STOP_STRINGS, MAX_TOP_LOGITS,
};
use stageline_base::sampling::{REPETITION_PENALTY, TEMPERATURE, TOP_P};
use stageline_base::{Fault, FaultClass};
use std::path::{Path, PathBuf};
use std::time::Duration;
use words::{ANSWERED, ASKED, STATUSES};

/// A duration above 0 as Go writes it, in ASCII.
const DURATION: &str = r"^\+?(?=.*[1-9])(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|ms|s|m|h))+$";

/// Which headers an answer of this status may have.
fn headers_of(status: u16, with_call: bool, events: bool) -> Value {
    let there = |name: &str| match name {
        // Where no requests are taken, none has an id.
        "X-Call-Id" => with_call && status != 404,
        "X-Duration-Seconds" => true,
        // What is refused before it is kept has none.
        "X-Stageline-Request" => with_call && matches!(status, 200 | 202 | 400 | 413 | 421 | 499 | 500 | 503 | 504),
        "Retry-After" => matches!(status, 429 | 503),
        "X-OpenFaaS-Internal" => status == 429,
        "Allow" => status == 405,
        "Location" | "Preference-Applied" => status == 202,
        "WWW-Authenticate" => status == 401,
        "Accept-Encoding" => status == 415,
        _ => events,
    };
    let names = ANSWERED.iter().map(|(name, _)| *name).filter(|name| there(name));
    names
        .map(|name| (name.into(), json!({ "$ref": format!("#/components/headers/{name}") })))
        .collect::<Map<_, _>>()
        .into()
}

/// The responses of these statuses that say what went wrong.
fn refusals(statuses: &[u16], with_call: bool) -> Map<String, Value> {
    let error = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } });
    let refusal = |status: &u16| {
        let rows: Vec<_> = STATUSES.iter().filter(|row| row.0 == *status).collect();
        let when = rows.iter().map(|(_, class, when)| format!("`{class}`: {when}.")).collect::<Vec<_>>().join(" ");
        let headers = headers_of(*status, with_call, false);
        (status.to_string(), json!({ "description": when, "headers": headers, "content": error }))
    };
    statuses.iter().map(refusal).collect()
}

/// A path that answers a text.
fn text_path(id: &str, words: [&str; 3], statuses: &[u16]) -> Value {
    let [summary, description, example] = words;
    let content = json!({ "text/plain": { "schema": { "type": "string" }, "example": example } });
    let mut responses = refusals(statuses, false);
    let ok = json!({ "description": "It is.", "headers": headers_of(200, false, false), "content": content });
    responses.insert("200".into(), ok);
    json!({ "get": { "operationId": id, "summary": summary, "description": description, "responses": responses } })
}

fn example(summary: &str, value: impl serde::Serialize) -> Value {
    json!({ "summary": summary, "value": value })
}

/// Requests as they may be sent.
fn requests() -> Value {
    json!({
        "prompt": example("A text to go on with", json!({ "prompt": "The capital of France is", "max_tokens": 16 })),
        "conversation": example("A conversation, drawn, as events", json!({
            "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Why is the sky blue?" }],
            "max_tokens": 64, "temperature": 0.7, "top_p": 0.9, "seed": 1, "stop": ["\n\n"], "stream": true,
        })),
        "embedding": example("A text for an encoder", json!({ "input": "a text", "deadline_ms": 2000 })),
    })
}

fn ask(schemas: &mut SchemaGenerator) -> Value {
    let call_id = || "5f0c9f0e6f8c4f1b9a0d7c3e2b1a0f9e".to_string();
    let whole = Whole {
        text: " Paris.".into(),
        token_ids: vec![7042, 30],
        finish_reason: "stop",
        logits: None,
        prompt_tokens: 5,
        call_id: call_id(),
    };
    let token = TokenEvent { text: " Paris".into(), token_id: 7042, logits: None };
    let done = DoneEvent {
        text: String::new(),
        finish_reason: "stop",
        prompt_tokens: 5,
        answer_tokens: 2,
        call_id: call_id(),
    };
    let embedding = Embedding { embedding: vec![0.5, -0.25], prompt_tokens: 4, call_id: call_id() };
    let events = format!("id: 0\ndata: {}\n\nevent: done\ndata: {}\n\n", json!(token), json!(done));
    let answers = [schemas.subschema_for::<Whole>(), schemas.subschema_for::<Embedding>()];
    let of_events = [
        schemas.subschema_for::<TokenEvent>(),
        schemas.subschema_for::<VectorEvent>(),
        schemas.subschema_for::<DoneEvent>(),
        schemas.subschema_for::<ErrorBody>(),
    ];
    // As OpenAPI 3.2 describes a stream, and those tools of 3.1 that can: one event of it.
    let event = json!({
        "description": "One event: a token as it comes, or the vector; the last one is `done` or `error`.",
        "type": "object", "required": ["data"],
        "properties": {
            "id": { "type": "string", "description": "A token's place in the answer, from 0." },
            "event": { "enum": ["message", "done", "error"], "description": "`message`, which is not sent, where it has no name." },
            "data": { "type": "string", "contentMediaType": "application/json", "contentSchema": { "oneOf": of_events } },
        },
    });
    let ok = json!({
        "description": "The answer, whole or as events.",
        "headers": headers_of(200, true, true),
        "content": {
            "application/json": {
                "schema": { "oneOf": answers },
                "examples": { "answer": example("A decoder's", whole), "embedding": example("An encoder's", embedding) },
            },
            "text/event-stream": {
    "schema": event,
                "example": events,
            },
        },
    });
    let mut responses = refusals(&[400, 401, 404, 408, 413, 415, 421, 422, 429, 499, 500, 501, 503, 504], true);
    responses.insert("200".into(), ok);
    responses.insert("202".into(), durable::accepted(schemas));
    let reference = |name: &str| json!({ "$ref": format!("#/components/parameters/{name}") });
    let parameters =
        ["X-Call-Id", "X-Timeout", "traceparent", "Prefer", "Idempotency-Key", "X-Callback-Url"].map(reference);
    json!({ "post": {
        "operationId": "ask",
        "summary": "Answer a request, at stage 0",
        "description": "The body is JSON if its Content-Type says so, or if it is an object with one of these fields; all else is the text of \
                        the prompt, whatever its Content-Type. It is UTF-8, whole and plain. `Accept: text/event-stream` asks for events.",
        "parameters": parameters,
        "requestBody": { "required": true, "content": {
            "application/json": { "schema": schemas.subschema_for::<Fields>(), "examples": requests() },
            "text/plain": { "schema": { "type": "string", "minLength": 1 }, "example": "The capital of France is" },
        } },
        "responses": responses,
    } })
}

/// docs/openapi.json.
fn openapi() -> Value {
    let mut schemas =
        settings().with(|settings| settings.definitions_path = "/components/schemas".into()).into_generator();
    let metrics = "# TYPE stageline_requests_in_flight gauge\nstageline_requests_in_flight 1\n";
    let paths = json!({
        "/": ask(&mut schemas),
        "/requests": durable::list(&mut schemas),
        "/requests/{id}": durable::path(&mut schemas),
        "/requests/{id}/retry": durable::retry(&mut schemas),
        "/_/health": text_path("health", ["Is the process alive?", "Also while it loads its weights.", "OK"], &[]),
        "/_/ready": text_path("ready", ["Are requests taken?", "No while a stage loads, is missing or is about to end.", "OK"], &[429, 503]),
        "/metrics": text_path("metrics", ["What is counted", "In Prometheus' text format.", metrics], &[404]),
    });
    let schema = |name: &str| match name {
        "Retry-After" => json!({ "type": "integer", "minimum": 0 }),
        "X-Timeout" => json!({ "type": "string", "pattern": DURATION }),
        "Idempotency-Key" => json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
        "X-Duration-Seconds" => json!({ "type": "string", "pattern": r"^[0-9]+\.[0-9]{6}$" }),
        _ => json!({ "type": "string" }),
    };
    let header =
        |(name, what): &(&str, &str)| (name.to_string(), json!({ "description": what, "schema": schema(name) }));
    let parameter = |(name, what): &(&str, &str)| {
        let parameter = json!({ "name": name, "in": "header", "description": what, "schema": schema(name) });
        (name.to_string(), parameter)
    };
    // OpenAPI takes no parameters of these names: it says so by an answer's types, and by its security schemes.
    let parameters = ASKED
        .iter()
        .filter(|(name, _)| !["Accept", "Authorization"].contains(name))
        .map(parameter)
        .collect::<Map<_, _>>();
    let (headers, schemas) = (ANSWERED.iter().map(header).collect::<Map<_, _>>(), schemas.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "stageline", "version": "1", "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "What a stage answers over HTTP. docs/http.md says the same for people.",
        },
        "servers": [{ "url": "http://127.0.0.1:8080" }],
        "security": [{}, { "bearer": [] }, { "key": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas, "parameters": parameters, "headers": headers,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "X-Api-Key" },
            },
        },
    })
}

/// The table with this title in docs/http.md.
fn table(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let titles: Vec<String> = titles.iter().map(|title| title.to_string()).collect();
    let rows: String = rows.into_iter().map(|row| line(&row)).collect();
    format!("{}|{}\n{rows}", line(&titles), "---|".repeat(titles.len()))
}

/// The tables of docs/http.md, each by its name.
fn tables() -> Vec<(&'static str, String)> {
    let openapi = openapi();
    let schemas = &openapi["components"]["schemas"];
    let property = |name: &str, field: &str| schemas[name]["properties"][field].clone();
    let what = |described: &Value| described["description"].as_str().expect("a doc comment").replace('\n', " ");
    let fields = names::<Fields>().iter().map(|name| {
        let field = property("Request", name);
        let default = field.get("default").map(Value::to_string).unwrap_or_default();
        vec![format!("`{name}`"), must_be(Some(&field)), default, what(&field)]
    });
    let of = |name: &str| {
        let object = match name {
            "Error" => property(name, "error"),
            name => schemas[name].clone(),
        };
        let required = object["required"].as_array().expect("some are required").clone();
        let properties = object["properties"].as_object().expect("an object").clone();
        let rows = properties.into_iter().map(move |(field, described)| {
            let always = if required.contains(&json!(field)) { "always" } else { "" };
            vec![format!("`{field}`"), always.into(), what(&described)]
        });
        table(&["field", "there", "what"], rows)
    };
    let headers = |rows: &[(&str, &str)]| {
        table(&["header", "what"], rows.iter().map(|(name, what)| vec![name.to_string(), what.to_string()]))
    };
    let statuses =
        STATUSES.iter().map(|(status, class, when)| vec![status.to_string(), format!("`{class}`"), when.to_string()]);
    vec![
        ("fields", table(&["field", "must be", "default", "what"], fields)),
        ("asked", headers(&ASKED)),
        ("answer", of("Answer")),
        ("embedding", of("Embedding")),
        ("token", of("TokenEvent")),
        ("done", of("DoneEvent")),
        ("error", of("Error")),
        ("standing", of("Standing")),
        ("statuses", table(&["status", "class", "when"], statuses)),
        ("answered", headers(&ANSWERED)),
    ]
}

fn path_of(document: &str) -> PathBuf {
    Path::new(env!("STAGELINE_ROOT")).join(document)
}

fn text_of(document: &str) -> String {
    std::fs::read_to_string(path_of(document)).expect(document)
}

/// Holds a document against what it is to be, or writes it.
fn hold(document: &str, want: &str) {
    if std::env::var_os("STAGELINE_WRITE_DOCS").is_some() {
        std::fs::write(path_of(document), want).expect(document);
    }
    let text = text_of(document);
    let differs = text.lines().zip(want.lines()).find(|(is, wanted)| is != wanted);
    let rewrite = "STAGELINE_WRITE_DOCS=1 cargo test -p stageline-door --lib reference";
    assert!(text == want, "{document} is not what the types say (it is, it should be: {differs:?}): {rewrite}");
}

#[test]
fn openapi_json_is_what_the_types_say() {
    hold("docs/openapi.json", &(serde_json::to_string_pretty(&openapi()).unwrap() + "\n"));
}

#[test]
fn the_tables_of_http_md_are_what_the_types_say() {
    let mut text = text_of("docs/http.md");
    for (name, table) in tables() {
        let begin = format!("<!-- made: {name} -->\n");
        let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("docs/http.md has no table {name}"));
        let (_, after) = rest.split_once("<!-- end -->").expect("a table's end");
        text = format!("{before}{begin}{table}<!-- end -->{after}");
    }
    hold("docs/http.md", &text);
}

#[test]
fn every_class_of_fault_has_its_status_in_the_reference() {
    // Whoever went away is told nothing.
    for class in FaultClass::ALL.into_iter().filter(|class| *class != FaultClass::Cancelled) {
        let row = class.row();
        assert!(STATUSES.iter().any(|(status, name, _)| (*status, *name) == (row.http, row.name)), "{class:?}");
        assert!(json!(ErrorBody::of(&Fault::new(class, ""), None))["error"]["class"] == row.name);
    }
    let sent = Logits { digest: "0".repeat(16), top: vec![Logit { id: 0, logit: 0.0 }] };
    assert!(json!(sent)["top"][0]["id"] == 0);
}

#[test]
fn the_requests_of_the_reference_can_be_answered() {
    for (name, shown) in requests().as_object().unwrap() {
        let headers = axum::http::HeaderMap::new();
        let model = if name == "embedding" { stageline_base::Task::EMBED } else { stageline_base::Task::GENERATE };
        let parsed = super::parse::parse(&headers, shown["value"].to_string().as_bytes(), model, &Limits::default());
        crate::check::check(&parsed.unwrap().request).unwrap();
    }
}

#[test]
fn the_limits_that_documents_state_are_the_ones_that_are_kept() {
    let limits = Limits::default();
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let (body, head, write) =
        (seconds(limits.body_timeout), seconds(limits.head_timeout), seconds(limits.write_timeout));
    let (hot, penalties) = (TEMPERATURE.most, format!("{} to {}", REPETITION_PENALTY.least, REPETITION_PENALTY.most));
    let share = format!("// In ({}, {}]; {} is all tokens", TOP_P.least, TOP_P.most, TOP_P.default);
    let digits = format!("{} to {}", DIGEST_DIGITS.start(), DIGEST_DIGITS.end());
    let stated = [
        (
            "proto/stageline/v1/inference.proto",
            format!("({} MiB, or the server's --max-body-bytes)", limits.max_body_bytes >> 20),
        ),
        ("proto/stageline/v1/inference.proto", format!("the message took longer than {body} ")),
        ("proto/stageline/v1/inference.proto", format!("(at most {MAX_CALL_ID_BYTES} bytes are kept;")),
        ("proto/stageline/v1/inference.proto", format!("// 0 to {hot}; 0 is greedy")),
        ("proto/stageline/v1/inference.proto", share.clone()),
        ("proto/stageline/v1/hop.proto", share),
        ("proto/stageline/v1/hop.proto", format!("// 0 to {hot}; 0 is greedy")),
        ("proto/stageline/v1/hop.proto", format!("// {penalties}; 1 is none.")),
        ("proto/stageline/v1/inference.proto", format!("// {penalties}; 1 is none, the default")),
        (
            "proto/stageline/v1/inference.proto",
            format!("at most {MAX_STOP_STRINGS}, each of 1 to {MAX_STOP_BYTES} bytes"),
        ),
        ("proto/stageline/v1/inference.proto", format!("to report beside each token, at most {MAX_TOP_LOGITS}.")),
        ("proto/stageline/v1/inference.proto", format!("logits to report, at most {MAX_TOP_LOGITS}.")),
        ("proto/stageline/v1/inference.proto", format!("the first {digits} lower-case")),
        ("README.md", format!("one that takes longer than {body} 408")),
        ("README.md", format!("no whole head, within {head}")),
        ("README.md", format!("nothing of an answer was taken within {write}")),
        ("ARCHITECTURE.md", format!("until the client's deadline, or {body}")),
        ("docs/http.md", format!("at most {} MiB", limits.max_body_bytes >> 20)),
        ("docs/http.md", format!("takes longer than {body}")),
        ("README.md", format!("{DEFAULT_MAX_TOKENS} where it is absent")),
        ("README.md", format!("0 to {hot}; 0, the default")),
        ("README.md", format!("a list of at most {MAX_STOP_STRINGS}")),
    ];
    for (document, words) in stated {
        assert!(text_of(document).contains(&words), "{document} does not say: {words}");
    }
}
