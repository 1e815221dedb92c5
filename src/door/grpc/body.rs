//! The message of a call, gathered whole before the call begins: one that is slow to arrive holds no place, and one that is too
//! large is refused in our words.

use super::status;
use crate::base::limits::MAX_STOP_STRINGS;
use crate::base::{Fault, FaultClass};
use crate::door::http::{Shared, body};
use crate::wire::entries;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;

/// In front of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// The fewest bytes that a message of a conversation takes: keys, lengths and a role.
const MESSAGE_BYTES: usize = 8;

/// Gathers the message of each call of ours.
pub(super) async fn gathered(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    // Reflection and health calls live as long as their client likes; they carry next to nothing.
    if !request.uri().path().starts_with("/stageline.v1.") {
        return next.run(request).await;
    }
    let generates = request.uri().path().ends_with("/Generate");
    let (head, body) = request.into_parts();
    let most = shared.state.limits.max_body_bytes;
    let arrived = body::read(&shared, &head.headers, body, |bytes| not_too_large(bytes, most)).await;
    let arrived = arrived.map_err(|refusal| refusal.fault).and_then(|arrived| {
        if generates {
            not_too_many(arrived.bytes.get(PREFIX_BYTES..).unwrap_or_default())?;
        }
        Ok(arrived)
    });
    match arrived {
        Ok(arrived) => {
            let answered = next.run(Request::from_parts(head, Body::from(arrived.bytes))).await;
            drop(arrived.share);
            answered
        }
        Err(fault) => status::of(&fault).into_http(),
    }
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
