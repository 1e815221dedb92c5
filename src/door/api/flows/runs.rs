//! `/runs`: how runs stand, and orders to them; `/flows`: what there is to run.

use super::Flows;
use super::starting::{RUN, written};
use crate::call_ids::CALL_ID;
use crate::http::body;
use crate::http::refusal::Refusal;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use stageline_base::{Fault, FaultClass};
use stageline_core::durable::Wall;
use stageline_flow::export;
use stageline_flow::run::{Datum, Ended, Failure, Given, Logged, Order};
use stageline_runner::Standing;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Most runs that are listed, and how many where nobody says.
const MOST: usize = 10_000;
const USUAL: usize = 100;
/// How long a run may take to be looked up.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Of values that are shown beside others.
const CUT_BYTES: usize = 200;

fn in_json(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], value.to_string()).into_response()
}

fn still(_: tokio::time::error::Elapsed) -> Fault {
    Fault::new(FaultClass::Unavailable, "the store does not answer")
}

pub(super) fn unknown() -> Refusal {
    Refusal::with_status(
        StatusCode::NOT_FOUND,
        "there is no run of this id, or it is somebody else's, or not kept any more",
    )
}

pub(super) async fn found(flows: &Flows, headers: &HeaderMap, id: &str) -> Result<Standing, Refusal> {
    let who = flows.0.site.principal(headers)?;
    timeout(READ_WITHIN, flows.0.keeper.look(&who, id)).await.map_err(still)??.ok_or_else(unknown)
}

/// What a query says of that name, as a form writes it: `+` for a space, `%2F` for what has a meaning in URLs.
fn asked(query: Option<&str>, name: &str) -> Option<String> {
    // The library reads queries of URLs alone.
    let url = reqwest::Url::parse(&format!("http://x/?{}", query?)).ok()?;
    url.query_pairs().find_map(|(known, value)| (known == name).then(|| value.into_owned()))
}

/// `GET /flows`.
pub(super) async fn flows(State(flows): State<Flows>, headers: HeaderMap) -> Response {
    if let Err(fault) = flows.0.site.principal(&headers) {
        return Refusal::from(fault).into_response();
    }
    let listed: Vec<Value> =
        flows.0.file.flows.values().map(|flow| json!({ "name": flow.name, "nodes": flow.graph.nodes.len() })).collect();
    in_json(&json!({ "flows": listed }))
}

/// `GET /flows/NAME`.
pub(super) async fn flow(
    State(flows): State<Flows>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if let Err(fault) = flows.0.site.principal(&headers) {
        return Refusal::from(fault).into_response();
    }
    let Some(flow) = flows.flow(&name) else {
        let words = format!("there is no flow `{name}`: this door's flows are listed at /flows");
        return Refusal::with_status(StatusCode::NOT_FOUND, words).into_response();
    };
    match asked(query.as_deref(), "export-dag").as_deref() {
        Some("true") => in_json(&export::dag(flow)),
        _ => in_json(&export::json(flow)),
    }
}

/// `GET /runs`.
pub(super) async fn list(State(flows): State<Flows>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let listed = async {
        let who = flows.0.site.principal(&headers)?;
        let query = query.as_deref();
        let most = asked(query, "limit").map_or(Ok(USUAL), |text| {
            let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
            number.ok_or_else(|| Fault::invalid(format!("limit may be 1 to {MOST}")))
        })?;
        let (flow, status) = (asked(query, "flow"), asked(query, "status"));
        let tell = |standing: &Standing| {
            let summary = summary(standing);
            let is = |name: &str, said: &Option<String>| said.as_ref().is_none_or(|said| summary[name] == **said);
            let wanted = is("flow", &flow) && is("status", &status);
            wanted.then_some(summary)
        };
        let runs = timeout(READ_WITHIN, flows.0.keeper.list(&who, most, tell)).await.map_err(still)??;
        Ok::<_, Refusal>(in_json(&json!({ "runs": runs })))
    };
    listed.await.unwrap_or_else(IntoResponse::into_response)
}

fn summary(standing: &Standing) -> Value {
    let state = &standing.state;
    let accepted = state.accepted.as_ref();
    let failure = match &state.ended {
        Some(Ended::Failed(failure)) => Some(failure),
        _ => state.failing.as_ref(),
    };
    json!({
        "id": standing.log.token(),
        "flow": accepted.map(|run| &run.flow),
        "status": standing.status(),
        "call_id": accepted.map(|run| &run.call_id),
        "principal": accepted.map(|run| &run.principal),
        "began_unix_ms": state.began().map(|at| at.0),
        "ended_unix_ms": state.ended_at().map(|at| at.0),
        "deadline_unix_ms": accepted.map(|run| run.deadline.0),
        "error": failure.map(Failure::told),
        "deaths": state.deaths,
        "tries": state.tries + 1,
        "told": state.delivered.as_ref().map(|given_up| given_up.as_deref().unwrap_or("yes")),
    })
}

