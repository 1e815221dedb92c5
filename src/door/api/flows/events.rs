//! What happens in a run, as it happens.

use super::Flows;
use super::runs::{found, shown};
use crate::http::kinds;
use crate::http::refusal::{ErrorBody, Refusal};
use crate::http::visit::Visit;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use stageline_base::Fault;
use stageline_flow::run::Logged;
use stageline_store::Name;
use std::convert::Infallible;
use tokio::time::Instant;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const STARTING_AFTER: &str = "starting_after";

/// `GET /runs/ID/events`.
pub(super) async fn events(
    State(flows): State<Flows>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let streamed = async {
        let skip = last_seen(&headers, query.as_deref())?.map_or(0, |last| last + 1);
        let standing = found(&flows, &headers, &id).await?;
        let until = Instant::now() + flows.0.site.setup.limits.max_deadline;
        Visit::current().stays(until, flows.0.site.place()?)?;
        Ok::<_, Refusal>(of(&flows, &standing.log, skip))
    };
    streamed.await.unwrap_or_else(IntoResponse::into_response)
}

/// The events of a run, without the first `skip`; the last is `ended`.
pub(super) fn of(flows: &Flows, log: &Name, skip: u64) -> Response {
    let said = flows.0.keeper.follow(log, 0);
    // Those of before, too, which tell the place of each: a log that is written anew at its end has other positions.
    let pieces = said.scan((0_u64, false), move |(next, over), record| {
        if *over {
            return std::future::ready(None);
        }
        let text;
        match record {
            Ok((_, record)) => {
                let is_all = record.first().and_then(|moment| moment.said.first());
                // The log's last record tells all of it once more.
                let is_again = matches!(is_all, Some(Logged::Accepted(_)));
                let known = if is_again { std::mem::take(next) } else { 0 };
                *over = Logged::end_of(&record).is_some();
                text = told(record, next, skip.max(known));
            }
            Err(fault) => {
                *over = true;
                let body = crate::http::json::written(&ErrorBody::of(&fault, None));
                text = format!("event: error\ndata: {body}\n\n");
            }
        }
        std::future::ready(Some(Ok::<_, Infallible>(text)))
    });
    let no_cache = (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks proxies such as nginx to pass each event on at once.
    let no_buffer = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    ([kind, no_cache, no_buffer], Body::from_stream(pieces)).into_response()
}

/// A record as events, from the `skip`-th of the run on.
fn told(record: Vec<stageline_flow::run::Moment>, next: &mut u64, skip: u64) -> String {
    let mut text = String::new();
    for moment in record {
        for said in moment.said {
            // Whether somebody has heard of the end is no part of it: that comes later, or never.
            if matches!(said, Logged::Delivered { .. }) {
                continue;
            }
            let Some((name, data)) = shown(moment.at, &said) else { continue };
            let place = *next;
            *next += 1;
            if place >= skip {
                text.push_str(&format!("id: {place}\nevent: {name}\ndata: {data}\n\n"));
            }
        }
    }
    text
}

/// The place of the last event that the client has, if it has any.
fn last_seen(headers: &HeaderMap, query: Option<&str>) -> Result<Option<u64>, Fault> {
    let asked =
        query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix(STARTING_AFTER)?.strip_prefix('=')));
    let header = kinds::single(headers, &LAST_EVENT_ID)?.and_then(|value| value.to_str().ok());
    let Some(text) = asked.or(header.filter(|text| !text.is_empty())) else { return Ok(None) };
    let wrong =
        || Fault::invalid("Last-Event-ID and starting_after must be the id of an event of this run: a number from 0");
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse::<u64>().ok() } else { None };
    number.filter(|number| *number < u64::MAX).map(Some).ok_or_else(wrong)
}
