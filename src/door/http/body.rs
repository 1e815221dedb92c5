//! The body of a request, read within its limits.

use super::refusal::Refusal;
use super::visit::Visit;
use crate::bodies::{Bodies, Share};
use crate::site::{Limits, Site};
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use stageline_base::{Fault, FaultClass};
use stageline_metrics::Shed;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long what nobody wants is read on, and how long without any of it.
const DISCARD: Duration = Duration::from_secs(5);
const DISCARD_PAUSE: Duration = Duration::from_millis(200);

/// A body, and its share of the memory that bodies may take together.
pub(crate) struct Arrived {
    pub bytes: Vec<u8>,
    pub share: Share,
}

/// The whole of `body`, however it arrives: OpenFaaS' gateway sends chunks without a length. Its head has just come; nothing of the
/// request counts after `deadline`. `legal` looks at what there is each time that there is more.
///
/// # Errors
/// 413 as soon as it is or says that it will be too long, 504 at the deadline, 408 if it takes too long otherwise, 400 if
/// it breaks off, 429 if bodies take too much memory together.
pub(crate) async fn read(
    site: &Site,
    headers: &HeaderMap,
    body: Body,
    deadline: Instant,
    legal: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<Arrived, Refusal> {
    let limits = &site.setup.limits;
    let until = Instant::now() + limits.body_timeout;
    let declared = declared(headers);
    // Far too long: it would never be read to its end, so nothing is waited for.
    if declared.is_some_and(|bytes| bytes > limits.max_body_bytes as u64 * 2) {
        return Err(Refusal::from(too_large(limits)).closing());
    }
    let mut chunks = body.into_data_stream();
    let reading = async {
        match declared.is_some_and(|bytes| bytes > limits.max_body_bytes as u64) {
            true => Err(too_large(limits)),
            false => collect(&mut chunks, limits, &site.bodies, legal).await,
        }
    };
    let visit = Visit::current();
    let read = tokio::select! {
        // What has arrived counts before what is only announced.
        biased;
        read = timeout_at(deadline.min(until), reading) => read,
        () = visit.too_large() => return Err(Refusal::from(too_large(limits)).closing()),
        // Told while there is time: a moment later its connection is cut.
        () = visit.stopping() => {
            let words = "this replica is shutting down: send the request again";
            return Err(Refusal::from(Fault::new(FaultClass::Unavailable, words)).closing());
        }
    };
    match read {
        Ok(Ok(arrived)) => Ok(arrived),
        Ok(Err(fault)) => Err(after_the_rest(fault.into(), headers, chunks, limits).await),
        Err(_) => {
            site.setup.metrics.door.connections_shed[Shed::SlowBody as usize].inc();
            if deadline <= until {
                let words = "the deadline passed before the body had arrived";
                return Err(Refusal::from(Fault::new(FaultClass::DeadlineExceeded, words)).closing());
            }
            let seconds = limits.body_timeout.as_secs_f64();
            Err(Refusal::slow(format!("the body took longer than {seconds} s to arrive")))
        }
    }
}

/// `refusal` of a request whose body nobody wants.
pub(crate) async fn unwanted(refusal: Refusal, headers: &HeaderMap, body: Body, limits: &Limits) -> Refusal {
    if declared(headers).is_some_and(|bytes| bytes > limits.max_body_bytes as u64 * 2) {
        return refusal.closing();
    }
    after_the_rest(refusal, headers, body.into_data_stream(), limits).await
}

/// `refusal`, once the rest of the body has been read or has shown to be long in coming: in the middle of its sending, a client
/// may lose the answer, and a gateway between makes it another one. One that asks first (Expect: 100-continue) need not send what
/// is refused.
async fn after_the_rest(refusal: Refusal, headers: &HeaderMap, mut chunks: BodyDataStream, limits: &Limits) -> Refusal {
    if headers.contains_key(header::EXPECT) {
        return refusal.closing();
    }
    let most = limits.max_body_bytes.saturating_mul(2);
    let discarding = async {
        let mut discarded = 0;
        loop {
            match timeout(DISCARD_PAUSE, chunks.next()).await {
                Ok(None) => return true,
                Ok(Some(Ok(chunk))) if discarded < most => discarded += chunk.len(),
                _ => return false,
            }
        }
    };
    let visit = Visit::current();
    let whole = tokio::select! {
        // The end of the body counts before what is only announced.
        biased;
        whole = timeout(DISCARD.min(limits.body_timeout), discarding) => whole.unwrap_or(false),
        () = visit.too_large() => false,
    };
    if whole { refusal } else { refusal.closing() }
}

fn too_large(limits: &Limits) -> Fault {
    let most = limits.max_body_bytes;
    Fault::new(FaultClass::TooLarge, format!("the body may be at most {most} bytes long"))
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(
    chunks: &mut BodyDataStream,
    limits: &Limits,
    bodies: &Arc<Bodies>,
    mut legal: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<Arrived, Fault> {
    let mut bytes = Vec::new();
    let mut share = bodies.share();
    loop {
        let chunk = tokio::select! {
            chunk = chunks.next() => chunk,
            () = share.shed() => return Err(share.refusal()),
        };
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|_| Fault::invalid("the body broke off: send it whole"))?;
        if bytes.len() + chunk.len() > limits.max_body_bytes {
            return Err(too_large(limits));
        }
        share.grow(chunk.len())?;
        bytes.extend_from_slice(&chunk);
        legal(&bytes)?;
    }
    share.is_whole();
    Ok(Arrived { bytes, share })
}
