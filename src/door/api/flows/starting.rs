//! Calls that begin a run.

use super::{Flows, events, passing};
use crate::api::{idempotency, native};
use crate::call_ids::CALL_ID;
use crate::http::body;
use crate::http::kinds;
use crate::http::refusal::Refusal;
use crate::http::visit::Visit;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use stageline_base::{Fault, FaultClass};
use stageline_flow::definition::Flow;
use stageline_flow::export;
use stageline_flow::run::{Ended, Logged};
use stageline_runner::{Declined, Start, Started};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The id of a run, in each answer that is about one.
pub(super) const RUN: HeaderName = HeaderName::from_static("x-stageline-run");
/// What faas-flow called its ids and callbacks.
const FAAS_FLOW_ID: HeaderName = HeaderName::from_static("x-faas-flow-reqid");
const FAAS_FLOW_CALLBACK: HeaderName = HeaderName::from_static("x-faas-flow-callback-url");
const CALLBACK_URL: HeaderName = HeaderName::from_static("x-callback-url");
/// How long a body may take to be kept.
const KEPT_WITHIN: Duration = Duration::from_secs(30);

/// Whether a caller waits for the run's end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// It does, unless it says otherwise.
    Usually,
    /// It does not.
    Never,
}

/// `POST /`.
pub(super) async fn only(State(flows): State<Flows>, request: Request) -> Response {
    let Some(name) = flows.0.only.clone() else {
        let words = "there is nothing at this path: send to /flows/NAME; this door's flows are listed at /flows";
        return unread(&flows, Refusal::with_status(StatusCode::NOT_FOUND, words), request).await;
    };
    start(&flows, &name, Waits::Usually, request).await
}

/// `POST /flows/NAME`.
pub(super) async fn flow(State(flows): State<Flows>, Path(name): Path<String>, request: Request) -> Response {
    start(&flows, &name, Waits::Usually, request).await
}

/// `/function/NAME`.
pub(super) async fn function(State(flows): State<Flows>, Path(name): Path<String>, request: Request) -> Response {
    match flows.flow(&name) {
        Some(_) => start(&flows, &name, Waits::Usually, request).await,
        None => passing::on(&flows, request).await,
    }
}

/// `/async-function/NAME`.
pub(super) async fn async_function(State(flows): State<Flows>, Path(name): Path<String>, request: Request) -> Response {
    match flows.flow(&name) {
        Some(_) => start(&flows, &name, Waits::Never, request).await,
        None => passing::on(&flows, request).await,
    }
}

/// Refuses `request` without reading what it says.
pub(super) async fn unread(flows: &Flows, refusal: Refusal, request: Request) -> Response {
    let (head, body) = request.into_parts();
    body::unwanted(refusal, &head.headers, body, &flows.0.site.setup.limits).await.into_response()
}

async fn start(flows: &Flows, name: &str, waits: Waits, request: Request) -> Response {
    let Some(flow) = flows.flow(name) else {
        let words = format!("there is no flow `{name}`: this door's flows are listed at /flows");
        return unread(flows, Refusal::with_status(StatusCode::NOT_FOUND, words), request).await;
    };
    if request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "export-dag=true")) {
        if let Err(fault) = flows.0.site.principal(request.headers()) {
            return unread(flows, fault.into(), request).await;
        }
        let dag = export::dag(flow);
        let refusal = ([(header::CONTENT_TYPE, "application/json")], dag.to_string()).into_response();
        return refusal;
    }
    let began = Instant::now();
    let (head, body) = request.into_parts();
    let call_id = match head.headers.get(&FAAS_FLOW_ID).filter(|_| !head.headers.contains_key(CALL_ID)) {
        Some(id) => flows.0.site.call_ids.of(&HeaderMap::from_iter([(HeaderName::from_static(CALL_ID), id.clone())])),
        None => flows.0.site.call_ids.of(&head.headers),
    };
    let begun = begin(flows, flow, (&head.headers, body), &call_id, (waits, began)).await;
    let mut response = begun.unwrap_or_else(|refusal| refusal.of_call(call_id.clone()).into_response());
    if let Ok(id) = HeaderValue::from_str(&call_id) {
        response.headers_mut().insert(FAAS_FLOW_ID, id.clone());
        response.headers_mut().insert(CALL_ID, id);
    }
    response
}

