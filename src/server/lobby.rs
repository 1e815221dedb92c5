//! The door before it has opened, and after it has begun to close: whoever comes while the weights load waits here.

use futures::future::BoxFuture;
use stageline_base::{Fault, FaultClass, StageIndex, Task};
use stageline_core::{DirectOutput, DirectRun};
use stageline_door::stages::{Overview, Stages};
use stageline_door::text::TextModel;
use stageline_door::{Answer, Intake, Readiness, Request};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// See the module.
pub struct Lobby {
    /// The pipeline, before any of it runs.
    closed: Overview,
    door: watch::Sender<Door>,
    readiness: watch::Sender<Readiness>,
    waiting: AtomicUsize,
    /// How many may wait, and how long.
    most: (usize, Duration),
}

#[derive(Clone)]
enum Door {
    Loading,
    Open(Option<Arc<dyn Intake>>, Arc<dyn Stages>),
    /// It will never open.
    Failed(Fault),
}

/// One of those who wait.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lobby {
    /// The lobby of a pipeline that is `closed` and has yet to load. At most so many wait, and so long.
    pub fn new(closed: Overview, most: (usize, Duration)) -> Self {
        Self {
            closed,
            door: watch::Sender::new(Door::Loading),
            readiness: watch::Sender::new(Readiness::NotReady("loading: try again in some seconds".into())),
            waiting: AtomicUsize::new(0),
            most,
        }
    }

    /// Whether the stage takes work, for whoever asks.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Lets those who wait in, to `reception` if the stage has one.
    pub fn open(&self, reception: Option<Arc<dyn Intake>>, stages: Arc<dyn Stages>) {
        self.readiness.send_replace(Readiness::Ready);
        self.door.send_replace(Door::Open(reception, stages));
    }

    /// While its lease is not `held` the open stage is not ready for whoever asks, and takes requests all the same: they wait for the
    /// broker. Never resolves.
    pub async fn follow(&self, mut held: watch::Receiver<bool>) -> Infallible {
        loop {
            self.readiness.send_replace(match *held.borrow_and_update() {
                true => Readiness::Ready,
                false => {
                    Readiness::NotReady("the broker does not answer, or does not renew this replica's lease".into())
                }
            });
            if held.changed().await.is_err() {
                // The pump has ended, and the lease with it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Not ready any more for whoever asks; requests that come all the same are still taken.
    pub fn close(&self) {
        self.readiness.send_replace(Readiness::NotReady("this replica is shutting down".into()));
    }

    /// Sends those who wait away: the stage does not start.
    pub fn fail(&self, why: &str) {
        self.readiness.send_replace(Readiness::NotReady(why.into()));
        self.door.send_replace(Door::Failed(Fault::new(FaultClass::Unavailable, why)));
    }

    fn place(&self) -> Result<Place<'_>, Fault> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.waiting);
        match before < self.most.0 {
            true => Ok(place),
            false => Err(Fault::new(FaultClass::Overloaded, "the stage is loading and max_queue requests wait for it")),
        }
    }

    /// Waits until the door is open, or for as long as the request may.
    async fn wait_for_door(&self, request: &mut Request) -> Result<Arc<dyn Intake>, Fault> {
        if matches!(*self.door.borrow(), Door::Loading) {
            let longest = if request.patient { Duration::MAX } else { self.most.1 };
            let _place = if request.patient { None } else { Some(self.place()?) };
            let (came, longest) = (Instant::now(), request.deadline.unwrap_or(Duration::MAX).min(longest));
            tokio::time::timeout(longest, self.loaded()).await.map_err(|_| still_loading())?;
            request.deadline = request.deadline.map(|deadline| deadline.saturating_sub(came.elapsed()));
        }
        self.reception()
    }

    /// Resolves when the door is open, or will never be.
    async fn loaded(&self) {
        // It fails only when this is gone.
        let _ = self.door.subscribe().wait_for(|door| !matches!(door, Door::Loading)).await;
    }

    fn reception(&self) -> Result<Arc<dyn Intake>, Fault> {
        match &*self.door.borrow() {
            Door::Open(Some(reception), _) => Ok(reception.clone()),
            Door::Failed(fault) => Err(fault.clone()),
            _ => Err(still_loading()),
        }
    }
}

impl Intake for Lobby {
    fn submit(&self, mut request: Request) -> BoxFuture<'_, Result<Answer, Fault>> {
        Box::pin(async move {
            let reception = self.wait_for_door(&mut request).await?;
            reception.submit(request).await
        })
    }

    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async {
            match self.reception() {
                Ok(reception) => reception.check(request).await,
                // Before there is a model, all that is known is what every model takes.
                Err(_) => stageline_door::check::check(request),
            }
        })
    }

    fn task(&self) -> Task {
        self.closed.task
    }

    fn text(&self) -> BoxFuture<'_, Result<Option<Arc<TextModel>>, Fault>> {
        Box::pin(async {
            self.loaded().await;
            self.reception()?.text().await
        })
    }
}

