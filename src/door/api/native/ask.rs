//! `POST /`: one request, from its head to the answer.

use super::answer;
use super::parse::{Parsed, accepts_events, parse, patience};
use crate::bodies::Share;
use crate::call::{CALL_ID, Call};
use crate::http::body::{self, Arrived};
use crate::http::kinds;
use crate::http::refusal::Refusal;
use crate::http::visit::Visit;
use crate::site::Site;
use crate::workroom::SHORT_BYTES;
use crate::{Intake, Request};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use stageline_base::{Fault, FaultClass, Task};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, warn};

/// Answers, and sends the call id back whatever the answer is.
pub(super) async fn ask(State(site): State<Arc<Site>>, request: axum::extract::Request) -> Response {
    let call_id = site.call_ids.of(request.headers());
    let echoes = echoes(request.headers());
    let call = Call::new(call_id.clone(), Arc::clone(&site.setup.metrics));
    let span = call.span.clone();
    let serving = async {
        // The call goes with a streamed answer, which outlives this function.
        match admit(&site, request).await {
            Ok(asked) => answer_of(asked, call).await,
            Err(refusal) => refuse(refusal, call),
        }
    };
    let mut response = serving.instrument(span).await;
    if let (true, Ok(value)) = (echoes, HeaderValue::from_str(&call_id)) {
        response.headers_mut().insert(CALL_ID, value);
    }
    response
}

/// Whether the answer is to carry the call's id as a header. OpenFaaS' gateway puts the id that it sent on the answer itself, and
/// where a stream is accepted it adds our headers to its own rather than replacing them: the id would be there twice.
fn echoes(headers: &HeaderMap) -> bool {
    !(headers.contains_key(CALL_ID) && accepts_events(headers))
}

/// A request that was taken in.
struct Asked<'a> {
    intake: &'a dyn Intake,
    parsed: Parsed,
    /// The memory that its body, or the prompt that was read from it, takes.
    share: Share,
}

/// Everything before the pipeline is asked: is this the place, is there room, what is asked.
async fn admit(site: &Site, request: axum::extract::Request) -> Result<Asked<'_>, Refusal> {
    // All of a request's times count from its head, as its client counts them.
    let begun = Instant::now();
    let limits = &site.setup.limits;
    let (head, body) = request.into_parts();
    let (intake, patience) = match looked_at(site, &head.headers) {
        Ok(looked_at) => looked_at,
        Err(refusal) => return Err(body::unwanted(refusal, &head.headers, body, limits).await),
    };
    // Nobody is served for longer than that, whatever a client waits for.
    let until = begun + patience.unwrap_or(limits.max_deadline).min(limits.max_deadline);
    let Arrived { bytes, share } = body::read(site, &head.headers, body, until, |_| Ok(())).await?;
    kinds::check_letters(&head.headers, &bytes)?;
    // Only now it takes a place, whose time is bounded: a body that is slow to arrive holds none.
    let visit = Visit::current();
    visit.stays(until, site.place()?)?;
    let mut parsed = read(site, (&head.headers, intake.task()), bytes, until).await?;
    if let Some(deadline) = &mut parsed.request.deadline {
        visit.stays_until(begun + *deadline);
        *deadline = deadline.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()).ok_or_else(late)?;
    }
    Ok(Asked { intake, parsed, share })
}

/// What the head says: where the request goes, and how long its client waits.
fn looked_at<'a>(site: &'a Site, headers: &HeaderMap) -> Result<(&'a dyn Intake, Option<Duration>), Refusal> {
    let intake = site.intake()?;
    kinds::check(headers)?;
    Ok((intake, patience(headers)?))
}

fn late() -> Fault {
    Fault::new(FaultClass::DeadlineExceeded, "the deadline passed before the request was read")
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
    let reading = site.workroom.done(bytes.len(), move || parse(&headers, &bytes, task, &of));
    timeout_at(until, reading).await.map_err(|_| late())??
}

async fn answer_of(Asked { intake, parsed, share }: Asked<'_>, mut call: Call) -> Response {
    let request = Request { call_id: call.id.clone(), ..parsed.request };
    let submitted = intake.submit(request).await;
    drop(share);
    match submitted {
        Err(fault) => refuse(fault.into(), call),
        Ok(answer) => {
            call.admitted(answer.prompt_tokens);
            let answered = match parsed.stream {
                true => answer::stream(answer, call).await,
                false => answer::whole(answer, call).await,
            };
            answered.unwrap_or_else(|(fault, call)| refuse(fault.into(), call))
        }
    }
}

fn refuse(mut refusal: Refusal, mut call: Call) -> Response {
    call.ends(Some(refusal.fault.class));
    warn!(fault = %refusal.fault, "request refused");
    refusal.call_id = Some(call.id.clone());
    refusal.into_response()
}
