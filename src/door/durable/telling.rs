//! Tells whoever is to be told how a request ended, as OpenFaaS' queue worker does.

use super::keeper::Keeper;
use super::standing::Standing;
use crate::call_ids::name_request;
use crate::{AnswerEvent, Intake};
use stageline_base::{Fault, FaultClass};
use stageline_core::durable::Delivery;
use stageline_metrics::Kept as Event;
use stageline_runner::{another_time, callback_headers, heard};
use stageline_store::Name;
use std::sync::Arc;
use std::time::Duration;

/// The pause before a store that does not say is asked again.
const FIRST: Duration = Duration::from_secs(1);

/// What is told of a request that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Its id.
    pub call_id: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The answer, or why there is none.
    pub answer: Result<Vec<AnswerEvent>, Fault>,
}

impl Keeper {
    /// Tells it, or says when to try again: the longer the end is ago, the later.
    pub(super) async fn told(self: &Arc<Self>, log: &Name, intake: &dyn Intake) -> Delivery {
        let standing = match self.standing(log).await {
            Ok(Some(standing)) => standing,
            // The owner looks for itself.
            Ok(None) => return Delivery::Again(self.clock.after(FIRST)),
            Err(fault) if fault.class == FaultClass::Unavailable => {
                return Delivery::Again(self.clock.after(FIRST));
            }
            Err(fault) => return Delivery::GivenUp(fault.message),
        };
        let stored = &standing.stored;
        let ended_at = standing.life.ended.as_ref().map_or(self.clock.now(), |(_, at)| *at);
        let (asked, why) = match self.ended(&standing, intake).await {
            Err(fault) => (None, fault.message),
            Ok(ended) => {
                let (status, kind, body) = self.setup.forms.write(stored.api(), ended);
                let took = Duration::from_millis(ended_at.0.saturating_sub(stored.accepted().0));
                let mut headers = callback_headers(stored.call_id(), (status, kind), &self.setup.name, took);
                name_request(&mut headers, Some(log.token()));
                let now = self.clock.now().0;
                let called =
                    self.setup.outgoing.post(stored.callback(), log.token(), (headers, body.into()), now).await;
                match heard(called) {
                    Ok(delivery) => {
                        if delivery == Delivery::Done {
                            self.count(Event::Told);
                        }
                        return delivery;
                    }
                    Err(again) => again,
                }
            }
        };
        self.count(Event::NotTold);
        tracing::debug!(call_id = stored.call_id(), request = log.token(), why, "a callback is tried again");
        another_time(&self.clock, ended_at, (asked, &why), self.draw())
    }

    /// What a request came to that has ended.
    ///
    /// # Errors
    /// Why it cannot be read now.
    pub(crate) async fn ended(&self, standing: &Standing, intake: &dyn Intake) -> Result<Ended, Fault> {
        let Standing { stored, life, .. } = standing;
        let (call_id, prompt_tokens) = (stored.call_id().to_owned(), life.prompt_tokens.unwrap_or_default());
        let answer = match &life.ended {
            Some((Err(fault), _)) => Err(fault.clone()),
            _ => Ok(self.shown(stored, intake, 0).await?.more(life)),
        };
        Ok(Ended { call_id, prompt_tokens, answer })
    }
}
