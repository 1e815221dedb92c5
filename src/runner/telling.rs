//! Tells whoever is to be told how a run ended, as OpenFaaS' queue worker does.

use super::keeper::Keeper;
use super::outgoing::Called;
use super::wall::Clock;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use stageline_base::prng::Prng;
use stageline_core::durable::Wall;
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
fn pause(since: Duration, asked: Option<Duration>, seed: u64) -> Option<Duration> {
    let left = GIVEN_UP_AFTER.checked_sub(since).filter(|left| !left.is_zero())?;
    // Between half of it and all of it: not all callers at once.
    let usual = since.clamp(FIRST, LONGEST).mul_f64(0.5 + 0.5 * Prng::new(seed).unit());
    Some(usual.max(asked.unwrap_or_default()).min(left))
}

/// What comes of a callback that was made, or, if it is to be made another time, how long a pause is asked for, and why.
///
/// # Errors
/// The latter.
pub fn heard(called: Called) -> Result<Delivery, (Option<Duration>, String)> {
    match called {
        Called::Answered(200..=299, _) => Ok(Delivery::Done),
        Called::Answered(status @ (408 | 425 | 429 | 500..), asked) => {
            Err((asked, format!("it was answered with status {status}")))
        }
        Called::Answered(status, _) => Ok(Delivery::GivenUp(format!("the callback was answered with status {status}"))),
        Called::Forbidden(why) => Ok(Delivery::GivenUp(format!("the callback must not be made: {why}"))),
        Called::Unanswered(why) => Err((None, why)),
    }
}

/// When a callback of something that ended then is made again, or that it is given up: the longer ago that is, the later.
pub fn another_time(clock: &Clock, ended_at: Wall, (asked, why): (Option<Duration>, &str), seed: u64) -> Delivery {
    let since = Duration::from_millis(clock.now().0.saturating_sub(ended_at.0));
    match pause(since, asked, seed) {
        Some(pause) => Delivery::Again(clock.after(pause)),
        None => Delivery::GivenUp(format!("the callback could not be made for an hour: {why}")),
    }
}

/// The headers of a callback, as OpenFaaS' queue worker sends them: the call's id, the answer's status and Content-Type, the name of
/// what was called, and how long it took.
pub fn callback_headers(call_id: &str, (status, kind): (u16, &str), name: &str, took: Duration) -> HeaderMap {
    let said = [
        (CONTENT_TYPE, kind.to_owned()),
        (HeaderName::from_static("x-call-id"), call_id.to_owned()),
        (HeaderName::from_static("x-function-status"), status.to_string()),
        (HeaderName::from_static("x-function-name"), name.to_owned()),
        (HeaderName::from_static("x-duration-seconds"), format!("{:.6}", took.as_secs_f64())),
    ];
    let written = |(name, value): (HeaderName, String)| Some((name, HeaderValue::from_str(&value).ok()?));
    said.into_iter().filter_map(written).collect()
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
                let called = self.setup.outgoing.post(callback, log.token(), (headers, body), self.clock.now().0).await;
                match heard(called) {
                    Ok(delivery) => return delivery,
                    Err(again) => again,
                }
            }
        };
        tracing::debug!(run = log.token(), call_id = accepted.call_id, why, "a callback is tried again");
        another_time(&self.clock, ended_at, (asked, &why), self.draw())
    }
}

fn headers(state: &State, log: &Name, answer: (u16, &str)) -> HeaderMap {
    let (call_id, flow) = state.accepted.as_ref().map_or(("", ""), |run| (&run.call_id, &run.flow));
    let took = state.ended_at().zip(state.began()).map_or(0, |(end, begin)| end.0.saturating_sub(begin.0));
    let mut headers = callback_headers(call_id, answer, flow, Duration::from_millis(took));
    if let Ok(id) = HeaderValue::from_str(log.token()) {
        headers.insert("x-stageline-run", id);
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
