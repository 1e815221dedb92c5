//! `/requests/ID`: how a durable request stands, its answer, and its end.

use super::answer::{self, Reply};
use super::later::keeper_of;
use super::parse::{accepts_events, patience};
use super::replies::StandingBody;
use crate::call::{Answering, Call};
use crate::call_ids::{CALL_ID, name_request};
use crate::durable::{Api, Keeper, Kept, Standing};
use crate::http::json::written;
use crate::http::kinds;
use crate::http::refusal::Refusal;
use crate::site::Site;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use stageline_base::{Fault, FaultClass};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How long a request may take to be looked up.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(30);
/// The same in the query, for clients that cannot send headers.
const STARTING_AFTER: &str = "starting_after";

/// `GET /requests/ID`.
pub(super) async fn show(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let until = Instant::now() + READ_WITHIN;
    let shown = async {
        let who = site.principal(&headers)?;
        let (keeper, standing) = timeout_at(until, found(&site, (&who, &id))).await.map_err(still)??;
        match accepts_events(&headers) {
            true => streamed(&site, &keeper, standing, (&headers, query.as_deref())).await,
            false => timeout_at(until, as_it_stands(&site, &keeper, standing)).await.map_err(still)?,
        }
    };
    shown.await.unwrap_or_else(Refusal::into_response)
}

/// `DELETE /requests/ID`.
pub(super) async fn cancel(State(site): State<Arc<Site>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let cancelled = async {
        let who = site.principal(&headers)?;
        let keeper = keeper(&site)?;
        match timeout(READ_WITHIN, keeper.cancel(&who, &id)).await.map_err(still)?? {
            true => Ok(StatusCode::NO_CONTENT.into_response()),
            false => Err(unknown()),
        }
    };
    cancelled.await.unwrap_or_else(Refusal::into_response)
}

/// A store that stands still keeps nobody waiting for ever.
pub(super) fn still(_: tokio::time::error::Elapsed) -> Fault {
    Fault::new(FaultClass::Unavailable, "the store does not answer")
}

fn keeper(site: &Site) -> Result<Arc<Keeper>, Refusal> {
    site.intake()?;
    keeper_of(site).cloned()
}

pub(super) fn unknown() -> Refusal {
    let words = "there is no request of this id, or it was somebody else's";
    Refusal::with_status(StatusCode::NOT_FOUND, words)
}

async fn found(site: &Site, (who, id): (&str, &str)) -> Result<(Arc<Keeper>, Standing), Refusal> {
    let keeper = keeper(site)?;
    let Some(standing) = keeper.look(who, id).await? else {
        return Err(match keeper.is_gone(who, id).await? {
            true => {
                Refusal::with_status(StatusCode::GONE, "the request has ended, and its answer is not kept any more")
            }
            false => unknown(),
        });
    };
    Ok((keeper, standing))
}

/// The answer, if there is one, or how far it is.
async fn as_it_stands(site: &Site, keeper: &Arc<Keeper>, standing: Standing) -> Result<Response, Refusal> {
    let (call_id, id) = (standing.stored.call_id().to_owned(), standing.log.token().to_owned());
    let mut response = if standing.life.ended.is_some() {
        let ended = keeper.ended(&standing, site.intake()?).await?;
        let (status, kind, body) = keeper.setup().forms.write(Api::Http, ended);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response()
    } else {
        let json = HeaderValue::from_static("application/json");
        (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, json)], written(&body(&standing))).into_response()
    };
    names(&mut response, &call_id);
    name_request(response.headers_mut(), Some(&id));
    Ok(response)
}

/// How a request stands that was just kept; one that was joined may be further.
pub(super) fn just_kept(kept: &Kept) -> StandingBody {
    StandingBody {
        id: kept.log.token().to_owned(),
        status: "waiting",
        answer_tokens: 0,
        call_id: kept.stored.call_id().to_owned(),
    }
}

