//! Accepts connections and serves each, HTTP/1.1 or HTTP/2, within limits, until told to stop.

use super::HttpLimits;
use super::opening::{Protocol, opening};
use super::stall::Stalling;
use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// How long to wait after the system had no room for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Calls that one HTTP/2 connection may have at once; a client that opens more waits by itself.
const MAX_STREAMS: u32 = 256;
/// Largest head of an HTTP/2 call, in bytes.
const MAX_HEAD_BYTES: u32 = 16 << 10;
/// What a client may send ahead, each call and each connection, in bytes.
const WINDOW_BYTES: (u32, u32) = (1 << 20, 4 << 20);
/// What waits to be sent of one call, in bytes.
const SEND_BYTES: usize = 64 << 10;
/// How often a connection that carries nothing is asked whether its client is there, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Serves `router` on `listener` until `shutdown`; then takes no more connections, lets those that are serving a request
/// finish it, and returns. Dropped, it cuts all connections.
///
/// A client that closes its side of a connection is gone, even if it would still read.
pub async fn serve(listener: TcpListener, router: Router, limits: HttpLimits, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(limits.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let stop = CancellationToken::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed, and there is always a permit to wait for.
            let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            Ok((listener.accept().await?.0, permit))
        };
        tokio::select! {
            // Stopping first: a flood of connections must not delay it.
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = accept => match accepted {
                Ok((stream, permit)) => {
                    let serving = connection(stream, router.clone(), limits.clone(), stop.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(listener);
    stop.cancel();
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// A defect cuts its own connection, no more.
fn report(ended: Result<(), JoinError>) {
    if let Err(defect) = ended {
        error!(%defect, "a connection broke");
    }
}

async fn connection(stream: TcpStream, router: Router, limits: HttpLimits, stop: CancellationToken) {
    // Tokens are small and each is sent at once.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "connection refuses TCP_NODELAY");
    }
    let Some((protocol, stream)) = opening(stream, limits.head_timeout).await else { return };
    let stream = TokioIo::new(Stalling::new(stream, limits.write_timeout));
    let service = TowerToHyperService::new(router);
    let ended = match protocol {
        Protocol::Http1 => {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout);
            let serving = http.serve_connection(stream, service);
            until_stopped(serving, &stop, |serving| serving.graceful_shutdown()).await
        }
        Protocol::Http2 => {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(MAX_HEAD_BYTES)
                .initial_stream_window_size(WINDOW_BYTES.0)
                .initial_connection_window_size(WINDOW_BYTES.1)
                .max_send_buf_size(SEND_BYTES)
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE);
            let serving = http.serve_connection(stream, service);
            until_stopped(serving, &stop, |serving| serving.graceful_shutdown()).await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// Serves to the end; told to stop, it lets the calls in progress end by `graceful`.
async fn until_stopped<C: Future>(serving: C, stop: &CancellationToken, graceful: impl Fn(Pin<&mut C>)) -> C::Output {
    let mut serving = pin!(serving);
    tokio::select! {
        ended = &mut serving => ended,
        () = stop.cancelled() => {
            graceful(serving.as_mut());
            serving.await
        }
    }
}

/// A connection that is gone before it was accepted is no trouble; a system that is out of something may have it later.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        warn!(%error, "cannot accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
