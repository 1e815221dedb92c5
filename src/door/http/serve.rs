//! Accepts connections and serves each, HTTP/1.1 or HTTP/2, within limits, until told to stop.

use super::delivery::Delivery;
use super::roster::{Roster, SPARE, Seat};
use super::stall::Stalling;
use super::visit::{Overstayed, Visit, attended};
use super::watched::Watched;
use crate::site::Limits;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use stageline_metrics::{Metrics, Shed};
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, error, warn};

/// How long to wait after the system had no room for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that were told to go and are not gone yet, at most.
const GOING: usize = 64;
/// Calls that one HTTP/2 connection may have at once; a client that opens more waits by itself.
const MAX_STREAMS: u32 = 256;
/// Largest head of an HTTP/2 call, in bytes.
const MAX_HEAD_BYTES: u32 = 16 << 10;
/// What an HTTP/1 connection keeps of what arrives and of what is to be sent, in bytes; no head is larger.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// What a client may send ahead, each call and each connection, in bytes.
const WINDOW_BYTES: (u32, u32) = (256 << 10, 1 << 20);
/// What waits to be sent of one call, in bytes.
const SEND_BYTES: usize = 64 << 10;
/// How often a connection that carries nothing is asked whether its client is there, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Descriptors that connections may take beside those that serve requests.
pub const SPARE_CONNECTIONS: usize = SPARE + GOING;

/// Serves `router` on `listener` until `shutdown`; then takes no more connections, lets those that are serving a request
/// finish it, and returns. Dropped, it cuts all connections.
///
/// A client that closes its side of a connection is gone, even if it would still read. Where there is no room for one more
/// connection, the one that has waited longest goes: see [`Limits::max_connections`]. Those that go or are refused are counted
/// in `metrics`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let mut connections = JoinSet::new();
    let roster = Roster::new(limits.max_connections, limits.max_connections_per_peer);
    let most = limits.max_connections.clamp(1, Semaphore::MAX_PERMITS - SPARE_CONNECTIONS) + SPARE_CONNECTIONS;
    let room = Arc::new(Semaphore::new(most));
    let common = Arc::new(Common { limits, metrics, stop: CancellationToken::new() });
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed. Those that were told to go leave soon.
            let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            Ok((listener.accept().await?, permit))
        };
        tokio::select! {
            // Stopping first: a flood of connections must not delay it.
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = accept => match accepted {
                Ok(((stream, peer), permit)) => match roster.seat(peer.ip()) {
                    Some(seat) => {
                        let serving = connection(stream, router.clone(), Arc::clone(&common), seat);
                        connections.spawn(async move {
                            serving.await;
                            drop(permit);
                        });
                    }
                    None => {
                        common.shed(Shed::PerPeer);
                        debug!(%peer, "a peer has too many connections: one is refused");
                    }
                },
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(listener);
    common.stop.cancel();
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// What all connections share.
struct Common {
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Common {
    fn shed(&self, why: Shed) {
        self.metrics.door.connections_shed[why as usize].inc();
    }

    /// What served a visit has been dropped, and its connection or stream with it.
    fn cut(&self, overstayed: Overstayed) {
        match overstayed {
            Overstayed::Head => self.shed(Shed::SlowHead),
            Overstayed::Answer => self.shed(Shed::NotReading),
            Overstayed::Stop => {}
        }
        debug!(?overstayed, "a client took no answer, or sent no request, in time: it is cut off");
    }
}

/// A defect cuts its own connection, no more.
fn report(ended: Result<(), JoinError>) {
    if let Err(defect) = ended {
        error!(%defect, "a connection broke");
    }
}

async fn connection(stream: TcpStream, router: Router, common: Arc<Common>, seat: Seat) {
    // Tokens are small and each is sent at once.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "connection refuses TCP_NODELAY");
    }
    let seat = Arc::new(seat);
    tokio::select! {
        // Whoever has to go goes, whatever arrives.
        biased;
        () = seat.shed() => {
            common.shed(Shed::NoRoom);
            debug!("a connection had to make room");
        }
        () = converse(stream, router, Arc::clone(&common), Arc::clone(&seat)) => {}
    }
}

async fn converse(stream: TcpStream, router: Router, common: Arc<Common>, seat: Arc<Seat>) {
    let Common { limits, metrics, stop } = &*common;
    let visit = Visit::new(Arc::clone(&seat));
    // By then something has come that says which HTTP it is.
    visit.stays_until(Instant::now() + limits.head_timeout);
    let stream = Stalling::new(stream, limits.write_timeout, Arc::clone(metrics));
    let stream = Watched::new(stream, Arc::clone(&visit), (limits.max_body_bytes, limits.head_timeout));
    let mut http = auto::Builder::new(Streams { seat, common: Arc::clone(&common) });
    http.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout).max_buf_size(MAX_BUFFER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .max_send_buf_size(SEND_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), answering(router)));
    let until_stopped = async {
        tokio::select! {
            ended = &mut serving => ended,
            () = stop.cancelled() => {
                // The calls in progress end.
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    };
    match attended(until_stopped, visit, stop.clone()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection ended"),
        Err(overstayed) => common.cut(overstayed),
    }
}

/// The service of a connection: each answer ends its visit.
fn answering(
    router: Router,
) -> impl Service<Request<Incoming>, Response = Response<Delivery>, Error = Infallible, Future: Send + 'static> {
    service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let visit = Visit::current();
            visit.request_begins();
            let by_window = request.version() == Version::HTTP_2;
            // Routing cannot fail.
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            Ok::<Response<Delivery>, Infallible>(response.map(|body| Delivery::new(body, visit, by_window)))
        }
    })
}

/// Runs each call of an HTTP/2 connection as a visit of its own. One that lasts too long is dropped, which resets its stream.
#[derive(Clone)]
struct Streams {
    seat: Arc<Seat>,
    common: Arc<Common>,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (visit, common) = (Visit::new(Arc::clone(&self.seat)), Arc::clone(&self.common));
        tokio::spawn(async move {
            if let Err(overstayed) = attended(stream, visit, common.stop.clone()).await {
                common.cut(overstayed);
            }
        });
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
