//! grpc.health.v1: whether the stage takes work now.

use crate::Readiness;
use crate::site::Site;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

/// How often a watched readiness is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The services whose health can be asked for; "" is the whole server.
const SERVICES: [&str; 2] = ["", "stageline.v1.Inference"];

/// See the module.
pub(super) struct Health {
    site: Arc<Site>,
}

impl Health {
    pub(super) fn new(site: Arc<Site>) -> Self {
        Self { site }
    }
}

fn now(site: &Site) -> ServingStatus {
    match (site.setup.readiness)() {
        Readiness::Ready => ServingStatus::Serving,
        Readiness::NotReady(_) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service: ask for \"\" or \"stageline.v1.Inference\""));
        }
        Ok(Response::new(HealthCheckResponse { status: now(&self.site).into() }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// The status now, and again whenever it is another one.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            // As the protocol says: the service may come later.
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            return Ok(Response::new(stream::iter([Ok(unknown)]).chain(stream::pending()).boxed()));
        }
        let changes = stream::unfold((Arc::clone(&self.site), None), |(site, told)| async move {
            loop {
                let status = now(&site);
                if told != Some(status) {
                    return Some((Ok(HealthCheckResponse { status: status.into() }), (site, Some(status))));
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}
