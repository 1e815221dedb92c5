//! `POST /`: one request, from its head to the answer.

use super::answer::{self, Reply};
use super::parse::{Parsed, accepts_events, parse, patience};
use crate::Intake;
use crate::call::{Answering, Call};
use crate::call_ids::CALL_ID;
use crate::http::body::{self, Arrived};
use crate::http::kinds;
use crate::http::refusal::Refusal;
use crate::site::Site;
use crate::workroom::SHORT_BYTES;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use stageline_base::{Fault, FaultClass, Task};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

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
        match submitted(site, &mut call, headers, body).await {
            Ok((answer, true)) => answer::events(Answering::new(answer, call)).await.map_err(Refusal::from),
            Ok((answer, false)) => answer::whole(Answering::new(answer, call)).await.map_err(Refusal::from),
            Err(refusal) => {
                call.refused(&refusal.fault);
                Err(refusal)
            }
        }
    };
    replying.instrument(span).await.map_err(|refusal| refusal.of_call(call_id))
}

/// Everything before the answer: is this the place, is there room, what is asked. With the answer, whether it is to come as events.
async fn submitted(
    site: &Site,
    call: &mut Call,
    headers: &HeaderMap,
    body: Body,
) -> Result<(crate::Answer, bool), Refusal> {
    let limits = &site.setup.limits;
    let (intake, patience) = match looked_at(site, headers) {
        Ok(looked_at) => looked_at,
        Err(refusal) => return Err(body::unwanted(refusal, headers, body, limits).await),
    };
    let until = call.after(limits.longest(patience));
    let Arrived { bytes, share } = body::read(site, headers, body, until, |_| Ok(())).await?;
    kinds::check_letters(headers, &bytes)?;
    call.takes_place(until)?;
    let Parsed { mut request, stream } = read(site, (headers, intake.task()), bytes, until).await?;
    request.deadline = request.deadline.map(|time| call.left(time)).transpose()?;
    let answer = call.submit(intake, request).await;
    // The memory that its body, or the prompt that was read from it, takes.
    drop(share);
    Ok((answer?, stream))
}

/// What the head says: where the request goes, and how long its client waits.
fn looked_at<'a>(site: &'a Site, headers: &HeaderMap) -> Result<(&'a dyn Intake, Option<Duration>), Refusal> {
    let intake = site.intake()?;
    kinds::check(headers)?;
    Ok((intake, patience(headers)?))
}

/// What the body asks for; a long one is read beside this task.
async fn read(
    site: &Site,
    (headers, task): (&HeaderMap, Task),
    bytes: Vec<u8>,
    until: Instant,
) -> Result<Parsed, Fault> {
    let limits = &site.setup.limits;
    if bytes.len() <= SHORT_BYTES {
        return parse(headers, &bytes, task, limits);
    }
    let (headers, of) = (headers.clone(), limits.clone());
    let late = || Fault::new(FaultClass::DeadlineExceeded, "the deadline passed before the request was read");
    let reading = site.workroom.done(bytes.len(), move || parse(&headers, &bytes, task, &of));
    timeout_at(until, reading).await.map_err(|_| late())??
}
