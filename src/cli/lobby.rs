//! The door before it has opened, and after it has begun to close: whoever comes while the weights load waits here.

use crate::base::{Fault, FaultClass, StageIndex};
use crate::core::{DirectOutput, DirectRun};
use crate::door::stages::{Overview, Stages};
use crate::door::{Answer, Intake, Readiness, Request};
use crate::server::{Pipeline, Serving, StageAccess};
use crate::shard::write::hex;
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// See the module.
pub struct Lobby {
    embeds: bool,
    /// The pipeline, before any of it runs.
    closed: Overview,
    door: watch::Sender<Door>,
    readiness: Mutex<Readiness>,
    waiting: AtomicUsize,
    /// How many may wait, and how long.
    most: (usize, Duration),
}

#[derive(Clone)]
enum Door {
    Loading,
    Open(Option<Arc<dyn Intake>>, Arc<StageAccess>),
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
    /// The lobby of `pipeline`, all of which has yet to load.
    pub fn new(pipeline: &Pipeline) -> Self {
        let (manifest, cut) = (hex(&pipeline.digest), pipeline.cut.clone());
        let (embeds, vocab) = (pipeline.embeds, pipeline.vocab);
        Self {
            embeds,
            closed: Overview { manifest, cut, embeds, vocab, ..Overview::default() },
            door: watch::Sender::new(Door::Loading),
            readiness: Mutex::new(Readiness::NotReady("loading: try again in some seconds".into())),
            waiting: AtomicUsize::new(0),
            most: (pipeline.options.max_queue, pipeline.options.stage_timeout),
        }
    }

    /// Lets those who wait in.
    pub fn open(&self, serving: &Serving) {
        let reception = serving.reception.clone().map(|reception| reception as Arc<dyn Intake>);
        self.set(Readiness::Ready);
        self.door.send_replace(Door::Open(reception, serving.access.clone()));
    }

    /// Not ready any more for whoever asks; requests that come all the same are still taken.
    pub fn close(&self) {
        self.set(Readiness::NotReady("this replica is shutting down".into()));
    }

    /// Sends those who wait away: the stage does not start.
    pub fn fail(&self, why: &str) {
        self.set(Readiness::NotReady(why.into()));
        self.door.send_replace(Door::Failed(Fault::new(FaultClass::Unavailable, why)));
    }

    fn set(&self, readiness: Readiness) {
        *self.readiness.lock().unwrap_or_else(PoisonError::into_inner) = readiness;
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
        let mut door = self.door.subscribe();
        if matches!(*door.borrow_and_update(), Door::Loading) {
            let _place = self.place()?;
            let (came, longest) = (Instant::now(), request.deadline.unwrap_or(Duration::MAX).min(self.most.1));
            let opened = tokio::time::timeout(longest, door.wait_for(|door| !matches!(door, Door::Loading))).await;
            opened.map_err(|_| still_loading())?.map_err(|_| still_loading())?;
            request.deadline = request.deadline.map(|deadline| deadline.saturating_sub(came.elapsed()));
        }
        match &*door.borrow() {
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

    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn embeds(&self) -> bool {
        self.embeds
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
