//! A fault as an HTTP answer.

use super::json::written;
use crate::call_ids::name_request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use stageline_base::{Fault, FaultClass, StageIndex};
use std::time::Duration;

/// After how long a refused client may try again, where nothing better is known.
const AGAIN: Duration = Duration::from_secs(1);

/// An answer that says why there is none: a fault, and its status where HTTP has one that faults have not.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub fault: Fault,
    status: StatusCode,
    /// For the request that is refused, if it got so far as to have one.
    call_id: Option<String>,
    /// The durable request that it is of, if it is of one.
    request: Option<String>,
    /// The connection is closed after it: the rest of the request is not read.
    closes: bool,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = StatusCode::from_u16(fault.class.row().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { fault, status, call_id: None, request: None, closes: false }
    }
}

impl Refusal {
    /// A request that is invalid in a way for which HTTP has a status of its own.
    pub(crate) fn with_status(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, ..Fault::invalid(message).into() }
    }

    /// A request whose body did not arrive in time, after which the connection closes: there would be no end of that body.
    pub(crate) fn slow(message: impl Into<String>) -> Self {
        let fault = Fault::new(FaultClass::DeadlineExceeded, message);
        Self { status: StatusCode::REQUEST_TIMEOUT, closes: true, ..fault.into() }
    }

    /// The same, of the request with this id.
    pub(crate) fn of_call(self, id: String) -> Self {
        Self { call_id: Some(id), ..self }
    }

    /// The same, of this durable request where there is one.
    pub(crate) fn of_request(self, request: Option<String>) -> Self {
        Self { request, ..self }
    }

    /// The durable request that it is of.
    pub(crate) fn request(&self) -> Option<&str> {
        self.request.as_deref()
    }

    /// The status of HTTP that tells it.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What says it, as JSON.
    pub(crate) fn body(&self) -> String {
        written(&ErrorBody::of(&self.fault, self.call_id.as_deref()))
    }

    /// The same, after which the connection closes.
    pub(crate) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }
}

/// The body of an answer, or the event `error` of one that had begun, that says what went wrong.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody {
    /// What went wrong.
    error: What,
}

/// What went wrong.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct What {
    /// What kind of failure it is.
    #[schemars(extend("enum" = FaultClass::ALL.map(|class| class.row().name)))]
    class: &'static str,
    /// What failed, where, and what to do; for people.
    message: String,
    /// What such a failure asks of the client.
    what_to_do: &'static str,
    /// After how many seconds the same request may be sent again, where it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// The stage at which it happened, if it was at one.
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<StageIndex>,
    /// The request's id, if it got so far as to have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<String>,
}

impl ErrorBody {
    /// What tells `fault`.
    pub(crate) fn of(fault: &Fault, call_id: Option<&str>) -> Self {
        let waits = matches!(fault.class, FaultClass::Overloaded | FaultClass::Unavailable);
        let error = What {
            class: fault.class.row().name,
            message: fault.message.clone(),
            what_to_do: what_to_do(fault.class),
            retry_after: waits.then(|| again_in(fault)),
            stage: fault.stage,
            call_id: call_id.map(str::to_string),
        };
        Self { error }
    }
}

/// After how many seconds a client may try again.
fn again_in(fault: &Fault) -> u64 {
    let wait = fault.retry_after.unwrap_or(AGAIN);
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn what_to_do(class: FaultClass) -> &'static str {
    match class {
        FaultClass::InvalidRequest => "change the request as the message says; sent again as it is, it fails again",
        FaultClass::TooLarge => "make the request smaller than the limit that the message names",
        FaultClass::Misdirected => "send the request where the message says",
        FaultClass::Unauthenticated => "send a key that the door knows",
        FaultClass::Overloaded => "send the same request again after the seconds in retry_after",
        FaultClass::DeadlineExceeded => "send it again, all of it at once, with fewer max_tokens or a longer deadline",
        FaultClass::Cancelled => "nothing: the client ended the request",
        FaultClass::Unavailable => "send the same request again after the seconds in retry_after",
        FaultClass::DeviceFailed => "send it again; if it fails again, look for its call id in the stage's log",
        FaultClass::Internal => {
            "this is a defect of the server or its model's files: report it with the call id and the server's log"
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let mut response = (self.status, [(header::CONTENT_TYPE, json)], self.body()).into_response();
        let headers = response.headers_mut();
        name_request(headers, self.request.as_deref());
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(again_in(&self.fault)));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            // By this name OpenFaaS' queue worker knows that the function is full, not broken.
            let name = HeaderName::from_static("x-openfaas-internal");
            headers.insert(name, HeaderValue::from_static("stageline"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
