//! The message of a call, gathered whole before the call begins: one that is slow to arrive holds no place, and one that is too
//! large is refused in our words.

use super::deadline;
use super::service::refused;
use crate::call::Call;
use crate::http::body::{self, Arrived};
use crate::http::kinds;
use crate::http::refusal::Refusal;
use crate::site::Site;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use stageline_base::border::MAX_TENSORS;
use stageline_base::limits::MAX_STOP_STRINGS;
use stageline_base::{Fault, FaultClass};
use stageline_wire::entries;
use std::sync::Arc;
use tokio::time::Instant;

/// In front of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// The fewest bytes that a message of a conversation takes: keys, lengths and a role.
const MESSAGE_BYTES: usize = 8;

/// When a call's head came: what its time counts from.
#[derive(Clone, Copy)]
pub(super) struct Came(pub Instant);

/// Gathers the message of each call of ours.
pub(super) async fn gathered(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    if let Err(refusal) = is_call(&request) {
        let (head, body) = request.into_parts();
        let refusal = body::unwanted(refusal, &head.headers, body, &site.setup.limits).await;
        let mut response = refusal.into_response();
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        return response;
    }
    // Reflection and health calls live as long as their client likes; they carry next to nothing.
    if !request.uri().path().starts_with("/stageline.v1.") {
        return next.run(request).await;
    }
    let came = Instant::now();
    let (mut head, body) = request.into_parts();
    let check: Look = match head.uri.path().rsplit('/').next() {
        Some("Generate") => not_too_many,
        Some("Infer" | "Run") => not_too_many_tensors,
        _ => |_: &[u8]| Ok(()),
    };
    match arrived(&site, &head.headers, body, (came, check)).await {
        Ok(arrived) => {
            head.extensions.insert(Came(came));
            let answered = next.run(Request::from_parts(head, Body::from(arrived.bytes))).await;
            drop(arrived.share);
            answered
        }
        Err(fault) => refused(&fault, Call::new(&site, &head.headers, came)).into_http(),
    }
}

/// Refuses what is no call of gRPC in words of HTTP, which is what its client speaks.
fn is_call(request: &Request) -> Result<(), Refusal> {
    if request.method() != Method::POST {
        return Err(Refusal::with_status(
            StatusCode::METHOD_NOT_ALLOWED,
            "this path takes calls of gRPC, which are POST",
        ));
    }
    if request.version() < Version::HTTP_2 {
        let words =
            "this path takes calls of gRPC, over HTTP/2 alone: a gateway between may speak HTTP/1.1; or send JSON to /";
        return Err(Refusal::with_status(StatusCode::HTTP_VERSION_NOT_SUPPORTED, words));
    }
    match kinds::name(request.headers()).as_str() {
        "application/grpc" | "application/grpc+proto" => Ok(()),
        _ => {
            let words = "this path takes calls of gRPC (application/grpc): send JSON to /";
            Err(Refusal::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, words))
        }
    }
}

/// Looks at a message before it is read.
type Look = fn(&[u8]) -> Result<(), Fault>;

/// The message of a call whose head `came`, if it arrives while its client waits and is one that may be read.
async fn arrived(
    site: &Site,
    headers: &HeaderMap,
    body: Body,
    (came, check): (Instant, Look),
) -> Result<Arrived, Fault> {
    let limits = &site.setup.limits;
    let deadline = came + limits.longest(deadline::of(headers)?);
    let most = limits.max_body_bytes;
    let arrived = body::read(site, headers, body, deadline, |bytes| not_too_large(bytes, most)).await;
    let arrived = arrived.map_err(|refusal| refusal.fault)?;
    check(arrived.bytes.get(PREFIX_BYTES..).unwrap_or_default())?;
    Ok(arrived)
}

/// Refuses a message by the length that it says it has.
fn not_too_large(bytes: &[u8], most: usize) -> Result<(), Fault> {
    let Some(&[_, a, b, c, d]) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(()) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length.saturating_add(PREFIX_BYTES) <= most {
        return Ok(());
    }
    let words = format!("the message has {length} bytes and may have {} at most", most.saturating_sub(PREFIX_BYTES));
    Err(Fault::new(FaultClass::TooLarge, words))
}

/// Refuses what would take many times its bytes once it is read: entries of next to no bytes.
fn not_too_many(message: &[u8]) -> Result<(), Fault> {
    if entries(message, &[2, 1]).saturating_mul(MESSAGE_BYTES) > message.len() {
        return Err(Fault::invalid(
            "`chat` holds messages without a role: each must be `system`, `user` or `assistant`",
        ));
    }
    let stops = entries(message, &[9]);
    if stops > MAX_STOP_STRINGS {
        return Err(Fault::invalid(format!("`stop` may hold at most {MAX_STOP_STRINGS} texts, not {stops}")));
    }
    Ok(())
}

/// The same of tensors.
fn not_too_many_tensors(message: &[u8]) -> Result<(), Fault> {
    match entries(message, &[1]) {
        0..=MAX_TENSORS => Ok(()),
        tensors => Err(Fault::invalid(format!("`inputs` may hold at most {MAX_TENSORS} tensors, not {tensors}"))),
    }
}
