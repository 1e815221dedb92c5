//! Hands jobs to owners, as they come.

use super::keeper::Keeper;
use super::owning::Owning;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Pause before a store that gave no job is asked again.
const AGAIN: Duration = Duration::from_secs(1);

impl Keeper {
    /// Owns runs as their jobs come, until `closing`; then has those that it owns go on, and at `release` lets go of them.
    pub async fn work(self: Arc<Self>, closing: CancellationToken, release: CancellationToken) {
        let mut loops = JoinSet::new();
        for priority in [1, 0] {
            // Of its own: whoever waits for a job of one holds a place, which the other would be short of.
            let (keeper, room) = (Arc::clone(&self), Arc::new(Semaphore::new(self.setup.at_once)));
            loops.spawn(keeper.take_jobs(priority, room, closing.clone(), release.clone()));
        }
        loops.spawn(Arc::clone(&self).sweep(closing.clone()));
        loops.spawn(Arc::clone(&self).keep_places(release.clone()));
        while let Some(ended) = loops.join_next().await {
            report(ended);
        }
    }

    async fn keep_places(self: Arc<Self>, release: CancellationToken) {
        tokio::select! {
            () = self.limits.keep() => {}
            () = release.cancelled() => {}
        }
    }

    async fn take_jobs(
        self: Arc<Self>,
        priority: u8,
        room: Arc<Semaphore>,
        closing: CancellationToken,
        release: CancellationToken,
    ) {
        let Some(queue) = Self::queue(priority) else { return };
        let (mut owning, mut was_away) = (JoinSet::new(), false);
        let next = || {
            let (room, keeper, queue) = (Arc::clone(&room), Arc::clone(&self), queue.clone());
            Box::pin(async move {
                // Never closed.
                let place = room.acquire_owned().await.ok()?;
                Some((place, keeper.setup.store.take(&queue).await))
            })
        };
        // Kept while owners end: a job that was taken by a call that is dropped is nobody's until its lease is over.
        let mut taking = next();
        loop {
            let taken = tokio::select! {
                // Closing first: a job that waits must not be taken any more.
                biased;
                () = closing.cancelled() => break,
                Some(ended) = owning.join_next() => {
                    report(ended);
                    continue;
                }
                taken = &mut taking => taken,
            };
            taking = next();
            match taken {
                Some((place, Ok(job))) => {
                    was_away = false;
                    let owner = Owning { keeper: Arc::clone(&self), job, release: release.clone(), place };
                    owning.spawn(owner.own_to_its_end());
                }
                Some((_, Err(error))) => {
                    if !std::mem::replace(&mut was_away, true) {
                        tracing::warn!(%error, "no run can be taken: it is tried again");
                    }
                    sleep(AGAIN).await;
                }
                None => break,
            }
        }
        while let Some(ended) = owning.join_next().await {
            report(ended);
        }
    }
}

/// A defect ends its own run's ownership, no more: another engine takes the job when its lease has run out.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(defect) = ended {
        tracing::error!(%defect, "the owner of a run broke");
    }
}
