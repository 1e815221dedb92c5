//! Tells whoever is to be told how a request ended, as OpenFaaS' queue worker does.

use super::keeper::Keeper;
use super::standing::Standing;
use crate::call_ids::name_request;
use crate::outgoing::Called;
use crate::{AnswerEvent, Intake};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use stageline_base::{Fault, FaultClass};
use stageline_core::durable::Delivery;
use stageline_metrics::Kept as Event;
use stageline_runner::pause;
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
                let headers = self.headers((stored.call_id(), log.token()), (status, kind), took);
                let now = self.clock.now().0;
                match self.setup.outgoing.post(stored.callback(), log.token(), (headers, body.into()), now).await {
                    Called::Answered(200..=299, _) => {
                        self.count(Event::Told);
                        return Delivery::Done;
                    }
                    Called::Answered(status @ (408 | 425 | 429 | 500..), asked) => {
                        (asked, format!("it was answered with status {status}"))
                    }
                    Called::Answered(status, _) => {
                        return Delivery::GivenUp(format!("the callback was answered with status {status}"));
                    }
                    Called::Forbidden(why) => {
                        return Delivery::GivenUp(format!("the callback must not be made: {why}"));
                    }
                    Called::Unanswered(why) => (None, why),
                }
            }
        };
        self.count(Event::NotTold);
        let since = Duration::from_millis(self.clock.now().0.saturating_sub(ended_at.0));
        tracing::debug!(call_id = stored.call_id(), request = log.token(), why, "a callback is tried again");
        match pause(since, asked, self.draw()) {
            Some(pause) => Delivery::Again(self.clock.after(pause)),
            None => Delivery::GivenUp(format!("the callback could not be made for an hour: {why}")),
        }
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

    fn headers(&self, (call_id, id): (&str, &str), (status, kind): (u16, &'static str), took: Duration) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        name_request(&mut headers, Some(id));
        let said = [
            ("x-call-id", call_id.to_owned()),
            ("x-function-status", status.to_string()),
            ("x-function-name", self.setup.name.clone()),
            ("x-duration-seconds", format!("{:.6}", took.as_secs_f64())),
        ];
        for (name, value) in said {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    }
}