/// `GET /runs/ID`: its output once there is one, or how it stands; with `?full`, all that was said of it.
pub(super) async fn show(
    State(flows): State<Flows>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let shown = async {
        let standing = found(&flows, &headers, &id).await?;
        let wants_all =
            query.as_deref().is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some("full")));
        let mut response = match &standing.state.ended {
            Some(ended) if !wants_all => written(&flows, ended).await,
            ended => {
                let mut summary = summary(&standing);
                summary["events"] = story(&standing);
                let flow = standing.state.accepted.as_ref().and_then(|run| standing.file.flows.get(&run.flow));
                summary["graph"] = flow.map_or(Value::Null, export::json);
                let status = if ended.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
                (status, in_json(&summary)).into_response()
            }
        };
        names(&mut response, &standing);
        Ok::<_, Refusal>(response)
    };
    shown.await.unwrap_or_else(IntoResponse::into_response)
}

fn names(response: &mut Response, standing: &Standing) {
    let call_id = standing.state.accepted.as_ref().map_or("", |run| &run.call_id);
    for (name, text) in [(HeaderName::from_static(CALL_ID), call_id), (RUN, standing.log.token())] {
        if let Ok(value) = HeaderValue::from_str(text) {
            response.headers_mut().insert(name, value);
        }
    }
}

fn story(standing: &Standing) -> Value {
    let said = standing.state.history.iter().flat_map(|moment| moment.said.iter().map(|said| (moment.at, said)));
    said.filter_map(|(at, said)| told(at, said)).collect()
}

/// What a run's log says, for people, with the name of the event as `event`; nothing where it is nothing to them.
pub fn told(at: Wall, said: &Logged) -> Option<Value> {
    let (name, mut data) = shown(at, said)?;
    data["event"] = name.into();
    Some(data)
}

/// What a run's log says, for people: the name of an event, and what it says.
pub(super) fn shown(at: Wall, said: &Logged) -> Option<(&'static str, Value)> {
    let (name, data) = match said {
        Logged::Accepted(run) => {
            let (flow, call_id, deadline) = (&run.flow, &run.call_id, run.deadline.0);
            (
                "accepted",
                json!({ "flow": flow, "call_id": call_id, "deadline_unix_ms": deadline, "input": cut(&run.input) }),
            )
        }
        Logged::Owned { .. } | Logged::Released | Logged::Requeued => return None,
        Logged::Ordered(order) => ("ordered", json!({ "order": order })),
        Logged::Skipped { key } => ("skipped", json!({ "node": key })),
        Logged::Fanned { key, count, .. } => ("fanned", json!({ "node": key, "items": count })),
        Logged::Opened { key, .. } => ("opened", json!({ "node": key })),
        Logged::Called { key, attempt, input, .. } => {
            ("called", json!({ "node": key, "attempt": attempt, "input": input.as_ref().map(given) }))
        }
        Logged::Waits { key, until } => ("waits", json!({ "node": key, "until_unix_ms": until.0 })),
        Logged::Done { key, output } => ("done", json!({ "node": key, "output": given(output) })),
        Logged::Failed { key, failure, again, .. } => {
            let again = again.map(|at| at.0);
            let mut told = failure.told();
            (told["node"], told["again_unix_ms"]) = (json!(key), json!(again));
            ("failed", told)
        }
        Logged::Output(datum) => ("output", json!({ "output": cut(datum) })),
        Logged::Failing(failure) => ("failing", json!({ "error": failure.told() })),
        Logged::Entered(phase) => ("entered", json!({ "phase": phase })),
        Logged::Ended(ended) => match ended {
            Ended::Succeeded(datum) => ("ended", json!({ "status": "succeeded", "output": cut(datum) })),
            Ended::Failed(failure) => ("ended", json!({ "status": "failed", "error": failure.told() })),
            Ended::Cancelled => ("ended", json!({ "status": "cancelled" })),
        },
        Logged::Delivered { given_up } => ("told", json!({ "given_up": given_up })),
    };
    let mut data = data;
    data["at_unix_ms"] = at.0.into();
    Some((name, data))
}

fn given(given: &Given) -> Value {
    match given {
        Given::Here(datum) => cut(datum),
        Given::OutputOf(key) => json!({ "output_of": key }),
        Given::Input => json!("the input"),
        Given::Item => json!("the item"),
        Given::Leaves => json!("what its nodes gave"),
    }
}

