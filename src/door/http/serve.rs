//! Accepts connections and serves each, within limits, until told to stop.

use super::HttpLimits;
use super::stall::Stalling;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// How long to wait after the system had no room for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    let stream = TokioIo::new(Stalling::new(stream, limits.write_timeout));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .serve_connection(stream, TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
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