async fn begin(
    flows: &Flows,
    flow: &Flow,
    (headers, body): (&HeaderMap, Body),
    call_id: &str,
    (waits, began): (Waits, Instant),
) -> Result<Response, Refusal> {
    let site = &flows.0.site;
    let principal = site.principal(headers)?;
    let later = waits == Waits::Never || native::is_async(headers);
    let key = idempotency::key(headers)?;
    let patience = native::patience(headers)?;
    let until = began + site.setup.limits.longest(patience);
    let named = match kinds::single(headers, &CALLBACK_URL)? {
        Some(url) => Some(url),
        None => kinds::single(headers, &FAAS_FLOW_CALLBACK)?,
    };
    // Whoever waits is told by the answer; a queue worker that calls for somebody tells that one itself.
    let callback = match named.filter(|_| later) {
        Some(url) => {
            let text = url.to_str().map_err(|_| Fault::invalid("X-Callback-Url is no URL"))?;
            Some(flows.0.keeper.outgoing().check("X-Callback-Url", text)?.to_string())
        }
        None => None,
    };
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let arrived = body::read(site, headers, body, until.max(Instant::now() + KEPT_WITHIN), |_| Ok(())).await?;
    Visit::current().stays(until, site.place()?)?;
    let input = Bytes::from(arrived.bytes);
    let start = Start {
        flow,
        definition: &flows.0.definition,
        input: (kind, &input),
        principal: &principal,
        call_id,
        key: key.as_deref(),
        callback: callback.as_deref(),
        time: None,
    };
    let started = flows.0.keeper.start(start).await.map_err(|declined| match declined {
        Declined::OtherInput => {
            let words = "this key or id was used for another input or another flow: send another one";
            Refusal::with_status(StatusCode::UNPROCESSABLE_ENTITY, words)
        }
        Declined::Fault(fault) => fault.into(),
    })?;
    drop(arrived.share);
    let mut response = match later {
        true => accepted(&started, call_id),
        false if native::accepts_events(headers) => events::of(flows, &started.log, 0),
        false => ended(flows, &started, until).await,
    };
    if let Ok(id) = HeaderValue::from_str(started.log.token()) {
        response.headers_mut().insert(RUN, id);
    }
    Ok(response)
}

/// 202, and where to look.
fn accepted(started: &Started, call_id: &str) -> Response {
    let id = started.log.token();
    let json = json!({ "id": id, "status": "waiting", "call_id": call_id }).to_string();
    let location = format!("/runs/{id}");
    (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json"), (header::LOCATION, &location)], json)
        .into_response()
}

/// A run's end, as soon as it is there.
async fn ended(flows: &Flows, started: &Started, until: Instant) -> Response {
    let id = started.log.token();
    let mut said = flows.0.keeper.follow(&started.log, 0);
    let end = async {
        while let Some(record) = said.next().await {
            let (_, record) = record?;
            if let Some(ended) = Logged::end_of(&record) {
                return Ok(ended.clone());
            }
        }
        Err(Fault::internal("the run's log ended without its end"))
    };
    match timeout_at(until, end).await {
        Ok(Ok(end)) => written(flows, &end).await,
        Ok(Err(fault)) => Refusal::from(fault).into_response(),
        Err(_) => {
            let words = format!("the run has not ended yet, and goes on: ask for /runs/{id}");
            Refusal::from(Fault::new(FaultClass::DeadlineExceeded, words)).into_response()
        }
    }
}

/// The answer that a run came to.
pub(super) async fn written(flows: &Flows, ended: &Ended) -> Response {
    match flows.0.keeper.answer(ended).await {
        Ok((status, kind, body)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = (status, body).into_response();
            let kind = if kind.is_empty() { "application/json" } else { &kind };
            if let Ok(kind) = HeaderValue::from_str(kind) {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            response
        }
        Err(words) => Refusal::from(Fault::new(FaultClass::Unavailable, words)).into_response(),
    }
}
