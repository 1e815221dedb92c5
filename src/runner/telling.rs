//! Tells whoever is to be told how a run ended, as OpenFaaS' queue worker does.

use super::keeper::Keeper;
use super::outgoing::Called;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use stageline_base::prng::Prng;
use stageline_flow::run::{Datum, Delivery, Ended, Failure, FailureClass, State};
use stageline_store::Name;
use std::time::Duration;

/// Pauses between two tries: the first, which doubles, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// How long after its end the receiver of a run's or a request's end is tried.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(3600);

/// The pause before the next try, of something that has ended so long ago: as long again, so that it doubles, within bounds; as long as
/// its receiver `asked`, if that is longer. All within the time that it is tried: `None` when that is over.
pub fn pause(since: Duration, asked: Option<Duration>, seed: u64) -> Option<Duration> {
    let left = GIVEN_UP_AFTER.checked_sub(since).filter(|left| !left.is_zero())?;
    // Between half of it and all of it: not all callers at once.
    let usual = since.clamp(FIRST, LONGEST).mul_f64(0.5 + 0.5 * Prng::new(seed).unit());
    Some(usual.max(asked.unwrap_or_default()).min(left))
}

/// The status of HTTP that says how a run ended.
pub(crate) fn status_of(ended: &Ended) -> u16 {
    match ended {
        Ended::Succeeded(_) => 200,
        Ended::Cancelled => 499,
        Ended::Failed(Failure { class, .. }) => match class {
            FailureClass::Timeout => 504,
            FailureClass::Status(status) if (400..500).contains(status) => 422,
            FailureClass::Value | FailureClass::Expression | FailureClass::TooLarge => 422,
            FailureClass::Connect | FailureClass::Status(_) => 502,
            FailureClass::Refused | FailureClass::Cancelled | FailureClass::Poison | FailureClass::Internal => 500,
        },
    }
}

/// What says why there is no answer.
pub(crate) fn failure_body(failure: &Failure) -> serde_json::Value {
    let mut told = failure.told();
    told["message"] = failure.reason.as_str().into();
    json!({ "error": told })
}

impl Keeper {
    /// The status, the Content-Type and the body of a run's end.
    ///
    /// # Errors
    /// Words that say why it cannot be read.
    pub async fn answer(&self, ended: &Ended) -> Result<(u16, String, Bytes), String> {
        const JSON: &str = "application/json";
        let status = status_of(ended);
        let failed = |failure: &Failure| (status, JSON.to_owned(), failure_body(failure).to_string().into());
        Ok(match ended {
            Ended::Succeeded(datum) => {
                let (kind, body) = self.body(datum).await?;
                // A text that is JSON's stays JSON: who asks for a run's output gets one kind of thing.
                match datum {
                    Datum::Json(json) => (status, JSON.to_owned(), Bytes::copy_from_slice(json.text().as_bytes())),
                    _ => (status, kind, body),
                }
            }
            Ended::Failed(failure) => failed(failure),
            Ended::Cancelled => {
                let reason = "the run was cancelled".to_owned();
                failed(&Failure { node: None, class: FailureClass::Cancelled, reason })
            }
        })
    }

    /// Tells it, or says when to try again: the longer the end is ago, the later.
    pub(crate) async fn told(&self, log: &Name) -> Delivery {
        let state = match self.state(log).await {
            Ok(Some((state, _))) => state,
            // The owner looks for itself.
            Ok(None) | Err(_) => return Delivery::Again(self.clock.after(FIRST)),
        };
        let (Some(accepted), Some(ended)) = (&state.accepted, &state.ended) else {
            return Delivery::Again(self.clock.after(FIRST));
        };
        let Some(callback) = &accepted.callback else { return Delivery::Done };
        let ended_at = state.ended_at().unwrap_or(self.clock.now());
        let (asked, why) = match self.answer(ended).await {
            Err(why) => (None, why),
            Ok((status, kind, body)) => {
                let headers = headers(&state, log, (status, &kind));
                match self.setup.outgoing.post(callback, log.token(), (headers, body), self.clock.now().0).await {
                    Called::Answered(200..=299, _) => return Delivery::Done,
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
        let since = Duration::from_millis(self.clock.now().0.saturating_sub(ended_at.0));
        tracing::debug!(run = log.token(), call_id = accepted.call_id, why, "a callback is tried again");
        match pause(since, asked, self.draw()) {
            Some(pause) => Delivery::Again(self.clock.after(pause)),
            None => Delivery::GivenUp(format!("the callback could not be made for an hour: {why}")),
        }
    }
}

fn headers(state: &State, log: &Name, (status, kind): (u16, &str)) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let accepted = state.accepted.as_ref();
    let began = state.began().map_or(0, |at| at.0);
    let took = state.ended_at().map_or(0, |at| at.0.saturating_sub(began));
    let said = [
        (CONTENT_TYPE, kind.to_owned()),
        (HeaderName::from_static("x-call-id"), accepted.map(|run| run.call_id.clone()).unwrap_or_default()),
        (HeaderName::from_static("x-function-status"), status.to_string()),
        (HeaderName::from_static("x-function-name"), accepted.map(|run| run.flow.clone()).unwrap_or_default()),
        (HeaderName::from_static("x-duration-seconds"), format!("{:.6}", took as f64 / 1000.0)),
        (HeaderName::from_static("x-stageline-run"), log.token().to_owned()),
    ];
    for (name, value) in said {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_bounds_until_the_time_is_over() {
        let after =
            |seconds, asked: Option<u64>| pause(Duration::from_secs(seconds), asked.map(Duration::from_secs), 7);
        let within = |pause: Option<Duration>, least: u64, most: u64| {
            let pause = pause.expect("a pause").as_millis() as u64;
            assert!((least..=most).contains(&pause), "{pause}");
        };
        within(after(0, None), 500, 1000);
        within(after(60, None), 30_000, 60_000);
        within(after(2000, None), 150_000, 300_000);
        // Whoever asks for nothing is not called without end, and who asks for more than there is once more.
        within(after(0, Some(0)), 500, 1000);
        within(after(0, Some(20)), 20_000, 20_000);
        within(after(3599, Some(7200)), 1000, 1000);
        assert_eq!((after(3600, None), after(9999, Some(1))), (None, None));
    }
}
