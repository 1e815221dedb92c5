//! How runs stand: one, all, and one as it goes on.

use super::keeper::{ADMIN, Keeper, TRIES, store_fault, unread_fault};
use super::logs::{Entry, Unread};
use futures::StreamExt;
use futures::stream::BoxStream;
use stageline_base::prng::Prng;
use stageline_base::{Fault, FaultClass};
use stageline_core::durable::Wall;
use stageline_flow::definition::File;
use stageline_flow::run::{Ended, Logged, Moment, Order, Ordering, State};
use stageline_store::{Name, StoreError};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Logs that are looked at together.
const PAGE: usize = 64;
/// Pause before a log that could not be followed is followed again.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two looks for runs that are nobody's, and how long nothing may have happened to one that is.
const SWEEP: Duration = Duration::from_secs(60);
const FORGOTTEN: Duration = Duration::from_secs(30);

/// How a run stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its log, whose token is its id.
    pub log: Name,
    /// What that comes to.
    pub state: State,
    /// Its flow's file.
    pub file: Arc<File>,
}

impl Standing {
    /// What has become of it, in a word.
    pub fn status(&self) -> &'static str {
        match &self.state.ended {
            Some(Ended::Succeeded(_)) => "succeeded",
            Some(Ended::Failed(_)) => "failed",
            Some(Ended::Cancelled) => "cancelled",
            None if self.state.cancelled.is_some() => "cancelling",
            None if self.state.failing.is_some() => "failing",
            None if self.state.paused.is_some() => "paused",
            None if self.state.owner.is_some() => "running",
            None => "waiting",
        }
    }
}

impl Keeper {
    /// The run of that id, if it is `principal`'s.
    ///
    /// # Errors
    /// `Unavailable` if the store does not say, `Internal` for what cannot be read.
    pub async fn look(&self, principal: &str, id: &str) -> Result<Option<Standing>, Fault> {
        let Some(log) = Name::new("run", id) else { return Ok(None) };
        let Some((state, file)) = self.state(&log).await? else { return Ok(None) };
        let owner = state.accepted.as_ref().map_or("", |accepted| &accepted.principal);
        Ok((principal == owner || principal == ADMIN).then_some(Standing { log, state, file }))
    }

    /// What is said of a run, behind `after` and as it comes, with where it stands. Ends with the run.
    pub fn follow(self: &Arc<Self>, log: &Name, after: u64) -> BoxStream<'static, Result<(u64, Vec<Moment>), Fault>> {
        let begun = (Arc::clone(self), log.clone(), after, None::<BoxStream<'static, Result<Entry, Unread>>>, false);
        let followed = futures::stream::unfold(begun, |(keeper, log, mut last, mut records, over)| async move {
            if over {
                return None;
            }
            loop {
                let stream = records.get_or_insert_with(|| keeper.logs.follow(&log, last));
                match stream.next().await {
                    Some(Ok((position, record))) => {
                        last = position;
                        let over = Logged::is_settled(&record);
                        return Some((Ok((position, record)), (keeper, log, last, records, over)));
                    }
                    Some(Err(Unread::Store(_))) | None => {
                        sleep(AGAIN).await;
                        records = None;
                    }
                    Some(Err(error)) => {
                        let fault = unread_fault(&error);
                        return Some((Err(fault), (keeper, log, last, records, true)));
                    }
                }
            }
        });
        followed.boxed()
    }

    /// What `tell` says of the newest `most` runs that `principal` may see and that it says something of, newest first.
    ///
    /// # Errors
    /// `Overloaded` while they are listed for another, `Unavailable` if the store does not say.
    pub async fn list<T>(
        &self,
        principal: &str,
        most: usize,
        tell: impl Fn(&Standing) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        let busy = |_| Fault::new(FaultClass::Overloaded, "the runs are being listed already: try again");
        let _turn = self.listing.try_lock().map_err(busy)?;
        let (mut newest, mut told) = (BinaryHeap::new(), HashMap::new());
        let mut last = None;
        loop {
            let page = self.setup.store.logs("run", last.as_ref(), PAGE).await.map_err(|error| store_fault(&error))?;
            let Some((end, _)) = page.last() else { break };
            last = Some(end.clone());
            for (log, _) in page {
                // One that cannot be read says so when it is asked for by itself.
                let Ok(Some(standing)) = self.look(principal, log.token()).await else { continue };
                let Some(said) = tell(&standing) else { continue };
                newest.push(Reverse((standing.state.began(), log.clone())));
                told.insert(log, said);
                if newest.len() > most
                    && let Some(Reverse((_, oldest))) = newest.pop()
                {
                    told.remove(&oldest);
                }
            }
        }
        Ok(newest.into_sorted_vec().into_iter().filter_map(|Reverse((_, log))| told.remove(&log)).collect())
    }

