//! Carries out what the owner of one run decides.

use super::keeper::Keeper;
use super::logs::Unread;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use stageline_core::durable::Wall;
use stageline_flow::run::{
    CallOutcome, Calling, Datum, Delivery, FailureClass, Key, Outcome, Planted, Refused, Run, RunAction, RunEvent,
    RunSetup,
};
use stageline_store::{Job, Name, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Pause before a store that could not write is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// A run that has nothing to do for so long is let go of.
const PARK: Duration = Duration::from_secs(2);
/// Engines in a row that may end with a run that does not get on. Most die of something else, and with many runs in hand.
const DEATHS: u32 = 10;
/// Pause before somebody is told, where as many are being told as may.
const CROWDED: Duration = Duration::from_secs(2);
/// Beats in a lease: two may be lost.
const BEATS: u32 = 3;

/// A job, and with what it is worked on.
pub(crate) struct Owning {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) job: Job,
    /// The engine is about to end.
    pub(crate) release: CancellationToken,
    /// Its place among the runs that are owned here.
    pub(crate) place: OwnedSemaphorePermit,
}

/// What an owner waits for.
type Doing = FuturesUnordered<BoxFuture<'static, Option<RunEvent>>>;

fn refused(error: &StoreError) -> Refused {
    match error {
        StoreError::Conflict { last } => Refused::EndsAt(*last),
        StoreError::Unknown => Refused::Unsure,
        StoreError::Crowded { .. }
        | StoreError::Held { .. }
        | StoreError::Full { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Unavailable { .. } => Refused::NotNow,
    }
}

impl Owning {
    /// Owns the job's run until nothing is left to do, or another is to.
    pub(crate) async fn own_to_its_end(self) {
        let log = std::str::from_utf8(&self.job.bytes).ok().and_then(Name::parse);
        let store = Arc::clone(&self.keeper.setup.store);
        let Some(log) = log.filter(|log| log.kind() == "run") else {
            tracing::warn!(job = self.job.number, "a job names no run: it is dropped");
            // If it cannot be said now, it comes again.
            let _ = store.done(&self.job.id).await;
            return;
        };
        let hears = self.keeper.hears(&log);
        let last = self.own(&log, &hears).await;
        self.keeper.hears_no_more(&log);
        let said = match last {
            RunAction::Done => store.done(&self.job.id).await,
            RunAction::Again { after } => store.again(&self.job.id, after).await,
            _ => Ok(()),
        };
        drop(self.place);
        if let Err(error) = said {
            // Its lease runs out: who takes it then finds that nothing is left to do, or does it.
            tracing::debug!(run = log.token(), %error, "the store did not hear what became of a job");
        }
    }

    /// Does what the owner wants; its last wish.
    async fn own(&self, log: &Name, hears: &Notify) -> RunAction {
        let keeper = &self.keeper;
        let setup = RunSetup {
            me: keeper.setup.me.to_string(),
            run: log.token().to_owned(),
            job: self.job.number,
            delivery: self.job.deliveries,
            beat: keeper.setup.store.lease() / BEATS,
            retry: RETRY,
            park: PARK,
            deaths: DEATHS,
            planted: Planted::None,
        };
        let clock = &keeper.clock;
        let (mut wishes, mut doing, mut calls) = (Vec::new(), Doing::new(), HashMap::<Key, CancellationToken>::new());
        let mut run = Run::new(clock.now(), setup, &mut wishes);
        let mut released = false;
        loop {
            for wish in wishes.drain(..) {
                match wish {
                    RunAction::Done | RunAction::Again { .. } | RunAction::Leave => {
                        calls.into_values().for_each(|call| call.cancel());
                        return wish;
                    }
                    RunAction::Call { key, call } => {
                        let stop = CancellationToken::new();
                        calls.insert(key.clone(), stop.clone());
                        doing.push(called(Arc::clone(keeper), log.clone(), (key, *call), stop));
                    }
                    RunAction::Abort { key } => {
                        if let Some(call) = calls.remove(&key) {
                            call.cancel();
                        }
                    }
                    RunAction::Tell => doing.push(told(Arc::clone(keeper), log.clone())),
                    wish => doing.extend(self.carried_out(log, wish)),
                }
            }
            let event = tokio::select! {
                Some(event) = doing.next() => event,
                () = hears.notified() => Some(RunEvent::Nudged),
                () = self.release.cancelled(), if !released => {
                    released = true;
                    Some(RunEvent::Release)
                }
                () = sleep(clock.until(run.next_deadline())) => Some(RunEvent::Time),
            };
            if let Some(event) = event {
                run.on(clock.now(), event, &mut wishes);
            }
        }
    }

    /// What comes of a wish that takes time.
    fn carried_out(&self, log: &Name, wish: RunAction) -> Option<BoxFuture<'static, Option<RunEvent>>> {
        let (keeper, log) = (Arc::clone(&self.keeper), log.clone());
        Some(match wish {
            RunAction::Read { after } => async move { Some(read(&keeper, &log, after).await) }.boxed(),
            RunAction::Define(digest) => async move {
                loop {
                    match keeper.defined(&digest).await {
                        Ok(file) => return Some(RunEvent::Defined(file)),
                        Err(error) => tracing::debug!(run = log.token(), %error, "a flow file cannot be read now"),
                    }
                    sleep(RETRY).await;
                }
            }
            .boxed(),
            RunAction::Fetch(blob) => async move {
                loop {
                    match keeper.blob(&blob).await {
                        Ok(bytes) => {
                            let datum = bytes.map(|bytes| Datum::of_body(&blob.content_type, &bytes));
                            return Some(RunEvent::Fetched(blob, datum));
                        }
                        Err(error) => tracing::debug!(run = log.token(), %error, "a value cannot be read now"),
                    }
                    sleep(RETRY).await;
                }
            }
            .boxed(),
            RunAction::Append { write, after, record } => async move {
                let written = keeper.logs.append(&log, after, &record).await;
                Some(RunEvent::Written { write, written: written.map_err(|error| refused(&error)) })
            }
            .boxed(),
            RunAction::Finish { write, after, record } => async move {
                let written = keeper.finished(&log, after, &record).await;
                Some(RunEvent::Written { write, written: written.map_err(|error| refused(&error)) })
            }
            .boxed(),
            RunAction::Hold => {
                let job = self.job.id.clone();
                async move {
                    // Not renewed, another takes it, and the log says so.
                    let _ = keeper.setup.store.hold(&job).await;
                    None
                }
                .boxed()
            }
            _ => return None,
        })
    }
}

