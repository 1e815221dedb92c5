//! Calls of functions that are no flows: the gateway's.

use super::Flows;
use super::starting::unread;
use crate::http::refusal::Refusal;
use crate::http::visit::Visit;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, Response as Parts, StatusCode, header};
use axum::response::Response;
use futures::TryStreamExt;
use stageline_base::{Fault, FaultClass};
use tokio::time::Instant;

/// Headers that are a connection's, not a call's.
const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];

/// What is beyond a function's name is the function's.
pub(super) async fn beyond(State(flows): State<Flows>, request: Request) -> Response {
    on(&flows, request).await
}

/// Passes a call on, as it is.
pub(super) async fn on(flows: &Flows, request: Request) -> Response {
    let Some(gateway) = flows.gateway() else {
        let words = "there is no flow of this name, and no gateway is known to ask for a function: say `provider.gateway` in the \
                     file, or --gateway URL";
        return unread(flows, Refusal::with_status(StatusCode::NOT_FOUND, words), request).await;
    };
    if let Err(fault) = flows.0.site.principal(request.headers()) {
        return unread(flows, fault.into(), request).await;
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", gateway.trim_end_matches('/'));
    let limits = &flows.0.site.setup.limits;
    let until = Instant::now() + limits.max_deadline;
    let place = flows.0.site.place().and_then(|place| Visit::current().stays(until, place));
    if let Err(fault) = place {
        return unread(flows, fault.into(), request).await;
    }
    let (head, body) = request.into_parts();
    let mut headers = head.headers;
    HOP.iter().for_each(|name| drop(headers.remove(name)));
    if flows.0.site.asks_for_keys() {
        // They are this door's own.
        [&header::AUTHORIZATION, &HeaderName::from_static("x-api-key")]
            .into_iter()
            .for_each(|name| drop(headers.remove(name)));
    }
    let call = flows.0.keeper.client().request(head.method, url).headers(headers).timeout(limits.max_deadline);
    let answer = call.body(reqwest::Body::wrap_stream(body.into_data_stream())).send().await;
    match answer {
        Ok(answer) => {
            let mut parts = Parts::new(());
            *parts.status_mut() = answer.status();
            *parts.headers_mut() = answer.headers().clone();
            HOP.iter().for_each(|name| drop(parts.headers_mut().remove(name)));
            parts.map(|()| Body::from_stream(answer.bytes_stream().map_err(std::io::Error::other)))
        }
        Err(error) => {
            let class = if error.is_timeout() { FaultClass::DeadlineExceeded } else { FaultClass::Unavailable };
            let words = format!("the gateway {gateway} does not answer: {}", error.without_url());
            axum::response::IntoResponse::into_response(Refusal::from(Fault::new(class, words)))
        }
    }
}
