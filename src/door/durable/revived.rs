//! Requests as operators see them: all that there are, and those that are to be tried anew.

use super::keeper::{Keeper, may_see, store_fault};
use super::logs::unread_fault;
use super::standing::Standing;
use stageline_base::{Fault, FaultClass};
use stageline_core::durable::{Accepted, Life, Logged, Wall};
use stageline_store::{Name, Record, StoreError};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

/// Logs that are looked at together.
const PAGE: usize = 64;

/// All requests that there are, one after the other: no more than a page of their logs is in memory at once.
pub(super) struct Looking<'a> {
    keeper: &'a Keeper,
    page: VecDeque<(Name, Record)>,
    last: Option<Name>,
}

impl<'a> Looking<'a> {
    pub(super) fn through(keeper: &'a Keeper) -> Self {
        Self { keeper, page: VecDeque::new(), last: None }
    }

    /// The next one, by name.
    ///
    /// # Errors
    /// `Unavailable` if the store does not say.
    pub(super) async fn next(&mut self) -> Result<Option<Standing>, Fault> {
        loop {
            let Some((log, record)) = self.page.pop_front() else {
                let page = self.keeper.setup.store.logs("request", self.last.as_ref(), PAGE).await;
                self.page = page.map_err(|error| store_fault(&error))?.into();
                let Some((last, _)) = self.page.back() else { return Ok(None) };
                self.last = Some(last.clone());
                continue;
            };
            // One that cannot be read says so when it is asked for by itself.
            if let Ok(Some(standing)) = self.keeper.standing_at(log, record).await {
                return Ok(Some(standing));
            }
        }
    }
}

impl Keeper {
    /// How the request of that log stands, whose last record that is.
    async fn standing_at(&self, log: Name, record: Record) -> Result<Option<Standing>, Fault> {
        let (position, entries) = self.logs.unpacked(record).await.map_err(|error| unread_fault(&error))?;
        let life = Life::of([(position, &entries[..])]);
        // The last record of one that has not ended tells but a part of it.
        if life.accepted.is_none() {
            return self.standing(&log).await;
        }
        Standing::of(log, life)
    }

    /// What `tell` says of the newest `most` requests that `principal` may see, newest first.
    ///
    /// # Errors
    /// `Overloaded` while they are listed for another, `Unavailable` if the store does not say.
    pub(crate) async fn list<T>(
        &self,
        principal: &str,
        most: usize,
        tell: impl Fn(&Standing) -> T,
    ) -> Result<Vec<T>, Fault> {
        let busy = |_| Fault::new(FaultClass::Overloaded, "the requests are being listed already: try again");
        let _turn = self.listing.try_lock().map_err(busy)?;
        let mut newest = BinaryHeap::new();
        let mut told = HashMap::new();
        let mut looking = Looking::through(self);
        while let Some(standing) = looking.next().await? {
            if !may_see(principal, standing.stored.principal()) {
                continue;
            }
            newest.push(Reverse((standing.stored.accepted(), standing.log.clone())));
            told.insert(standing.log.clone(), tell(&standing));
            if newest.len() > most
                && let Some(Reverse((_, oldest))) = newest.pop()
            {
                told.remove(&oldest);
            }
        }
        let newest = newest.into_sorted_vec();
        Ok(newest.into_iter().filter_map(|Reverse((_, log))| told.remove(&log)).collect())
    }

    /// Has a request that has ended tried anew: one that was answered tells its end again, one that failed is run again, with as much
    /// time as it had. `None` if there is none; as it stands then.
    ///
    /// # Errors
    /// `InvalidRequest` if it has not ended or cannot be run, `Unavailable` if the store does not do it.
    pub(crate) async fn retry(&self, principal: &str, id: &str) -> Result<Option<Standing>, Fault> {
        let Some(Standing { log, stored, life }) = self.look(principal, id).await? else { return Ok(None) };
        // Until then it has an owner, who would go on with what is put in its place.
        let (Some((outcome, at)), Some(_), Some(accepted)) = (&life.ended, &life.delivered, &life.accepted) else {
            return Err(Fault::invalid(
                "the request has not ended, or its end is being told: there is nothing to try again",
            ));
        };
        if stored.is_no_request() {
            return Err(Fault::invalid("it is a job that could not be read: send another one"));
        }
        let now = self.clock.now();
        let record = match outcome {
            Ok(_) if !accepted.callback => {
                let words = "the request was answered, and nobody is to be told: there is nothing to try again";
                return Err(Fault::invalid(words));
            }
            // What is told is given up an hour after this.
            Ok(reason) => {
                let ended = Logged::Ended { outcome: Ok(*reason), at: now, deaths: 0 };
                let mut record = life.whole(None);
                record.retain(|logged| !matches!(logged, Logged::Ended { .. } | Logged::Delivered { .. }));
                record.push(ended);
                record
            }
            Err(_) => {
                let since = |then: Wall| then.0.saturating_sub(stored.accepted().0);
                let deadline = Wall(now.0 + since(accepted.deadline).max(since(*at)).max(1));
                let request = stored.accepted_anew(now).encode();
                vec![Logged::Accepted(Accepted { request, deadline, callback: accepted.callback })]
            }
        };
        match self.logs.renew(&log, life.last, &record).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                return Err(Fault::invalid("somebody tries it again already, or it is not kept any more"));
            }
            Err(error) => return Err(store_fault(&error)),
        }
        // Without it, whoever looks for forgotten requests finds it.
        self.push(&log, &stored).await.map_err(|error| store_fault(&error))?;
        self.standing(&log).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::stored::{Api, Stored};
    use super::super::sweeping::tests::keeper;
    use stageline_base::Fault;
    use stageline_core::durable::{Accepted, Logged, Wall};
    use stageline_proto::durable as pb;
    use stageline_store::{MemoryStore, Name, Store};
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test]
    async fn what_is_tried_anew_goes_to_the_model_that_it_was_accepted_for() {
        let store = Arc::new(MemoryStore::new(Duration::from_secs(3), 100));
        let (keeper, log) = (keeper(store.clone()), Name::new("request", "a").unwrap());
        let stored =
            Stored::new(pb::DurableRequest { manifest: "cd".repeat(32), api: Api::Http.into(), ..Default::default() });
        let accepted = Accepted { request: stored.encode(), deadline: Wall(60_000), callback: false };
        let ended = Logged::Ended { outcome: Err(Fault::internal("it broke")), at: Wall(1), deaths: 0 };
        let record = [Logged::Accepted(accepted), ended, Logged::Delivered { given_up: None }];
        keeper.logs.append(&log, 0, &record).await.unwrap();
        assert_eq!(keeper.retry("", "a").await.unwrap().unwrap().status(), "waiting");
        let theirs = Name::new("jobs", &"cd".repeat(8)).unwrap();
        assert_eq!((store.jobs(&theirs).await, store.jobs(&keeper.queue).await), (Ok(1), Ok(0)));
    }
}
