//! Tells whoever is to be told how a request ended, as OpenFaaS' queue worker does.

use super::keeper::Keeper;
use super::standing::Standing;
use crate::outgoing::Called;
use crate::{AnswerEvent, Intake};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use stageline_base::prng::Prng;
use stageline_base::{Fault, FaultClass};
use stageline_core::durable::{Delivery, Wall};
use stageline_metrics::Kept as Event;
use stageline_store::Name;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pauses between two tries: the first, which doubles, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// The longest that a receiver may ask to wait.
const ASKED: Duration = Duration::from_secs(3600);
/// How long after its end a request's receiver is tried.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3600);
/// How long an answer that has ended may take to be read.
const READ: Duration = Duration::from_secs(30);

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
    /// Tells it; `tries` before have failed.
    pub(super) async fn told(self: &Arc<Self>, log: &Name, intake: &dyn Intake, tries: u32) -> Delivery {
        let now = self.clock.now();
        let again = |wait: Duration| Delivery::Again(Wall(now.0 + wait.as_millis() as u64));
        let standing = match self.standing(log).await {
            Ok(Some(standing)) => standing,
            // The owner looks for itself.
            Ok(None) => return again(FIRST),
            Err(fault) if fault.class == FaultClass::Unavailable => return again(FIRST),
            Err(fault) => return Delivery::GivenUp(fault.message),
        };
        let Some((_, ended_at)) = standing.life.ended else { return again(FIRST) };
        let ended = match self.ended(&standing, intake).await {
            Ok(ended) => ended,
            Err(_) => return again(FIRST),
        };
        let stored = &standing.stored;
        let (status, kind, body) = self.setup.forms.write(stored.api(), &ended);
        let took = Duration::from_millis(ended_at.0.saturating_sub(stored.accepted().0));
        let headers = self.headers(stored.call_id(), (status, kind), took);
        let (url, id) = (stored.callback(), log.token());
        let called = self.setup.outgoing.post(url, id, (headers, body), now.0).await;
        let (wait, why) = match called {
            Called::Answered(200..=299, _) => {
                self.count(Event::Told);
                return Delivery::Done;
            }
            Called::Answered(status @ (408 | 425 | 429 | 500..), asked) => {
                (asked.map(|asked| asked.min(ASKED)), format!("it was answered with status {status}"))
            }
            Called::Answered(status, _) => {
                return Delivery::GivenUp(format!("the callback was answered with status {status}"));
            }
            Called::Forbidden(why) => return Delivery::GivenUp(format!("the callback must not be made: {why}")),
            Called::Unanswered(why) => (None, why),
        };
        self.count(Event::NotTold);
        let wait = wait.unwrap_or_else(|| pause(tries, now.0));
        tracing::debug!(call_id = stored.call_id(), request = id, why, "a callback is tried again");
        match now.0 + wait.as_millis() as u64 > ended_at.0 + GIVEN_UP_AFTER.as_millis() as u64 {
            true => Delivery::GivenUp(format!("the callback could not be made for an hour: {why}")),
            false => again(wait),
        }
    }

    /// What a request came to that has ended.
    ///
    /// # Errors
    /// Why it cannot be read now.
    pub(crate) async fn ended(self: &Arc<Self>, standing: &Standing, intake: &dyn Intake) -> Result<Ended, Fault> {
        let Standing { log, stored, life } = standing;
        let (call_id, prompt_tokens) = (stored.call_id().to_owned(), life.prompt_tokens.unwrap_or_default());
        let of = |answer| Ended { call_id, prompt_tokens, answer };
        if let Some((Err(fault), _)) = &life.ended {
            return Ok(of(Err(fault.clone())));
        }
        let mut answer = self.answer(intake, (log, stored, 0), Instant::now() + READ).await?;
        let mut events = Vec::new();
        loop {
            match answer.next().await {
                AnswerEvent::Failed(fault) => return Err(fault),
                last @ AnswerEvent::Finished { .. } => {
                    events.push(last);
                    return Ok(of(Ok(events)));
                }
                event => events.push(event),
            }
        }
    }

    fn headers(&self, call_id: &str, (status, kind): (u16, &'static str), took: Duration) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
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

/// The pause after `tries` that failed, between half of what it doubles to and all of it: not all callers at once.
fn pause(tries: u32, seed: u64) -> Duration {
    let longest = FIRST.saturating_mul(1 << tries.min(16)).min(LONGEST);
    longest.mul_f64(0.5 + 0.5 * Prng::new(seed ^ u64::from(tries)).unit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_longest_and_differ() {
        let pauses: Vec<Duration> = (0..40).map(|tries| pause(tries, 1)).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST) && pauses[39] >= LONGEST / 2);
        assert_ne!(pause(5, 1), pause(5, 2));
    }
}
