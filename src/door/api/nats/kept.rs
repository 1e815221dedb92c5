//! What a message asks of durable requests: its header `Stageline-Request` is the first line of a request of HTTP without its version, and
//! the answer is that of HTTP, in one reply with its status. So whatever `Accept` says, an answer is whole.

use super::{STATUS, send, send_refusal};
use crate::api::native;
use crate::call_ids;
use crate::site::{Port, Site};
use async_nats::{Client, Subject};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, Uri, header};
use stageline_base::Fault;
use std::sync::Arc;
use tower::ServiceExt;

/// The header that says so.
pub(super) const ASKED: &str = "Stageline-Request";

/// Answers what is `asked` with these headers.
pub(super) async fn answer(client: &Client, site: &Arc<Site>, (to, asked): (&Subject, &str), mut headers: HeaderMap) {
    let Some((method, uri)) = read(asked) else {
        let words = format!(
            "{ASKED} may be GET /requests?limit=N, GET /requests/ID, POST /requests/ID/retry or DELETE /requests/ID"
        );
        return send_refusal(client, to, &Fault::invalid(words).into()).await;
    };
    headers.remove(header::ACCEPT);
    let mut request = Request::new(Body::empty());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    let Ok(response) = native::routes(Arc::clone(site), Port::Clients).oneshot(request).await;
    let (head, body) = response.into_parts();
    // Nothing of it comes later: it is in memory as a whole.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return send_refusal(client, to, &Fault::internal("an answer broke off").into()).await;
    };
    let request = head.headers.get(call_ids::REQUEST).and_then(|id| id.to_str().ok());
    send(client, to, (STATUS, head.status.as_str()), request, bytes).await;
}

/// The method and the path of what may be asked so.
fn read(asked: &str) -> Option<(Method, Uri)> {
    let (method, path) = asked.trim().split_once(' ')?;
    let uri: Uri = path.parse().ok()?;
    let parts: Vec<&str> = uri.path().split('/').collect();
    let method = match (method, &parts[..]) {
        ("GET", ["", "requests"]) => Method::GET,
        ("GET", ["", "requests", id]) if !id.is_empty() => Method::GET,
        ("DELETE", ["", "requests", id]) if !id.is_empty() => Method::DELETE,
        ("POST", ["", "requests", id, "retry"]) if !id.is_empty() => Method::POST,
        _ => return None,
    };
    Some((method, uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_durable_requests_are_asked_for_so() {
        for right in ["GET /requests", "GET /requests?limit=7", "GET /requests/a", "DELETE /requests/a"] {
            let (method, uri) = read(right).unwrap();
            assert_eq!(format!("{method} {uri}"), right);
        }
        assert_eq!(read("POST /requests/a/retry").unwrap().0, Method::POST);
        for wrong in [
            "",
            "GET",
            "GET /",
            "POST /",
            "GET /metrics",
            "GET /requests/",
            "GET /requests/a/b",
            "DELETE /requests",
            "POST /requests/a",
            "get /requests",
            "GET http://a/metrics",
            "PUT /requests/a",
            "GET  /requests",
        ] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }
}