/// What comes of a call; nothing if it is stopped.
fn called(
    keeper: Arc<Keeper>,
    log: Name,
    (key, call): (Key, Calling),
    stop: CancellationToken,
) -> BoxFuture<'static, Option<RunEvent>> {
    async move {
        let attempt = call.attempt;
        tokio::select! {
            outcome = keeper.call(&log, call) => Some(RunEvent::Called { key, attempt, outcome }),
            () = stop.cancelled() => None,
        }
    }
    .boxed()
}

fn told(keeper: Arc<Keeper>, log: Name) -> BoxFuture<'static, Option<RunEvent>> {
    async move {
        let delivery = match Arc::clone(&keeper.telling).try_acquire_owned() {
            Ok(_telling) => keeper.told(&log).await,
            Err(_) => Delivery::Again(keeper.clock.after(CROWDED)),
        };
        Some(RunEvent::Told(delivery))
    }
    .boxed()
}

async fn read(keeper: &Keeper, log: &Name, after: u64) -> RunEvent {
    match keeper.logs.read(log, after).await {
        Ok(records) => RunEvent::Read { after, records },
        Err(Unread::Store(_)) => RunEvent::NotRead,
        Err(error @ (Unread::Record(_) | Unread::Gone)) => {
            tracing::error!(run = log.token(), %error, "a run's log cannot be read");
            RunEvent::Unreadable
        }
    }
}

impl Keeper {
    /// Makes a call, as soon as its target bears it.
    async fn call(&self, log: &Name, call: Calling) -> Outcome {
        let place = self.limits.place(&call.target, &call.limits).await;
        let (kind, body) = match self.body(&call.input).await {
            Ok(body) => body,
            Err(reason) => {
                let class = FailureClass::Value;
                return Err(CallOutcome { class, reason, retry_after: None, transient: false, counts: true });
            }
        };
        let answered = self.setup.caller.call(&call, (&kind, body)).await;
        place.answered(&answered);
        drop(place);
        let (kind, bytes) = answered?;
        let unkept = |fault: stageline_base::Fault| {
            let too_large = fault.class == stageline_base::FaultClass::TooLarge;
            let class = if too_large { FailureClass::TooLarge } else { FailureClass::Internal };
            CallOutcome { class, reason: fault.message, retry_after: None, transient: !too_large, counts: false }
        };
        self.kept(log.token(), &kind, bytes).await.map_err(unkept)
    }

    /// The Content-Type and the bytes of a value.
    ///
    /// # Errors
    /// Words that say why it cannot be had.
    pub(crate) async fn body(&self, datum: &Datum) -> Result<(String, bytes::Bytes), String> {
        const JSON: &str = "application/json";
        Ok(match datum {
            Datum::Nothing => (String::new(), bytes::Bytes::new()),
            // A text is sent as it is: who takes text is no less served than who takes JSON.
            Datum::Json(json) => match json.value() {
                serde_json::Value::String(text) => ("text/plain; charset=utf-8".to_owned(), text.into()),
                _ => (JSON.to_owned(), bytes::Bytes::copy_from_slice(json.text().as_bytes())),
            },
            Datum::Body { content_type, bytes } => (content_type.clone(), bytes::Bytes::copy_from_slice(bytes)),
            Datum::Blob(blob) => match self.blob(blob).await {
                Ok(Some(bytes)) => (blob.content_type.clone(), bytes),
                Ok(None) => return Err("a value that was kept beside the log is gone".to_owned()),
                Err(error) => return Err(error.to_string()),
            },
        })
    }

    pub(crate) async fn finished(
        &self,
        log: &Name,
        after: u64,
        record: &[stageline_flow::run::Moment],
    ) -> Result<u64, StoreError> {
        let retain = record.first().and_then(|moment| match moment.said.first() {
            Some(stageline_flow::run::Logged::Accepted(accepted)) => Some(accepted.retain_s),
            _ => None,
        });
        self.logs.finish(log, after, record, Duration::from_secs(retain.unwrap_or(3600).max(1))).await
    }

    /// The time now.
    pub fn now(&self) -> Wall {
        self.clock.now()
    }
}
