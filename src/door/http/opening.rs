//! Which HTTP a client speaks: told by its first bytes.

use std::io::Cursor;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, join};
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// How an HTTP/2 connection without TLS begins (RFC 9113, section 3.4). No message of HTTP/1.1 begins so.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Reads as much as shows the protocol, and gives it with the connection, from which it can be read again; `None` if the
/// client leaves.
///
/// # Errors
/// If it does not send that much within `patience`.
pub(super) async fn opening(
    mut stream: TcpStream,
    patience: Duration,
) -> Result<Option<(Protocol, impl AsyncRead + AsyncWrite + Send + Unpin)>, Elapsed> {
    let mut first = Vec::with_capacity(PREFACE.len());
    let reading = async {
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            match (&mut stream).take((PREFACE.len() - first.len()) as u64).read_buf(&mut first).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    timeout(patience, reading).await?;
    let protocol = if first == PREFACE { Protocol::Http2 } else { Protocol::Http1 };
    let sent_something = !first.is_empty();
    let (reader, writer) = stream.into_split();
    Ok(sent_something.then(|| (protocol, join(Cursor::new(first).chain(reader), writer))))
}