/// How a request stands, for its client.
pub(super) fn body(standing: &Standing) -> StandingBody {
    StandingBody {
        id: standing.log.token().to_owned(),
        status: standing.status(),
        answer_tokens: standing.life.tokens.len() as u64,
        call_id: standing.stored.call_id().to_owned(),
    }
}

/// The answer as events, from behind the last one that the client has.
async fn streamed(
    site: &Arc<Site>,
    keeper: &Arc<Keeper>,
    standing: Standing,
    (headers, query): (&HeaderMap, Option<&str>),
) -> Result<Response, Refusal> {
    let Standing { log, stored, life } = standing;
    let skip = match last_seen(headers, query)? {
        Some(last) if last >= life.tokens.len() as u64 => {
            let words = format!("the answer has {} tokens so far: {last} is no event of it", life.tokens.len());
            return Err(Fault::invalid(words).into());
        }
        Some(last) => last + 1,
        None => 0,
    };
    let mut call = Call::new(site, headers, Instant::now());
    call.id = stored.call_id().to_owned();
    call.request = Some(log.token().to_owned());
    let (id, span) = (call.id.clone(), call.span.clone());
    let until = call.after(site.setup.limits.longest(patience(headers)?));
    call.takes_place(until)?;
    let events = async {
        let answer = match keeper.answer(site.intake()?, (&log, &stored, skip as usize), until).await {
            Ok(answer) => answer,
            Err(fault) => {
                call.refused(&fault);
                return Err(fault);
            }
        };
        call.reads(&answer);
        answer::events(Answering::new(answer, call), skip).await
    };
    let request = Some(log.token().to_owned());
    let refused = |fault| Refusal::from(fault).of_call(id.clone()).of_request(request);
    let mut response = events.instrument(span).await.map_err(refused)?.into_response();
    names(&mut response, &id);
    Ok(response)
}

fn names(response: &mut Response, call_id: &str) {
    if let Ok(value) = HeaderValue::from_str(call_id) {
        response.headers_mut().insert(CALL_ID, value);
    }
}

/// The place of the last token that the client has, if it has any.
fn last_seen(headers: &HeaderMap, query: Option<&str>) -> Result<Option<u64>, Fault> {
    let asked =
        query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix(STARTING_AFTER)?.strip_prefix('=')));
    let header = kinds::single(headers, &LAST_EVENT_ID)?;
    let (name, text) = match (asked, header) {
        (Some(text), _) => (STARTING_AFTER, text),
        // As browsers send it that have seen none.
        (None, Some(value)) if value.is_empty() => return Ok(None),
        (None, Some(value)) => ("Last-Event-ID", value.to_str().unwrap_or("")),
        (None, None) => return Ok(None),
    };
    let wrong = || Fault::invalid(format!("{name} must be the id of an event of this answer: a number from 0"));
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.filter(|number| *number < u64::from(u32::MAX)).map(Some).ok_or_else(wrong)
}

impl Reply {
    /// That a request was accepted.
    pub(super) fn accepted(standing: &StandingBody) -> Self {
        Self::Accepted { id: standing.id.clone(), json: written(standing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_is_named_by_its_place() {
        let of = |header: Option<&str>, query: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = header {
                headers.insert(LAST_EVENT_ID, HeaderValue::from_str(value).unwrap());
            }
            last_seen(&headers, query)
        };
        assert_eq!((of(None, None), of(Some(""), None), of(None, Some("x=1"))), (Ok(None), Ok(None), Ok(None)));
        assert_eq!(of(Some("7"), None), Ok(Some(7)));
        assert_eq!(of(Some("7"), Some("a=b&starting_after=9")), Ok(Some(9)));
        for wrong in ["-1", "+1", "x", "1.0", "4294967295", "99999999999999999999999", " "] {
            assert!(of(Some(wrong), None).is_err() || wrong == " ", "{wrong}");
            assert!(of(None, Some(&format!("starting_after={wrong}"))).is_err(), "{wrong}");
        }
        assert!(of(None, Some("starting_after=")).is_err());
    }
}
