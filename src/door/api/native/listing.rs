//! `/requests`: the durable requests that there are, and those that are to be tried anew.

use super::later::keeper_of;
use super::replies::{Listed, Listing};
use super::requests::{self, READ_WITHIN};
use crate::durable::Standing;
use crate::http::json::written;
use crate::http::refusal::Refusal;
use crate::site::Site;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use stageline_base::Fault;
use std::sync::Arc;
use tokio::time::timeout;

/// Most requests that are listed, and how many where nobody says.
const MOST: usize = 10_000;
const USUAL: usize = 100;

/// `GET /requests`.
pub(super) async fn list(State(site): State<Arc<Site>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let listed = async {
        site.intake()?;
        let who = site.principal(&headers)?;
        let most = most(query.as_deref())?;
        let listing = timeout(READ_WITHIN, keeper_of(&site)?.list(&who, most, listed));
        let listing = Listing { requests: listing.await.map_err(requests::still)?? };
        let json = HeaderValue::from_static("application/json");
        Ok(([(header::CONTENT_TYPE, json)], written(&listing)).into_response())
    };
    listed.await.unwrap_or_else(Refusal::into_response)
}

/// `POST /requests/ID/retry`.
pub(super) async fn retry(State(site): State<Arc<Site>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let retried = async {
        site.intake()?;
        let who = site.principal(&headers)?;
        match keeper_of(&site)?.retry(&who, &id).await? {
            Some(standing) => Ok(super::answer::Reply::accepted(&requests::body(&standing)).into_response()),
            None => Err(requests::unknown()),
        }
    };
    retried.await.unwrap_or_else(Refusal::into_response)
}

fn most(query: Option<&str>) -> Result<usize, Fault> {
    let asked = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("limit=")));
    let Some(asked) = asked else { return Ok(USUAL) };
    let number = asked.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| Fault::invalid(format!("limit may be 1 to {MOST}")))
}

pub(super) fn listed(standing: &Standing) -> Listed {
    let Standing { log, stored, life } = standing;
    let fault = life.ended.as_ref().and_then(|(outcome, _)| outcome.as_ref().err());
    Listed {
        id: log.token().to_owned(),
        call_id: stored.call_id().to_owned(),
        principal: stored.principal().to_owned(),
        status: standing.status(),
        why: life.delivered.clone().flatten().or_else(|| fault.map(|fault| fault.message.clone())),
        answer_tokens: life.tokens.len() as u64,
        deaths: life.deaths,
        accepted_unix_ms: stored.accepted().0,
        deadline_unix_ms: life.accepted.as_ref().map_or(0, |accepted| accepted.deadline.0),
        ended_unix_ms: life.ended.as_ref().map(|(_, at)| at.0),
    }
}