/// A value as it is shown beside others: what is large is cut.
fn cut(datum: &Datum) -> Value {
    let short = |text: &str| {
        let end = (0..=CUT_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        format!("{}…", &text[..end])
    };
    match datum {
        Datum::Nothing => Value::Null,
        Datum::Json(json) => {
            let text = without_marks(json.text());
            match text.len() <= CUT_BYTES {
                true => serde_json::from_str(&text).unwrap_or_else(|_| json!(text)),
                false => json!(short(&text)),
            }
        }
        Datum::Body { content_type, bytes } => match std::str::from_utf8(bytes) {
            Ok(text) if text.len() <= CUT_BYTES => json!(text),
            Ok(text) => json!(short(text)),
            Err(_) => json!(format!("{} bytes of {content_type}", bytes.len())),
        },
        Datum::Blob(blob) => json!(format!("{} bytes of {}, kept beside the log", blob.bytes, blob.content_type)),
    }
}

/// JSON with names in the places of secrets' marks: who knew the number that they are made with could write such.
fn without_marks(json: &str) -> String {
    let (before, behind) = ("\\u0001secret:", "\\u0001");
    let mut pieces = json.split(before);
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (mark, rest) = piece.split_once(behind).unwrap_or((piece, ""));
        let name = mark.split_once(':').map_or("", |(_, name)| name);
        text.push_str(&format!("secrets.{name}{rest}"));
    }
    text
}

/// `DELETE /runs/ID`.
pub(super) async fn cancel(State(flows): State<Flows>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    given_order(&flows, &headers, &id, Order::Cancel { undo: false }).await
}

/// `POST /runs/ID/ORDER`.
pub(super) async fn order(
    State(flows): State<Flows>,
    Path((id, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let query = query.as_deref();
    let read = async {
        let until = Instant::now() + READ_WITHIN;
        body::read(&flows.0.site, &head.headers, body, until, |_| Ok(())).await
    };
    let arrived = match read.await {
        Ok(arrived) => arrived.bytes,
        Err(refusal) => return refusal.into_response(),
    };
    let order = match &*name {
        "cancel" => Order::Cancel { undo: asked(query, "undo").as_deref() == Some("true") },
        "pause" => Order::Pause,
        "resume" => Order::Resume,
        "signal" => {
            let Some(signal) = asked(query, "name").filter(|name| !name.is_empty()) else {
                return Refusal::from(Fault::invalid("say which signal: /runs/ID/signal?name=NAME, its value as body"))
                    .into_response();
            };
            let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            Order::Signal { name: signal, value: Datum::of_body(kind, &arrived) }
        }
        "retry" => {
            return retried(&flows, &head.headers, &id, asked(query, "from")).await;
        }
        _ => {
            let words = "a run can be told to cancel, pause, resume, retry or signal";
            return Refusal::with_status(StatusCode::NOT_FOUND, words).into_response();
        }
    };
    given_order(&flows, &head.headers, &id, order).await
}

async fn retried(flows: &Flows, headers: &HeaderMap, id: &str, from: Option<String>) -> Response {
    let standing = match found(flows, headers, id).await {
        Ok(standing) => standing,
        Err(refusal) => return refusal.into_response(),
    };
    let flow = standing.state.accepted.as_ref().and_then(|run| standing.file.flows.get(&run.flow));
    if let (Some(from), Some(flow)) = (&from, flow)
        && flow.graph.place_of(from).is_none()
    {
        let words = format!("the flow {} has no node `{from}` of its own", flow.name);
        return Refusal::from(Fault::invalid(words)).into_response();
    }
    let time = flow.map_or(Duration::from_secs(3600), |flow| flow.timeout);
    let deadline = Wall(flows.0.keeper.now().0 + time.as_millis() as u64);
    given_order(flows, headers, id, Order::Retry { from, deadline }).await
}

async fn given_order(flows: &Flows, headers: &HeaderMap, id: &str, order: Order) -> Response {
    let given = async {
        let who = flows.0.site.principal(headers)?;
        match timeout(READ_WITHIN, flows.0.keeper.order(&who, id, &order)).await.map_err(still)? {
            Ok(Some(standing)) => {
                let mut response = (StatusCode::ACCEPTED, in_json(&json!({ "id": id }))).into_response();
                names(&mut response, &standing);
                Ok(response)
            }
            Ok(None) => Err(unknown()),
            // What a run's state forbids.
            Err(fault) if fault.class == FaultClass::InvalidRequest => {
                Err(Refusal::with_status(StatusCode::CONFLICT, fault.message))
            }
            Err(fault) => Err(fault.into()),
        }
    };
    given.await.unwrap_or_else(IntoResponse::into_response)
}
