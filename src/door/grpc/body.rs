//! The body of a call must arrive in time: a client that sends slowly would hold its place for ever.

use crate::door::http::Shared;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// Bounds how long the body of each call may take.
pub(super) async fn timed(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    // Reflection and health calls live as long as their client likes; they carry next to nothing.
    if !request.uri().path().starts_with("/stageline.v1.") {
        return next.run(request).await;
    }
    let limit = shared.state.limits.body_timeout;
    next.run(request.map(|body| within(limit, body))).await
}

/// The same body, which ends in a status where it breaks off or has not come within `limit`.
fn within(limit: Duration, body: Body) -> Body {
    let deadline = Instant::now() + limit;
    let chunks = stream::unfold(Some(body.into_data_stream()), move |chunks| async move {
        let mut chunks = chunks?;
        match timeout_at(deadline, chunks.next()).await {
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
            Ok(Some(Err(_))) => Some((Err(Status::invalid_argument("the request broke off: send it whole")), None)),
            Ok(None) => None,
            Err(_) => {
                let words = format!("the request took longer than {} s to arrive", limit.as_secs_f64());
                Some((Err(Status::invalid_argument(words)), None))
            }
        }
    });
    Body::from_stream(chunks)
}
