//! A connection whose bytes are watched on their way in as far as it speaks HTTP/1, and which is not closed in its client's face.
//!
//! A connection that is closed while its client still sends is reset, and the answer with it. So where a message is unfinished,
//! what comes after the answer is read for a while and thrown away.

use super::framing::{Announced, Framing};
use super::visit::Visit;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long it is read after the answer, and how much of it, at most.
const LINGER: (Duration, usize) = (Duration::from_secs(3), 64 << 20);

/// See the module.
pub(super) struct Watched<S> {
    stream: S,
    framing: Framing,
    visit: Arc<Visit>,
    head_timeout: Duration,
    /// While it is read for nothing: until when, and how many bytes more.
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Watched<S> {
    /// Watches `stream`, which serves `visit`: no body may have more than `most` bytes, and a head must be whole in time.
    pub(super) fn new(stream: S, visit: Arc<Visit>, (most, head_timeout): (usize, Duration)) -> Self {
        Self { stream, framing: Framing::new(most), visit, head_timeout, lingering: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let Announced { heads, too_large, http2 } = self.framing.take(&buf.filled()[before..]);
        for _ in 0..heads {
            self.visit.head_begins(self.head_timeout);
        }
        if too_large {
            self.visit.chunk_too_large();
        }
        if http2 {
            self.visit.leaves_it_to_streams();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.framing.is_unfinished() {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let (until, left) = this.lingering.get_or_insert_with(|| (Box::pin(sleep(LINGER.0)), LINGER.1));
        let mut scrap = [0u8; 16 << 10];
        while until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() && buf.filled().len() < *left => *left -= buf.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
