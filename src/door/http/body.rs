//! The body of a request, read within its limits.

use super::HttpLimits;
use super::refusal::Refusal;
use crate::base::{Fault, FaultClass};
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt;
use tokio::time::timeout;

/// The whole of `body`, however it arrives: OpenFaaS' gateway sends chunks without a length.
///
/// # Errors
/// 413 as soon as it is too long, 408 if it takes too long, 400 if it breaks off.
pub(super) async fn read(headers: &HeaderMap, body: Body, limits: &HttpLimits) -> Result<Vec<u8>, Refusal> {
    let mut chunks = body.into_data_stream();
    let reading = async {
        let whole = collect(headers, &mut chunks, limits.max_body_bytes).await;
        // Closed in the middle of its sending, a client may lose the answer: read on a little and keep nothing. One that asks
        // first (Expect: 100-continue) need not send what is refused.
        if whole.is_err() && !headers.contains_key(header::EXPECT) {
            discard(&mut chunks, limits.max_body_bytes.saturating_mul(2)).await;
        }
        whole
    };
    match timeout(limits.body_timeout, reading).await {
        Ok(read) => read.map_err(Refusal::from),
        Err(_) => {
            let seconds = limits.body_timeout.as_secs_f64();
            let message = format!("the body took longer than {seconds} s to arrive");
            Err(Refusal::with_status(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

async fn collect(headers: &HeaderMap, chunks: &mut BodyDataStream, most: usize) -> Result<Vec<u8>, Fault> {
    let too_large = || Fault::new(FaultClass::TooLarge, format!("the body may be at most {most} bytes long"));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > most as u64) {
        return Err(too_large());
    }
    let mut whole = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Fault::invalid("the body broke off: send it whole"))?;
        if whole.len() + chunk.len() > most {
            return Err(too_large());
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

async fn discard(chunks: &mut BodyDataStream, most: usize) {
    let mut discarded = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        discarded += chunk.len();
        if discarded > most {
            break;
        }
    }
}
