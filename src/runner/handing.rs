//! Hands the jobs of a queue to owners, as they come.

use stageline_store::{Job, Name, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Pause before a store that gave no job is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes the jobs of a queue until `closing`, as many at once as there is `room` for, and has each be owned by what `own` makes of it
/// and of its place; then waits for those to end, and for what is among `tasks` already.
pub async fn hand_out<F: Future<Output = ()> + Send + 'static>(
    (store, queue): (Arc<dyn Store>, Name),
    room: usize,
    mut tasks: JoinSet<()>,
    closing: CancellationToken,
    own: impl Fn(Job, OwnedSemaphorePermit) -> F,
) {
    let (room, mut was_away) = (Arc::new(Semaphore::new(room)), false);
    let next = || {
        let (room, store, queue) = (Arc::clone(&room), Arc::clone(&store), queue.clone());
        Box::pin(async move {
            // Never closed.
            let place = room.acquire_owned().await.ok()?;
            Some((place, store.take(&queue).await))
        })
    };
    // Kept while owners end: a job that was taken by a call that is dropped is nobody's until its lease is over.
    let mut taking = next();
    loop {
        let taken = tokio::select! {
            // Closing first: a job that waits must not be taken any more.
            biased;
            () = closing.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                report(&queue, ended);
                continue;
            }
            taken = &mut taking => taken,
        };
        taking = next();
        match taken {
            Some((place, Ok(job))) => {
                was_away = false;
                tasks.spawn(own(job, place));
            }
            Some((_, Err(error))) => {
                if !std::mem::replace(&mut was_away, true) {
                    tracing::warn!(%queue, %error, "no job can be taken: it is tried again");
                }
                sleep(AGAIN).await;
            }
            None => break,
        }
    }
    while let Some(ended) = tasks.join_next().await {
        report(&queue, ended);
    }
}

/// A defect ends its own job's ownership, no more: another takes that when its lease has run out.
fn report(queue: &Name, ended: Result<(), JoinError>) {
    if let Err(defect) = ended {
        tracing::error!(%queue, %defect, "the owner of a job broke");
    }
}
