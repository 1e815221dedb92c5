//! Durable requests over gRPC: an `idempotency-key` in the metadata, and [`Follow`](pb::FollowRequest).

use super::service::{Arrived, Service, events, name, refused};
use super::{pb, requests};
use crate::Answer;
use crate::call::Answering;
use crate::durable::{Api, Asking, Declined, Keeper, Key};
use crate::site::{NoStore, Site};
use axum::body::Bytes;
use futures::Stream;
use prost::Message;
use stageline_base::{Fault, FaultClass};
use std::sync::Arc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};
use tracing::{Instrument, info};

/// The metadata that names a durable request.
const REQUEST_ID: &str = "request-id";

/// The request that a call's message was when it was accepted.
///
/// # Errors
/// As when it is called.
pub(in crate::api) fn stored(api: Api, message: &[u8]) -> Result<crate::Request, Fault> {
    let unreadable = |error| Fault::internal(format!("a stored call cannot be read: {error}"));
    let message = Bytes::copy_from_slice(message);
    match api {
        Api::Embed => requests::embed(pb::EmbedRequest::decode(message).map_err(unreadable)?),
        _ => requests::generate(pb::GenerateRequest::decode(message).map_err(unreadable)?),
    }
}

/// A call's message that may be kept.
pub(super) struct Kept {
    pub api: Api,
    pub message: Vec<u8>,
}

impl Service {
    /// The answer to a call with a key, from the log of its request; `None` where it has no key, or the door no store.
    pub(super) async fn kept(
        &self,
        arrived: &mut Arrived,
        kept: Kept,
        request: &crate::Request,
    ) -> Result<Option<Answer>, Fault> {
        let Some(key) = arrived.key.clone()? else { return Ok(None) };
        // Without a store, a key counts for nothing.
        if self.site.setup.keeper.as_ref().is_err_and(|none| *none == NoStore::Unasked) {
            return Ok(None);
        }
        let keeper = keeper_of(&self.site)?;
        self.site.intake()?.check(request).await?;
        let (call, until) = (&mut arrived.call, arrived.time.clone()?);
        let asking = Asking {
            principal: call.principal()?,
            key: Key::Idempotency(&key),
            call_id: &call.id,
            trace: call.trace,
            api: kept.api,
            content_type: "application/grpc",
            body: &kept.message,
            time: keeper.setup().timeout,
            callback: None,
        };
        let kept = keeper.accept(asking).await.map_err(|declined| match declined {
            Declined::OtherBody => {
                Fault::invalid("this idempotency-key was used for another message: send another one")
            }
            Declined::Fault(fault) => fault,
        })?;
        call.span.in_scope(|| info!(request = kept.log.token(), joined = kept.joined, "request kept"));
        let answer = keeper.answer(self.site.intake()?, (&kept.log, &kept.stored, 0), call.after(until)).await?;
        call.reads(&answer);
        arrived.request = Some(kept.log.token().to_owned());
        Ok(Some(answer))
    }

    /// See [`Follow`](pb::FollowRequest).
    pub(super) async fn followed(
        &self,
        request: Request<pb::FollowRequest>,
    ) -> Result<Response<impl Stream<Item = Result<pb::GenerateEvent, Status>> + use<>>, Status> {
        let (mut arrived, asked) = self.arrived(request);
        let span = arrived.call.span.clone();
        let skip = asked.starting_after.map_or(0, |last| u64::from(last) + 1);
        match found(&self.site, &mut arrived, &asked.id, skip).instrument(span).await {
            Err(fault) => Err(refused(&fault, arrived.call)),
            Ok(answer) => {
                let mut response = Response::new(());
                name(response.metadata_mut(), &arrived.call.id);
                names(response.metadata_mut(), &asked.id);
                let stream = events(Answering::new(answer, arrived.call), skip as u32);
                Ok(response.map(|()| stream))
            }
        }
    }
}

/// Who keeps the durable requests of `site`.
///
/// # Errors
/// `InvalidRequest` where the door was started without a store, `Unavailable` where that cannot be used.
fn keeper_of(site: &Site) -> Result<&Arc<Keeper>, Fault> {
    site.setup.keeper.as_ref().map_err(|none| match none {
        NoStore::Unasked => Fault::invalid(none.words()),
        NoStore::Unusable(_) => Fault::new(FaultClass::Unavailable, none.words()),
    })
}

async fn found(site: &Site, arrived: &mut Arrived, id: &str, skip: u64) -> Result<Answer, Fault> {
    let intake = site.intake()?;
    arrived.takes_place()?;
    let keeper = keeper_of(site)?;
    let standing = keeper.look(arrived.call.principal()?, id).await?;
    let standing =
        standing.ok_or_else(|| Fault::invalid("there is no request of this id, or it is somebody else's"))?;
    let tokens = standing.life.tokens.len() as u64;
    if skip > tokens {
        let last = skip - 1;
        return Err(Fault::invalid(format!("the answer has {tokens} tokens so far: {last} is no index of one")));
    }
    arrived.call.id = standing.stored.call_id().to_owned();
    let until = arrived.call.after(arrived.time.clone()?);
    let answer = keeper.answer(intake, (&standing.log, &standing.stored, skip as usize), until).await?;
    arrived.call.reads(&answer);
    Ok(answer)
}

/// Names a durable request to its client.
pub(super) fn names(metadata: &mut MetadataMap, request: &str) {
    if let Ok(id) = MetadataValue::try_from(request) {
        metadata.insert(REQUEST_ID, id);
    }
}
