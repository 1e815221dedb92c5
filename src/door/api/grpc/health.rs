//! grpc.health.v1: whether the stage takes work now.
//!
//! Not by the reporter of tonic-health: that ends the watch of a service that it does not know, where the protocol says that the
//! service may come later.

use crate::Readiness;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

/// The services whose health can be asked for; "" is the whole server.
const SERVICES: [&str; 2] = ["", "stageline.v1.Inference"];

/// See the module.
pub(super) struct Health {
    readiness: watch::Receiver<Readiness>,
}

impl Health {
    pub(super) fn new(readiness: watch::Receiver<Readiness>) -> Self {
        Self { readiness }
    }
}

fn status_of(readiness: &Readiness) -> ServingStatus {
    match readiness {
        Readiness::Ready => ServingStatus::Serving,
        Readiness::NotReady(_) => ServingStatus::NotServing,
    }
}

fn says(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service: ask for \"\" or \"stageline.v1.Inference\""));
        }
        Ok(Response::new(says(status_of(&self.readiness.borrow()))))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// The status now, and again whenever it is another one.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            let unknown = stream::iter([Ok(says(ServingStatus::ServiceUnknown))]);
            return Ok(Response::new(unknown.chain(stream::pending()).boxed()));
        }
        let changes = stream::unfold((self.readiness.clone(), None), |(mut readiness, told)| async move {
            loop {
                let status = status_of(&readiness.borrow_and_update());
                // Another reason for the same status is nothing new.
                if told != Some(status) {
                    return Some((Ok(says(status)), (readiness, Some(status))));
                }
                readiness.changed().await.ok()?;
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}
