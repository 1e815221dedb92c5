//! `POST /`: one request, from its head to the answer.

use super::answer::{self, Reply};
use super::later::Durably;
use super::parse::{Parsed, TIMEOUT, accepts_events, parse, patience};
use super::replies::StandingBody;
use super::requests;
use crate::call::{Answering, Call};
use crate::call_ids::CALL_ID;
use crate::http::body::{self, Arrived};
use crate::http::kinds;
use crate::http::refusal::Refusal;
use crate::site::{Limits, Site};
use crate::workroom::SHORT_BYTES;
use crate::{Answer, Intake};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use stageline_base::{Fault, FaultClass, Task};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, info};

/// Answers, and sends the call id back whatever the answer is.
pub(super) async fn ask(State(site): State<Arc<Site>>, request: axum::extract::Request) -> Response {
    let (head, body) = request.into_parts();
    let call = Call::new(&site, &head.headers, Instant::now());
    let call_id = HeaderValue::from_str(&call.id);
    let answered = reply(&site, call, &head.headers, body).await;
    let mut response = answered.map_or_else(Refusal::into_response, Reply::into_response);
    if let (true, Ok(value)) = (echoes(&head.headers), call_id) {
        response.headers_mut().insert(CALL_ID, value);
    }
    response
}

/// Whether the answer is to carry the call's id as a header. OpenFaaS' gateway puts the id that it sent on the answer itself, and
/// where a stream is accepted it adds our headers to its own rather than replacing them: the id would be there twice.
fn echoes(headers: &HeaderMap) -> bool {
    !(headers.contains_key(CALL_ID) && accepts_events(headers))
}

/// What `call` is answered, whatever carries it, with these headers and this body.
///
/// # Errors
/// What refuses it, with its id.
pub(in crate::api) async fn reply(
    site: &Site,
    mut call: Call,
    headers: &HeaderMap,
    body: Body,
) -> Result<Reply, Refusal> {
    let (call_id, span) = (call.id.clone(), call.span.clone());
    let replying = async {
        let submitted = submitted(site, &mut call, headers, body).await;
        let request = call.request.clone();
        let replied = match submitted {
            Ok(Submitted::Answer(answer, true)) => {
                answer::events(Answering::new(answer, call), 0).await.map_err(Refusal::from)
            }
            Ok(Submitted::Answer(answer, false)) => {
                answer::whole(Answering::new(answer, call)).await.map_err(Refusal::from)
            }
            Ok(Submitted::Later(standing)) => {
                call.ends(None);
                Ok(Reply::accepted(&standing))
            }
            Err(refusal) => {
                call.refused(&refusal.fault);
                Err(refusal)
            }
        };
        replied.map_err(|refusal| refusal.of_call(call_id).of_request(request))
    };
    replying.instrument(span).await
}

/// What becomes of a request.
enum Submitted {
    /// It is answered; whether as events.
    Answer(Answer, bool),
    /// It is answered later, and stands so.
    Later(StandingBody),
}

/// Everything before the answer: is this the place, is there room, what is asked.
async fn submitted(site: &Site, call: &mut Call, headers: &HeaderMap, body: Body) -> Result<Submitted, Refusal> {
    let limits = &site.setup.limits;
    let looked = looked_at(site, (call, headers)).and_then(|looked| Ok((looked, Durably::of(site, headers)?)));
    let ((intake, patience), durably) = match looked {
        Ok(looked) => looked,
        Err(refusal) => return Err(body::unwanted(refusal, headers, body, limits).await),
    };
    let until = call.after(limits.longest(patience));
    let Arrived { bytes, share } = body::read(site, headers, body, until, |_| Ok(())).await?;
    kinds::check_letters(headers, &bytes)?;
    if let Some(durably) = durably {
        return kept(site, call, (intake, &durably), (headers, Arrived { bytes, share }, until)).await;
    }
    call.takes_place(until)?;
    let Parsed { mut request, stream } =
        read(site, (headers, intake.task()), bytes.into(), until, limits.clone()).await?;
    request.deadline = request.deadline.map(|time| call.left(time)).transpose()?;
    let answer = call.submit(intake, request).await;
    // The memory that its body, or the prompt that was read from it, takes.
    drop(share);
    Ok(Submitted::Answer(answer?, stream))
}

/// How long it may take to keep a request.
const KEPT_WITHIN: Duration = Duration::from_secs(20);

/// The same of a request that is kept: it is answered from its log, by whichever door it is run.
async fn kept(
    site: &Site,
    call: &mut Call,
    (intake, durably): (&dyn Intake, &Durably),
    (headers, arrived, until): (&HeaderMap, Arrived, Instant),
) -> Result<Submitted, Refusal> {
    // Whoever waits for an answer holds a place; one that is to come later waits in the store.
    if !durably.later {
        call.takes_place(until)?;
    }
    let Arrived { bytes, share } = arrived;
    let (limits, bytes) = (durably.limits(&site.setup.limits), Bytes::from(bytes));
    let mut head = headers.clone();
    head.remove(&TIMEOUT);
    let Parsed { request, stream } = read(site, (&head, intake.task()), bytes.clone(), until, limits).await?;
    let time = request.deadline.unwrap_or(Duration::MAX);
    let keeping = async {
        intake.check(&request).await?;
        durably.kept(call, (headers, &bytes), time).await
    };
    // A store that stands still keeps nobody waiting for ever.
    let still =
        |_| Fault::new(FaultClass::Unavailable, "the store does not answer: whether the request is kept is not known");
    let kept = timeout_at(until.min(call.after(KEPT_WITHIN)), keeping).await.map_err(still)??;
    // The store has the body: what waits for the answer holds no memory of it.
    drop((bytes, share, request));
    let (keeper, id) = (durably.keeper(), kept.log.token());
    call.request = Some(id.to_owned());
    call.span.in_scope(|| info!(request = id, joined = kept.joined, "request kept"));
    if durably.later {
        // One that was joined may be further; that it is kept is all that must be said.
        let standing =
            if kept.joined { timeout_at(until, keeper.look(call.principal()?, id)).await.ok() } else { None };
        let standing = standing.and_then(Result::ok).flatten();
        let body = standing.as_ref().map_or_else(|| requests::just_kept(&kept), requests::body);
        return Ok(Submitted::Later(body));
    }
    let answer = keeper.answer(intake, (&kept.log, &kept.stored, 0), until).await?;
    call.reads(&answer);
    Ok(Submitted::Answer(answer, stream))
}

/// What the head says: where the request goes, and how long its client waits.
fn looked_at<'a>(
    site: &'a Site,
    (call, headers): (&Call, &HeaderMap),
) -> Result<(&'a dyn Intake, Option<Duration>), Refusal> {
    let intake = site.intake()?;
    call.principal()?;
    kinds::check(headers)?;
    Ok((intake, patience(headers)?))
}

/// What the body asks for; a long one is read beside this task.
async fn read(
    site: &Site,
    (headers, task): (&HeaderMap, Task),
    bytes: Bytes,
    until: Instant,
    limits: Limits,
) -> Result<Parsed, Fault> {
    if bytes.len() <= SHORT_BYTES {
        return parse(headers, &bytes, task, &limits);
    }
    let headers = headers.clone();
    let late = || Fault::new(FaultClass::DeadlineExceeded, "the deadline passed before the request was read");
    let reading = site.workroom.done(bytes.len(), move || parse(&headers, &bytes, task, &limits));
    timeout_at(until, reading).await.map_err(|_| late())??
}