    /// Gives a run an order. `None` if there is no such run; else how it stood.
    ///
    /// # Errors
    /// `InvalidRequest`, with words, if it cannot be had; `Unavailable` if the store does not do it.
    pub async fn order(&self, principal: &str, id: &str, order: &Order) -> Result<Option<Standing>, Fault> {
        for _ in 0..TRIES * 10 {
            let Some(standing) = self.look(principal, id).await? else { return Ok(None) };
            let (log, state) = (&standing.log, &standing.state);
            let priority = self.priority(&standing);
            let (written, push) = match state.ordered_now(self.clock.now(), order.clone()) {
                Ordering::Needless => return Ok(Some(standing)),
                Ordering::Refused(words) => return Err(Fault::invalid(words)),
                Ordering::Append { record, push } => (self.logs.append(log, state.last, &record).await, push),
                Ordering::Renew { record } => (self.logs.renew(log, state.last, &record).await, true),
            };
            match written {
                Ok(_) => {
                    self.nudge(log);
                    if push {
                        // Without it, whoever looks for forgotten runs finds it.
                        self.push(log, priority).await.map_err(|error| store_fault(&error))?;
                    }
                    return Ok(Some(standing));
                }
                // Its owner was faster.
                Err(StoreError::Conflict { .. } | StoreError::Unknown) => {}
                Err(error) => return Err(store_fault(&error)),
            }
        }
        Err(store_fault(&StoreError::Unknown))
    }

    fn priority(&self, standing: &Standing) -> u8 {
        let flow = standing.state.accepted.as_ref().and_then(|accepted| standing.file.flows.get(&accepted.flow));
        flow.map_or(0, |flow| flow.priority)
    }

    /// Looks now and then, until `closing`, for runs that nobody has in hand and that should be: their job was lost with a broker's last
    /// moments, or whoever accepted them died before there was one.
    pub(crate) async fn sweep(self: Arc<Self>, closing: CancellationToken) {
        loop {
            // Not all engines at one moment.
            let wait = SWEEP.mul_f64(0.5 + Prng::new(self.draw()).unit());
            tokio::select! {
                () = sleep(wait) => {}
                () = closing.cancelled() => return,
            }
            if let Err(fault) = self.sweep_once().await {
                tracing::debug!(%fault, "nobody could look for forgotten runs");
            }
        }
    }

    async fn sweep_once(&self) -> Result<(), Fault> {
        let now = self.clock.now();
        let forgotten = |standing: &Standing| {
            let state = &standing.state;
            let since = state.history.last().map_or(Wall(0), |moment| moment.at);
            let is_quiet = since.0 + FORGOTTEN.as_millis() as u64 <= now.0;
            let is_due = state.is_due(now, FORGOTTEN);
            (is_quiet && is_due && state.delivered.is_none()).then(|| standing.clone())
        };
        for standing in self.list(ADMIN, usize::MAX, forgotten).await? {
            // One whose owner lives is held: nothing is said to it, and the job that is pushed is dropped by whoever takes it.
            if standing.state.owner.is_some() {
                continue;
            }
            let record = [Moment { at: now, said: vec![Logged::Requeued] }];
            if self.logs.append(&standing.log, standing.state.last, &record).await.is_ok() {
                tracing::warn!(run = standing.log.token(), "a run is nobody's: it is queued again");
                let _ = self.push(&standing.log, self.priority(&standing)).await;
            }
        }
        Ok(())
    }
}
