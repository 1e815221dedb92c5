//! Looks for requests that nobody owns although their time is over: their job was lost with a broker's last moments, or whoever
//! accepted them died before there was one.

use super::keeper::Keeper;
use super::revived::Looking;
use super::standing::Standing;
use stageline_base::prng::Prng;
use stageline_core::durable::{Life, Logged, Wall, late_fault};
use stageline_runner::GIVEN_UP_AFTER;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Between two looks, and how long after its deadline a request is still its owner's to end.
const EVERY: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(60);

impl Keeper {
    /// Looks now and then until `closing`.
    pub(super) async fn sweep(self: Arc<Self>, closing: CancellationToken) {
        loop {
            // Not all doors at one moment.
            let wait = EVERY.mul_f64(0.5 + Prng::new(self.draw()).unit());
            tokio::select! {
                () = sleep(wait) => {}
                () = closing.cancelled() => return,
            }
            tokio::select! {
                () = self.sweep_once() => {}
                () = closing.cancelled() => return,
            }
        }
    }

    /// Ends those that nobody is to be told of, and gives a job to each of the others: whoever takes it tells.
    pub(super) async fn sweep_once(&self) {
        let Ok(_turn) = self.listing.try_lock() else { return };
        // What cannot be read now is looked at another time.
        let mut looking = Looking::through(self);
        while let Ok(Some(standing)) = looking.next().await {
            self.look_after(standing).await;
        }
    }

    async fn look_after(&self, Standing { log, life, stored }: Standing) {
        let Some(accepted) = life.accepted.as_ref().filter(|_| self.is_forgotten(&life)) else { return };
        tracing::warn!(request = log.token(), "a request's time is over and nobody has ended it");
        if accepted.callback {
            if self.logs.append(&log, life.last, &[Logged::Requeued]).await.is_ok() {
                let _ = self.push(&log, &stored).await;
            }
            return;
        }
        let mut life = life;
        if life.ended.is_none() {
            life.ended = Some((Err(late_fault()), self.clock.now()));
        }
        // Refused if somebody does something with it after all.
        let _ = self.finished(&log, life.last, &life.whole(None)).await;
    }

    /// Whether it should have ended, or its end been told, long ago, and nobody has it in hand or is about to.
    fn is_forgotten(&self, life: &Life) -> bool {
        let before = |grace: Duration| Wall(self.clock.now().0.saturating_sub(grace.as_millis() as u64));
        let Some(accepted) = life.accepted.as_ref().filter(|_| life.delivered.is_none() && !life.queued_again) else {
            return false;
        };
        match &life.ended {
            None => accepted.deadline < before(GRACE),
            Some((_, at)) => *at < before(GIVEN_UP_AFTER + GRACE),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::stored::Stored;
    use super::super::{Api, Ended, Forms, Job, KeeperSetup};
    use super::*;
    use crate::Request;
    use crate::outgoing::Outgoing;
    use bytes::Bytes;
    use stageline_base::{Fault, ReplicaId, Task};
    use stageline_core::durable::Accepted;
    use stageline_metrics::Metrics;
    use stageline_store::{MemoryStore, Name, Store};

    struct Mute;

    impl Forms for Mute {
        fn read(&self, _: Api, _: &str, _: &[u8], _: Task) -> Result<Request, Fault> {
            Err(Fault::internal("nobody reads"))
        }

        fn job(&self, _: &Bytes) -> Result<Job, Fault> {
            Err(Fault::internal("nobody reads"))
        }

        fn write(&self, _: Api, _: Ended) -> (u16, &'static str, String) {
            (500, "text/plain", String::new())
        }
    }

    /// A keeper of `store` that neither reads nor writes any form.
    pub(in crate::durable) fn keeper(store: Arc<MemoryStore>) -> Arc<Keeper> {
        Keeper::new(KeeperSetup {
            store,
            me: ReplicaId::new("door", 1),
            manifest: "ab".repeat(32),
            at_once: 1,
            timeout: Duration::from_secs(600),
            keep: Duration::from_secs(600),
            name: "tiny".to_owned(),
            outgoing: Outgoing::default(),
            callback_url: None,
            join_always: false,
            metrics: Arc::new(Metrics::new("tiny", 0..1)),
            forms: &Mute,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn only_what_should_have_ended_long_ago_is_queued_again() {
        let store = Arc::new(MemoryStore::new(Duration::from_secs(3), 100));
        let keeper = keeper(store.clone());
        let now = keeper.clock.now().0;
        let late = now - 61_000;
        for (name, deadline, callback) in [
            ("late", late, true),
            ("unheard", late, false),
            ("just-late", now - 59_000, true),
            ("in-time", now + 1000, true),
        ] {
            let log = Name::new("request", name).unwrap();
            let accepted = Accepted { request: Stored::empty().encode(), deadline: Wall(deadline), callback };
            keeper.logs.append(&log, 0, &[Logged::Accepted(accepted)]).await.unwrap();
        }
        for _ in 0..2 {
            keeper.sweep_once().await;
        }
        assert_eq!(store.jobs(&keeper.queue).await, Ok(1));
        let job = store.take(&keeper.queue).await.unwrap();
        assert_eq!(job.bytes, "request.late");
        let unheard = keeper.standing(&Name::new("request", "unheard").unwrap()).await.unwrap().unwrap();
        assert_eq!(unheard.status(), "failed");
    }
}