impl Stages for Lobby {
    fn run(&self, stage: Option<StageIndex>, run: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
        let door = self.door.borrow().clone();
        Box::pin(async move {
            match door {
                Door::Open(_, access) => access.run(stage, run).await,
                _ => Err(still_loading()),
            }
        })
    }

    fn overview(&self) -> Overview {
        match &*self.door.borrow() {
            Door::Open(_, access) => access.overview(),
            _ => self.closed.clone(),
        }
    }
}

fn still_loading() -> Fault {
    Fault::new(FaultClass::Unavailable, "the stage is still loading: try again in some seconds")
}

#[cfg(test)]
mod tests {
    use super::*;
    use stageline_door::Input;

    /// Refuses all, so that whoever got here can be told.
    struct Here;

    impl Intake for Here {
        fn submit(&self, request: Request) -> BoxFuture<'_, Result<Answer, Fault>> {
            Box::pin(std::future::ready(Err(Fault::invalid(format!("got {}", request.call_id)))))
        }

        fn task(&self) -> Task {
            Task::GENERATE
        }
    }

    impl Stages for Here {
        fn run(&self, _: Option<StageIndex>, _: DirectRun) -> BoxFuture<'_, Result<DirectOutput, Fault>> {
            Box::pin(std::future::ready(Err(still_loading())))
        }

        fn overview(&self) -> Overview {
            Overview::default()
        }
    }

    fn lobby(most: usize, patience: Duration) -> Lobby {
        Lobby::new(Overview::default(), (most, patience))
    }

    fn request() -> Request {
        Request::new("it", Input::Text("x".into()))
    }

    #[tokio::test]
    async fn who_comes_while_it_loads_waits_and_gets_in() {
        let lobby = lobby(1, Duration::from_secs(60));
        let mut first = lobby.submit(request());
        assert!(futures::poll!(&mut first).is_pending());
        let second = lobby.submit(request()).await.unwrap_err();
        assert_eq!(second.class, FaultClass::Overloaded, "{second}");
        lobby.open(Some(Arc::new(Here)), Arc::new(Here));
        assert_eq!(first.await.unwrap_err().message, "got it");
        assert_eq!(
            lobby.submit(request()).await.unwrap_err().message,
            "got it",
            "its place is free, and none is needed"
        );
    }

    #[tokio::test]
    async fn without_its_lease_it_is_not_ready_and_takes_requests_all_the_same() {
        let lobby = lobby(1, Duration::from_secs(60));
        let (lease, held) = watch::channel(true);
        let readiness = lobby.readiness();
        assert!(matches!(&*readiness.borrow(), Readiness::NotReady(why) if why.contains("loading")));
        lobby.open(Some(Arc::new(Here)), Arc::new(Here));
        let mut following = std::pin::pin!(lobby.follow(held));
        assert!(futures::poll!(&mut following).is_pending());
        assert_eq!(*readiness.borrow(), Readiness::Ready);
        lease.send_replace(false);
        assert!(futures::poll!(&mut following).is_pending());
        assert!(matches!(&*readiness.borrow(), Readiness::NotReady(why) if why.contains("broker")));
        assert_eq!(lobby.submit(request()).await.unwrap_err().message, "got it");
        lease.send_replace(true);
        assert!(futures::poll!(&mut following).is_pending());
        assert_eq!(*readiness.borrow(), Readiness::Ready);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_it_may() {
        let lobby = lobby(2, Duration::from_secs(30));
        let came = tokio::time::Instant::now();
        let hurried = Request { deadline: Some(Duration::from_secs(2)), ..request() };
        let (first, second) = tokio::join!(lobby.submit(request()), lobby.submit(hurried));
        assert_eq!([first, second].map(|outcome| outcome.unwrap_err().class), [FaultClass::Unavailable; 2]);
        assert_eq!(came.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn a_stage_that_does_not_start_sends_them_away() {
        let lobby = lobby(1, Duration::from_secs(60));
        let mut waiting = lobby.submit(request());
        assert!(futures::poll!(&mut waiting).is_pending());
        lobby.fail("it does not start");
        assert_eq!(waiting.await.unwrap_err().message, "it does not start");
        assert_eq!(lobby.submit(request()).await.unwrap_err().message, "it does not start");
    }
}
