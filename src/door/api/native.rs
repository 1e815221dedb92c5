//! Our own API over HTTP: `POST /` takes a prompt and answers it; `/_/health`, `/_/ready` and `/metrics` are there on every stage.
//!
//! OpenFaaS' contract decides much here: bodies arrive in chunks without a length, health must be 200 while weights load, streams
//! need a last event since a cut one looks like a whole one, and the answer's Content-Type is always set. docs/http.md is the
//! reference.

mod answer;
mod ask;
mod fields;
mod go_duration;
mod job;
mod later;
mod listing;
mod messages;
mod parse;
#[cfg(test)]
mod reference;
mod replies;
mod requests;
mod shelf;
mod text;

pub(in crate::api) use answer::{Reply, in_one};
pub(in crate::api) use ask::reply;
pub(in crate::api) use job::job;
pub(in crate::api) use later::is_async;
pub(in crate::api) use parse::{accepts_events, patience, stored};
pub use shelf::Shelf;

use crate::Readiness;
use crate::http::body;
use crate::http::refusal::Refusal;
use crate::site::{Port, Site};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use stageline_base::{Fault, FaultClass};
use std::sync::Arc;

/// The HTTP services of a stage, as far as they are to be had at `port`.
pub(crate) fn routes(site: Arc<Site>, port: Port) -> Router {
    // A route's `head` must be named, or `get` would answer it.
    let mut routes = watched();
    if port != Port::Admin {
        let one = get(requests::show).head(show_or_cancel_only).delete(requests::cancel);
        routes = routes
            .route("/", post(ask::ask).fallback(post_only))
            .route("/requests", get(listing::list).head(get_only).fallback(get_only))
            .route("/requests/{id}", one.fallback(show_or_cancel_only))
            .route("/requests/{id}/retry", post(listing::retry).fallback(post_only));
    }
    if port != Port::Clients {
        routes = routes.merge(measured());
    }
    let unknown = move |State(site): State<Arc<Site>>, request: Request| unknown_path(site, port, request);
    routes.fallback(unknown).with_state(site)
}

/// What whoever watches a process asks it.
pub(in crate::api) fn watched() -> Router<Arc<Site>> {
    Router::new()
        .route("/_/health", get(health).head(get_only).fallback(get_only))
        .route("/_/ready", get(ready).head(get_only).fallback(get_only))
}

/// What it has counted.
pub(in crate::api) fn measured() -> Router<Arc<Site>> {
    Router::new().route("/metrics", get(metrics).head(get_only).fallback(get_only))
}

/// Alive, loading or not: OpenFaaS kills a function that says otherwise while it loads its weights.
async fn health() -> Response {
    plain("OK")
}

async fn ready(State(site): State<Arc<Site>>) -> Response {
    let readiness = site.setup.readiness.borrow().clone();
    match readiness {
        Readiness::NotReady(reason) => Refusal::from(Fault::new(FaultClass::Unavailable, reason)).into_response(),
        Readiness::Ready if site.setup.limits.unready_when_full && site.is_full() => {
            Refusal::from(site.full()).into_response()
        }
        Readiness::Ready => plain("OK"),
    }
}

async fn metrics(State(site): State<Arc<Site>>) -> Response {
    let kind = HeaderValue::from_static(stageline_metrics::CONTENT_TYPE);
    ([(header::CONTENT_TYPE, kind)], site.setup.metrics.render()).into_response()
}

async fn unknown_path(site: Arc<Site>, port: Port, request: Request) -> Response {
    let known = match port {
        Port::Whole => "send prompts with POST /; there are /_/health, /_/ready and /metrics",
        Port::Clients => "send prompts with POST /; there are /_/health and /_/ready",
        Port::Admin => "there are /_/health, /_/ready and /metrics; prompts have a port of their own",
    };
    let refusal = Refusal::with_status(StatusCode::NOT_FOUND, format!("there is nothing at this path: {known}"));
    unread(site, refusal, request).await
}

async fn get_only(State(site): State<Arc<Site>>, request: Request) -> Response {
    wrong_method(site, request, "GET").await
}

async fn post_only(State(site): State<Arc<Site>>, request: Request) -> Response {
    wrong_method(site, request, "POST").await
}

async fn show_or_cancel_only(State(site): State<Arc<Site>>, request: Request) -> Response {
    wrong_method(site, request, "GET, DELETE").await
}

async fn wrong_method(site: Arc<Site>, request: Request, allowed: &'static str) -> Response {
    let message = format!("this path takes {allowed} only");
    let refusal = Refusal::with_status(StatusCode::METHOD_NOT_ALLOWED, message);
    let mut response = unread(site, refusal, request).await;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Refuses `request` without reading what it says.
async fn unread(site: Arc<Site>, refusal: Refusal, request: Request) -> Response {
    let (head, body) = request.into_parts();
    body::unwanted(refusal, &head.headers, body, &site.setup.limits).await.into_response()
}

fn plain(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], text).into_response()
}
