//! The body of an answer on its way to the client, whose end is known here only when the client has room for all of it.

use super::visit::Visit;
use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A body that ends its visit when it is dropped.
///
/// `by_window` says that it goes by a window: HTTP/2 takes a piece as soon as the client's window has room for its first byte, and the last piece could wait in the
/// connection for ever, after the answer seems delivered. So the last byte goes as a piece of its own: it is taken when there is
/// room for all before it.
pub(super) struct Delivery {
    body: Body,
    visit: Arc<Visit>,
    /// The last byte, whose piece has been taken but for it.
    last: Option<Bytes>,
    /// What follows that piece, as far as it was there at once.
    ahead: Option<Frame<Bytes>>,
    ended: bool,
    by_window: bool,
}

impl Delivery {
    pub(super) fn new(body: Body, visit: Arc<Visit>, by_window: bool) -> Self {
        let ended = body.is_end_stream();
        Self { body, visit, last: None, ahead: None, ended, by_window }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(frame) = self.ahead.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.ended = matches!(&polled, Poll::Ready(None | Some(Err(_))));
        polled
    }
}

impl http_body::Body for Delivery {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(byte) = self.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(byte))));
        }
        let piece = match self.poll_body(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(piece) => piece,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            },
            other => return other,
        };
        if !self.by_window {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        // What follows at once says whether this is the last.
        let last = match self.poll_body(cx) {
            Poll::Pending => false,
            Poll::Ready(None) => true,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Ok(frame))) => {
                let last = frame.is_trailers();
                self.ahead = Some(frame);
                last
            }
        };
        let mut piece = piece;
        if last && piece.len() > 1 {
            self.last = Some(piece.split_off(piece.len() - 1));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.ahead.is_none() && (self.ended || !self.by_window && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.as_ref().and_then(|frame| frame.data_ref()).map_or(0, Bytes::len);
        let ahead = (self.last.as_ref().map_or(0, Bytes::len) + ahead) as u64;
        let mut hint = self.body.size_hint();
        hint.set_lower(hint.lower() + ahead);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.visit.ends();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::poll_fn;
    use futures::stream;
    use std::convert::Infallible;

    async fn pieces(body: Body) -> Vec<String> {
        let mut delivery = Delivery::new(body, Arc::default(), true);
        let mut pieces = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut delivery).poll_frame(cx)).await {
            pieces.push(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap());
        }
        assert!(delivery.is_end_stream());
        pieces
    }

    #[tokio::test]
    async fn only_the_last_byte_goes_alone() {
        assert_eq!(pieces(Body::from("whole")).await, ["whol", "e"]);
        assert_eq!(pieces(Body::from("x")).await, ["x"]);
        assert_eq!(pieces(Body::empty()).await, [""; 0]);
        let events = stream::iter(["one", "two"].map(Ok::<_, Infallible>));
        assert_eq!(pieces(Body::from_stream(events)).await, ["one", "tw", "o"]);
        assert_eq!(Delivery::new(Body::from("whole"), Arc::default(), true).size_hint().exact(), Some(5));
    }
}
