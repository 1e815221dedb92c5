//! Which HTTP a client speaks: told by its first bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How an HTTP/2 connection without TLS begins (RFC 9113, section 3.4). No method of HTTP/1.1 begins so.
const PREFACE: &[u8; 4] = b"PRI ";

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection of which something has been read.
pub(super) struct Opened {
    stream: TcpStream,
    first: [u8; PREFACE.len()],
    /// Of `first`, what is still to be read again.
    unread: std::ops::Range<usize>,
}

/// Reads as much as shows the protocol; `None` if the client sends nothing within `patience`, or leaves.
pub(super) async fn opening(mut stream: TcpStream, patience: Duration) -> Option<(Protocol, Opened)> {
    let mut first = [0; PREFACE.len()];
    let mut read = 0;
    let reading = async {
        while read < first.len() && first[..read] == PREFACE[..read] {
            match stream.read(&mut first[read..]).await {
                Ok(0) | Err(_) => break,
                Ok(bytes) => read += bytes,
            }
        }
    };
    timeout(patience, reading).await.ok()?;
    let protocol = if first == *PREFACE { Protocol::Http2 } else { Protocol::Http1 };
    (read > 0).then_some((protocol, Opened { stream, first, unread: 0..read }))
}

impl AsyncRead for Opened {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = self.unread.len().min(buf.remaining());
        if bytes == 0 {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let from = self.unread.start;
        buf.put_slice(&self.first[from..from + bytes]);
        self.unread.start += bytes;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Opened {
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
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
