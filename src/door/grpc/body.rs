//! The body of a call must arrive in time: a client that sends slowly would hold its place for ever.

use crate::door::http::Shared;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// Bounds how long the body of each call may take.
pub(super) async fn timed(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let limit = shared.state.limits.body_timeout;
    // Reflection and health calls live as long as their client likes; they carry next to nothing.
    if !request.uri().path().starts_with("/stageline.v1.") {
        return next.run(request).await;
    }
    let seconds = limit.as_secs_f64();
    next.run(request.map(|body| Body::new(Timed { body, timer: Box::pin(sleep(limit)), seconds }))).await
}

struct Timed {
    body: Body,
    timer: Pin<Box<Sleep>>,
    seconds: f64,
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let broken = |_| Status::invalid_argument("the request broke off: send it whole");
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => {
                let words = format!("the request took longer than {} s to arrive", self.seconds);
                Poll::Ready(Some(Err(Status::invalid_argument(words))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
