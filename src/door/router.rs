//! The APIs of a stage, put together for its ports.

use crate::api::{grpc, native};
use crate::site::{Port, Site};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use std::sync::Arc;
use std::time::Instant;

/// The HTTP and gRPC services of a stage.
pub fn router(site: Arc<Site>) -> Router {
    routes(site, Port::Whole)
}

/// The same on two ports: one for clients (prompts, health and readiness), one for operators (everything else, health and
/// readiness too).
pub fn routers_apart(site: Arc<Site>) -> (Router, Router) {
    (routes(Arc::clone(&site), Port::Clients), routes(site, Port::Admin))
}

fn routes(site: Arc<Site>, port: Port) -> Router {
    native::routes(Arc::clone(&site), port).merge(grpc::routes(site, port)).layer(from_fn(timed))
}

/// Says how long an answer took to be ready, as OpenFaaS' watchdog does. When a stream will be, nobody knows yet.
async fn timed(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let mut response = next.run(request).await;
    let whole = response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| {
        let kind = kind.as_bytes();
        kind != b"text/event-stream" && !kind.starts_with(b"application/grpc")
    });
    if let (true, Ok(seconds)) = (whole, HeaderValue::from_str(&format!("{:.6}", begun.elapsed().as_secs_f64()))) {
        response.headers_mut().insert(HeaderName::from_static("x-duration-seconds"), seconds);
    }
    response
}
