//! Carries out what the owner of one request decides.

use super::keeper::Keeper;
use super::logs::Unread;
use super::running::{Run, Running, Sole};
use super::stored::Stored;
use crate::Intake;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use stageline_core::Planted;
use stageline_core::durable::{Delivery, LoggedToken, Owner, OwnerAction, OwnerEvent, OwnerSetup, Refused};
use stageline_metrics::Kept as Event;
use stageline_store::{Job, Name, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Pause before a store that could not write is asked again, in milliseconds.
const RETRY_MS: u64 = 500;
/// Deaths after which a request runs alone: two owners may die of what is not its doing.
const ALONE_AFTER: u32 = 2;
/// How long a request waits to run alone, while others come to an end, before it is tried another time.
const TURN: Duration = Duration::from_secs(60);
/// Pause before somebody is told, where as many are being told as may.
const CROWDED: Duration = Duration::from_secs(2);
/// How long an owner hears nothing before it looks whether somebody at another door wants its request no more: who writes
/// hears of that by itself.
const LOOK: Duration = Duration::from_millis(400);
/// Beats in a lease: two may be lost.
const BEATS: u32 = 3;

/// A job, and with what it is worked on.
pub(super) struct Owning {
    pub(super) keeper: Arc<Keeper>,
    /// What runs it.
    pub(super) intake: Arc<dyn Intake>,
    pub(super) job: Job,
    /// The door is about to close: what fails then is another's to go on with.
    pub(super) closing: CancellationToken,
    /// It has closed.
    pub(super) release: CancellationToken,
    /// Its place among the requests that are owned here.
    pub(super) place: OwnedSemaphorePermit,
}

/// What an owner waits for.
type Doing = FuturesUnordered<BoxFuture<'static, Option<OwnerEvent>>>;

fn refused(error: &StoreError) -> Refused {
    match error {
        StoreError::Conflict { last } => Refused::EndsAt(*last),
        StoreError::Unknown => Refused::Unsure,
        StoreError::Crowded { .. }
        | StoreError::Full { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Held { .. }
        | StoreError::Unavailable { .. } => Refused::NotNow,
    }
}

impl Owning {
    /// Owns the job's request until nothing is left to do, or another is to.
    pub(super) async fn own_to_its_end(mut self) {
        let log = std::str::from_utf8(&self.job.bytes).ok().and_then(Name::parse);
        let Some(log) = log.filter(|log| log.kind() == "request") else {
            tracing::warn!(job = self.job.number, "a job names no request: it is dropped");
            // If it cannot be said now, it comes again.
            let _ = self.keeper.setup.store.done(&self.job.id).await;
            return;
        };
        let metrics = Arc::clone(&self.keeper.setup.metrics);
        self.keeper.count(Event::Owned);
        metrics.door.durable_owned.inc();
        let last = self.own(&log).await;
        metrics.door.durable_owned.dec();
        self.keeper.count(if last == OwnerAction::Done { Event::Ended } else { Event::HandedOn });
        let store = &self.keeper.setup.store;
        let said = match last {
            OwnerAction::Done => store.done(&self.job.id).await,
            OwnerAction::Again { after_ms } => store.again(&self.job.id, Duration::from_millis(after_ms)).await,
            _ => Ok(()),
        };
        if let Err(error) = said {
            // Its lease runs out: who takes it then finds that nothing is left to do, or does it.
            tracing::debug!(request = log.token(), %error, "the store did not hear what became of a job");
        }
    }

    /// Does what the owner wants; its last wish.
    async fn own(&mut self, log: &Name) -> OwnerAction {
        let beat = self.keeper.setup.store.lease() / BEATS;
        let setup = OwnerSetup {
            me: self.keeper.setup.me.clone(),
            job: self.job.number,
            delivery: self.job.deliveries,
            beat_ms: beat.as_millis() as u64,
            retry_ms: RETRY_MS,
            alone_after: ALONE_AFTER,
            planted: Planted::None,
        };
        let keeper = Arc::clone(&self.keeper);
        let clock = &keeper.clock;
        let (mut wishes, mut doing) = (Vec::new(), Doing::new());
        let (mut run, mut turn, mut sole) = (None, None, None);
        let mut owner = Owner::new(clock.now(), setup, &mut wishes);
        let (mut released, mut cancels) = (false, keeper.cancels.subscribe());
        loop {
            for wish in wishes.drain(..) {
                match wish {
                    OwnerAction::AwaitTurn => turn = Some(self.awaited_turn()),
                    OwnerAction::Run { generated } => run = self.run(&owner, generated, sole.take()),
                    OwnerAction::Stop => (run, turn, sole) = (None, None, None),
                    // Whoever waits for it follows the log.
                    OwnerAction::Show(_) => {}
                    OwnerAction::Done | OwnerAction::Again { .. } | OwnerAction::Leave => return wish,
                    OwnerAction::Tell => match Arc::clone(&self.keeper.telling).try_acquire_owned() {
                        Ok(telling) => {
                            // Whoever takes long to listen keeps no request from being run.
                            self.place = telling;
                            doing.extend(self.carried_out(log, OwnerAction::Tell));
                        }
                        Err(_) => {
                            let told = OwnerEvent::Told(Delivery::Again(clock.after(CROWDED)));
                            doing.push(async move { Some(told) }.boxed());
                        }
                    },
                    wish => doing.extend(self.carried_out(log, wish)),
                }
            }
            let event = tokio::select! {
                Some(event) = doing.next() => event,
                event = next_of(&mut run) => Some(event),
                got = got(&mut turn) => {
                    turn = None;
                    // Where others run for long, it is tried another time, or it would keep all that come meanwhile.
                    let event = if got.is_some() { OwnerEvent::Turn } else { OwnerEvent::Release };
                    sole = got;
                    Some(event)
                }
                cancelled = cancels.recv() => (!cancelled.is_ok_and(|other| other != *log)).then_some(OwnerEvent::Look),
                () = self.release.cancelled(), if !released => {
                    released = true;
                    Some(OwnerEvent::Release)
                }
                () = sleep(clock.until(owner.next_deadline())) => Some(OwnerEvent::Time),
                () = sleep(LOOK) => Some(OwnerEvent::Look),
            };
            if matches!(event, Some(OwnerEvent::RunEnded(_))) {
                run = None;
            }
            if let Some(event) = event {
                owner.on(clock.now(), event, &mut wishes);
            }
        }
    }

    /// What comes of a wish that takes time.
    fn carried_out(&self, log: &Name, wish: OwnerAction) -> Option<BoxFuture<'static, Option<OwnerEvent>>> {
        let (keeper, log) = (Arc::clone(&self.keeper), log.clone());
        Some(match wish {
            OwnerAction::Read { after } => async move { Some(read(&keeper, &log, after).await) }.boxed(),
            OwnerAction::Append { write, after, record } => async move {
                let written = keeper.logs.append(&log, after, &record).await;
                Some(OwnerEvent::Written { write, written: written.map_err(|error| refused(&error)) })
            }
            .boxed(),
            OwnerAction::Finish { write, after, record } => async move {
                let written = keeper.finished(&log, after, &record).await;
                Some(OwnerEvent::Written { write, written: written.map_err(|error| refused(&error)) })
            }
            .boxed(),
            OwnerAction::Hold => {
                let job = self.job.id.clone();
                async move {
                    // Not renewed, another takes it, and the log says so.
                    let _ = keeper.setup.store.hold(&job).await;
                    None
                }
                .boxed()
            }
            OwnerAction::Tell => {
                let intake = Arc::clone(&self.intake);
                async move { Some(OwnerEvent::Told(keeper.told(&log, &*intake).await)) }.boxed()
            }
            _ => return None,
        })
    }

    /// The right to run alone; nothing where others run for too long.
    fn awaited_turn(&self) -> BoxFuture<'static, Option<Sole>> {
        let turns = Arc::clone(&self.keeper.turns);
        async move { timeout(TURN, turns.write_owned()).await.ok() }.boxed()
    }

    /// The run of the request that `owner` owns, of which so much is generated already.
    fn run(&self, owner: &Owner, generated: Vec<LoggedToken>, sole: Option<Sole>) -> Option<Run> {
        let accepted = owner.life().accepted.clone()?;
        let stored = Stored::decode(&accepted.request);
        let (keeper, intake) = (Arc::clone(&self.keeper), Arc::clone(&self.intake));
        let (deadline, closing) = (accepted.deadline, self.closing.clone());
        Some(Run::begin(Running { keeper, intake, stored, deadline, generated, sole, closing }))
    }
}

/// The turn that is waited for; nothing while none is.
async fn got(turn: &mut Option<BoxFuture<'static, Option<Sole>>>) -> Option<Sole> {
    match turn {
        Some(turn) => turn.await,
        None => std::future::pending().await,
    }
}

/// What a run says next; nothing while there is none.
async fn next_of(run: &mut Option<Run>) -> OwnerEvent {
    match run {
        Some(run) => run.next().await,
        None => std::future::pending().await,
    }
}

async fn read(keeper: &Keeper, log: &Name, after: u64) -> OwnerEvent {
    match keeper.logs.read(log, after).await {
        Ok(entries) => OwnerEvent::Read(entries),
        Err(Unread::Store(_)) => OwnerEvent::NotRead,
        Err(error @ (Unread::Record(_) | Unread::Gone)) => {
            tracing::error!(request = log.token(), %error, "a request's log cannot be read");
            OwnerEvent::Unreadable
        }
    }
}
