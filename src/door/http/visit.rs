//! One request and its answer on a connection: what it holds, and until when.
//!
//! The deadline of a request ends the delivery of its answer too: a client that takes nothing, be it by its socket or by its
//! HTTP/2 window, would hold a place among the requests at once for as long as it likes.

use super::roster::Seat;
use stageline_base::Fault;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long an answer's last bytes, which may say that the deadline has passed, have after it.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long what has no deadline may take once the server has been told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why a visit was ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overstayed {
    /// The head that had begun was not whole in time.
    Head,
    /// The answer was not delivered by its deadline.
    Answer,
    /// The server was told to stop.
    Stop,
}

/// See the module. On HTTP/1, one request after the other of the same connection; on HTTP/2 each stream has its own.
#[derive(Debug)]
pub(crate) struct Visit {
    seat: Option<Arc<Seat>>,
    stay: Mutex<Stay>,
    changed: Notify,
    /// Requests that have begun on an HTTP/1 connection, as its bytes and as its server tell them.
    announced: AtomicU64,
    begun: AtomicU64,
    /// The announced request that has a chunk larger than any body may be.
    too_large: AtomicU64,
    /// It is of a connection whose streams have visits of their own.
    left_to_streams: AtomicBool,
    /// The server has been told to stop.
    stopping: CancellationToken,
}

#[derive(Debug, Default)]
struct Stay {
    until: Option<Instant>,
    place: Option<OwnedSemaphorePermit>,
    serving: bool,
}

tokio::task_local! {
    static HERE: Arc<Visit>;
}

impl Default for Visit {
    /// On no connection.
    fn default() -> Self {
        Self::on(None)
    }
}

impl Visit {
    fn on(seat: Option<Arc<Seat>>) -> Self {
        Self {
            seat,
            stay: Mutex::default(),
            changed: Notify::new(),
            announced: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
            left_to_streams: AtomicBool::new(false),
            stopping: CancellationToken::new(),
        }
    }

    /// A visit on the connection that has `seat`.
    pub(super) fn new(seat: Arc<Seat>) -> Arc<Self> {
        Arc::new(Self::on(Some(seat)))
    }

    /// The visit that the running task [serves](attended), or one that belongs to no connection.
    pub(crate) fn current() -> Arc<Self> {
        HERE.try_with(Arc::clone).unwrap_or_default()
    }

    /// Its request holds `place` from now on, until its answer is delivered or `until`, whichever is first.
    ///
    /// # Errors
    /// `Overloaded` if all connections that may serve requests do.
    pub(crate) fn stays(&self, until: Instant, place: Option<OwnedSemaphorePermit>) -> Result<(), Fault> {
        let mut stay = self.lock();
        if !stay.serving {
            self.seat.as_ref().map_or(Ok(()), |seat| seat.serves())?;
        }
        *stay = Stay { until: Some(until), place, serving: true };
        drop(stay);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Another deadline than was thought.
    pub(crate) fn stays_until(&self, until: Instant) {
        self.lock().until = Some(until);
        self.changed.notify_waiters();
    }

    /// The answer is delivered, or nobody waits for it any more.
    pub(crate) fn ends(&self) {
        let stay = std::mem::take(&mut *self.lock());
        if let (true, Some(seat)) = (stay.serving, &self.seat) {
            seat.rests();
        }
        self.changed.notify_waiters();
    }

    /// A head begins to arrive, which must be whole `within` this time.
    pub(crate) fn head_begins(&self, within: Duration) {
        self.announced.fetch_add(1, Ordering::Relaxed);
        // While an answer is under way, that has its own deadline.
        let mut stay = self.lock();
        if !stay.serving {
            stay.until = Some(Instant::now() + within);
            drop(stay);
            self.changed.notify_waiters();
        }
    }

    /// The connection speaks HTTP/2: this visit ends nothing any more.
    pub(crate) fn leaves_it_to_streams(&self) {
        self.left_to_streams.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// A head is whole.
    pub(crate) fn request_begins(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.lock().until = None;
        self.changed.notify_waiters();
        if let Some(seat) = &self.seat {
            seat.moves();
        }
    }

    /// The newest request that its bytes announce has a chunk that is larger than any body may be.
    pub(crate) fn chunk_too_large(&self) {
        self.too_large.store(self.announced.load(Ordering::Relaxed), Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Resolves when the request that has begun turns out to have such a chunk.
    pub(crate) async fn too_large(&self) {
        loop {
            let changed = self.changed.notified();
            let begun = self.begun.load(Ordering::Relaxed);
            if begun > 0 && self.too_large.load(Ordering::Relaxed) == begun {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when the server is told to stop.
    pub(crate) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Resolves when the visit has lasted too long. The place is given back at the deadline.
    async fn overstays(&self, stop: &CancellationToken) -> Overstayed {
        let mut stopped = None;
        loop {
            let changed = self.changed.notified();
            if self.left_to_streams.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            let (until, serving) = {
                let stay = self.lock();
                (stay.until, stay.serving)
            };
            let end = match (until, serving) {
                (Some(until), true) => Some(until + LAST_WORDS),
                (Some(until), false) => Some(stopped.map_or(until, |stopped| until.min(stopped))),
                (None, _) => stopped,
            };
            let held = async {
                match until.filter(|until| serving && Instant::now() < *until) {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let over = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = stop.cancelled(), if stopped.is_none() => {
                    self.stopping.cancel();
                    stopped = Some(Instant::now() + STOP_GRACE);
                }
                () = held => drop(self.lock().place.take()),
                () = over => return match (until, serving) {
                    (_, true) => Overstayed::Answer,
                    (Some(_), false) if stopped.is_none() => Overstayed::Head,
                    _ => Overstayed::Stop,
                },
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stay> {
        self.stay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.ends();
    }
}

/// Does `work`, which serves `visit`; drops it, with all that it holds, when that has lasted too long.
///
/// # Errors
/// Why it was dropped.
pub(crate) async fn attended<F: Future>(
    work: F,
    visit: Arc<Visit>,
    stop: CancellationToken,
) -> Result<F::Output, Overstayed> {
    let overstays = Arc::clone(&visit);
    tokio::select! {
        // The work first: what is done in time is done.
        biased;
        done = HERE.scope(visit, work) => Ok(done),
        overstayed = overstays.overstays(&stop) => Err(overstayed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_streams_outlasts_what_one_of_messages_may_take() {
        let ended = async |seconds: u64, stopped: bool, left: bool| {
            let (visit, stop) = (Arc::new(Visit::default()), CancellationToken::new());
            visit.stays_until(Instant::now() + Duration::from_secs(seconds));
            if stopped {
                stop.cancel();
            }
            if left {
                visit.leaves_it_to_streams();
            }
            let attending = attended(std::future::pending::<()>(), visit, stop);
            let ended = tokio::time::timeout(Duration::from_secs(3600), attending).await;
            ended.ok().map(|ended| ended.unwrap_err())
        };
        assert_eq!(ended(1, false, false).await, Some(Overstayed::Head));
        assert_eq!(ended(5, true, false).await, Some(Overstayed::Stop));
        assert_eq!((ended(1, false, true).await, ended(5, true, true).await), (None, None));
    }
}
