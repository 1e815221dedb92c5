//! Requests as operators see them: all that there are, and those that are to be tried anew.

use super::keeper::{Keeper, TRIES, may_see, store_fault};
use super::standing::Standing;
use super::stored::Stored;
use stageline_base::Fault;
use stageline_core::durable::{Accepted, Life, Logged, LoggedToken, Wall};
use stageline_store::StoreError;
use std::cmp::Reverse;

impl Keeper {
    /// The newest `most` requests that `principal` may see, newest first.
    ///
    /// # Errors
    /// `Unavailable` if the store does not say.
    pub(crate) async fn list(&self, principal: &str, most: usize) -> Result<Vec<Standing>, Fault> {
        let logs = self.setup.store.logs("request").await.map_err(|error| store_fault(&error))?;
        let mut all = Vec::new();
        for (log, _) in logs {
            // One that cannot be read says so when it is asked for by itself.
            let Ok(Some(standing)) = self.standing(&log).await else { continue };
            if may_see(principal, standing.stored.principal()) {
                all.push(standing);
            }
        }
        all.sort_by_key(|standing| Reverse(standing.stored.accepted()));
        all.truncate(most);
        Ok(all)
    }

    /// Has a request that has ended tried anew: one that was answered tells its end again, one that failed is run again, with as much
    /// time as it had. `None` if there is none; as it stands then.
    ///
    /// # Errors
    /// `InvalidRequest` if it has not ended or cannot be run, `Unavailable` if the store does not do it.
    pub(crate) async fn retry(&self, principal: &str, id: &str) -> Result<Option<Standing>, Fault> {
        let Some(Standing { log, stored, life }) = self.look(principal, id).await? else { return Ok(None) };
        let Some((outcome, at)) = &life.ended else {
            return Err(Fault::invalid("the request has not ended: there is nothing to try again"));
        };
        let Some(accepted) = &life.accepted else { return Ok(None) };
        if stored.is_no_request() {
            return Err(Fault::invalid("it is a job that could not be read: send another one"));
        }
        if outcome.is_ok() && !accepted.callback {
            return Err(Fault::invalid(
                "the request was answered, and nobody is to be told: there is nothing to try again",
            ));
        }
        let record = match outcome {
            Ok(reason) => {
                let mut record = vec![Logged::Accepted(accepted.clone())];
                record.extend(life.prompt_tokens.map(|prompt_tokens| Logged::Began { prompt_tokens }));
                let tokens: Vec<LoggedToken> = life.tokens.clone();
                record.extend((!tokens.is_empty()).then_some(Logged::Tokens { from: 0, tokens }));
                record.extend(life.answer.clone().map(Logged::Answer));
                // What is told is given up an hour after this.
                record.push(Logged::Ended { outcome: Ok(*reason), at: self.clock.now(), deaths: 0 });
                record
            }
            Err(_) => {
                let time = accepted.deadline.0.saturating_sub(stored.accepted().0);
                let deadline = Wall(self.clock.now().0 + time.max(at.0.saturating_sub(stored.accepted().0)).max(1));
                let request = stored.accepted_anew(self.clock.now()).encode();
                vec![Logged::Accepted(Accepted { request, deadline, callback: accepted.callback })]
            }
        };
        self.revived(Standing { log, stored, life }, record).await.map(Some)
    }

    /// Puts `record` in the place of a log that has ended, and a job beside it.
    async fn revived(&self, Standing { log, life, .. }: Standing, record: Vec<Logged>) -> Result<Standing, Fault> {
        self.setup.store.remove(&log).await.map_err(|error| store_fault(&error))?;
        for _ in 0..TRIES {
            match self.logs.append(&log, 0, &record).await {
                Ok(_) => break,
                // It is there, by this call or by another.
                Err(StoreError::Conflict { .. }) => break,
                Err(StoreError::Unknown) => {}
                Err(error) => {
                    // What was there before is put back, as far as that goes.
                    let whole = life.whole(life.delivered.clone().flatten());
                    let _ = self.logs.append(&log, 0, &whole).await;
                    return Err(store_fault(&error));
                }
            }
        }
        self.push(&log).await.map_err(|error| store_fault(&error))?;
        let life = Life::of([(1, &record[..])]);
        let stored = life.accepted.as_ref().map(|accepted| Stored::decode(&accepted.request));
        let stored = stored.unwrap_or_else(|| Err(Fault::internal("a request is none")))?;
        Ok(Standing { log, stored, life })
    }
}
