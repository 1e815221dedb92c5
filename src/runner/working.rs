//! What an engine does all the time.

use super::handing::hand_out;
use super::keeper::Keeper;
use super::owning::Owning;
use futures::future::join;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

impl Keeper {
    /// Owns runs as their jobs come, until `closing`; then has those that it owns go on, and at `release` lets go of them.
    pub async fn work(self: Arc<Self>, closing: CancellationToken, release: CancellationToken) {
        let mut beside = JoinSet::new();
        beside.spawn(Arc::clone(&self).sweep(closing.clone()));
        beside.spawn(Arc::clone(&self).keep_places(release.clone()));
        // Rooms of their own: whoever waits for a job of one holds a place, which the other would be short of.
        let first = self.take_jobs(1, JoinSet::new(), (&closing, &release));
        let usual = self.take_jobs(0, beside, (&closing, &release));
        join(first, usual).await;
    }

    async fn keep_places(self: Arc<Self>, release: CancellationToken) {
        tokio::select! {
            () = self.limits.keep() => {}
            () = release.cancelled() => {}
        }
    }

    async fn take_jobs(
        self: &Arc<Self>,
        priority: u8,
        beside: JoinSet<()>,
        (closing, release): (&CancellationToken, &CancellationToken),
    ) {
        let Some(queue) = Self::queue(priority) else { return };
        let from = (Arc::clone(&self.setup.store), queue);
        let own =
            |job, place| Owning { keeper: Arc::clone(self), job, release: release.clone(), place }.own_to_its_end();
        hand_out(from, self.setup.at_once, beside, closing.clone(), own).await;
    }
}
