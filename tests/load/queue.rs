//! A server whose truth is known: one queue, one place to be served, always the same time; it stamps each end itself.

use futures::future::BoxFuture;
use stageline_load::pacer::wait_until;
use stageline_load::{Ask, Failure, Progress, Target};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Requests that wait at most.
const ROOM: usize = 1 << 20;

/// Where the times of an answer come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stamps {
    /// The server's own: the harness only adds up, so nothing hangs on how busy the machine is.
    Server,
    /// The harness's, as in any run.
    #[allow(dead_code, reason = "the bench measures with them; a test would hang on the machine")]
    Harness,
}

type Job = (u64, oneshot::Sender<Instant>);

/// See the module.
pub struct Queue {
    jobs: SyncSender<Job>,
    stamps: Stamps,
    /// Number and end of each request, in the order of their ends.
    ends: Arc<Mutex<Vec<(u64, Instant)>>>,
}

impl Queue {
    /// One that takes `service` for a request.
    pub fn start(service: Duration, stamps: Stamps) -> Arc<Self> {
        let (jobs, queued) = sync_channel(ROOM);
        let ends = Arc::new(Mutex::new(Vec::new()));
        let kept = ends.clone();
        std::thread::spawn(move || serve(&queued, service, &kept));
        Arc::new(Self { jobs, stamps, ends })
    }

    /// When each request ended, by number, after `begun`.
    pub fn ends(&self, begun: Instant) -> Vec<(u64, Duration)> {
        let mut ends: Vec<_> = self.ends.lock().unwrap().iter().map(|(index, at)| (*index, *at - begun)).collect();
        ends.sort();
        ends
    }
}

fn serve(queued: &Receiver<Job>, service: Duration, ends: &Mutex<Vec<(u64, Instant)>>) {
    while let Ok((index, reply)) = queued.recv() {
        wait_until(Instant::now() + service);
        let end = Instant::now();
        ends.lock().unwrap().push((index, end));
        // A request that was given up has nobody to tell.
        let _ = reply.send(end);
    }
}

impl Target for Queue {
    fn send<'a>(&'a self, ask: &'a Ask, progress: &'a mut Progress) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let (reply, end) = oneshot::channel();
            self.jobs.try_send((ask.index, reply)).expect("room for every request of the test");
            let end = end.await.expect("the server answers all");
            if self.stamps == Stamps::Server {
                progress.end_at(end);
            }
            progress.whole(1);
            Ok(())
        })
    }
}

/// What each request's latency must at least be, by Lindley's recursion: it begins when it arrives or when the one before it
/// ends, whichever is later. `arrivals` rise.
pub fn lindley(arrivals: &[Duration], service: Duration) -> Vec<Duration> {
    let mut free = Duration::ZERO;
    let latency = arrivals.iter().map(|at| {
        free = free.max(*at) + service;
        free - *at
    });
    latency.collect()
}

/// The value that `share` of `times` do not exceed.
pub fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort();
    times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1]
}
