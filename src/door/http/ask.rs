//! `POST /`: one request, from its head to the answer.

use super::answer;
use super::parse::{Model, Parsed, parse};
use super::refusal::Refusal;
use super::{Shared, body};
use crate::door::call::{CALL_ID, Call};
use crate::door::{Intake, Request};
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use tracing::{Instrument, warn};

/// Answers, and sends the call id back whatever the answer is.
pub(super) async fn ask(State(shared): State<Arc<Shared>>, request: axum::extract::Request) -> Response {
    let call_id = shared.call_ids.of(request.headers());
    let mut call = Call::new(call_id.clone(), Arc::clone(&shared.state.metrics));
    let span = call.span.clone();
    let serving = async {
        // The call goes with a streamed answer, which outlives this function.
        let answered = match admit(&shared, &mut call, request).await {
            Ok((intake, parsed)) => return answer_of(intake, parsed, call).await,
            Err(refusal) => refusal,
        };
        refuse(answered, call)
    };
    let mut response = serving.instrument(span).await;
    if let Ok(value) = HeaderValue::from_str(&call_id) {
        response.headers_mut().insert(CALL_ID, value);
    }
    response
}

/// Everything before the pipeline is asked: is this the place, is there room, what is asked.
async fn admit<'a>(
    shared: &'a Shared,
    call: &mut Call,
    request: axum::extract::Request,
) -> Result<(&'a dyn Intake, Parsed), Refusal> {
    let state = &shared.state;
    let intake = shared.intake()?;
    shared.take_room(call)?;
    let (head, body) = request.into_parts();
    let body = body::read(&head.headers, body, &state.limits).await?;
    let model = if intake.embeds() { Model::Embeds } else { Model::Generates };
    let parsed = parse(&head.headers, &body, model, &state.limits)?;
    Ok((intake, parsed))
}

async fn answer_of(intake: &dyn Intake, parsed: Parsed, mut call: Call) -> Response {
    let request = Request { call_id: call.id.clone(), ..parsed.request };
    match intake.submit(request).await {
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
