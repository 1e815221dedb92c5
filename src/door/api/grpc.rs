//! The gRPC door: `proto/stageline/v1/inference.proto` says what each call does.
//!
//! It stands on the port of the HTTP door, and takes requests into the same [`Intake`](crate::Intake) under the same limits.

mod body;
mod deadline;
mod durable;
mod health;
mod requests;
mod service;
mod status;

pub(super) use durable::stored;

use crate::site::{Port, Site};
use axum::Router;
use axum::middleware::from_fn_with_state;
use stageline_proto::inference as pb;
use stageline_proto::inference::inference_server::InferenceServer;
use std::sync::Arc;
use tonic::service::Routes;
use tonic_health::pb::FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder as Reflection;

/// Largest message that is sent, in bytes: the activations of the longest run.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// The gRPC services of a stage, as far as they are to be had at `port`.
pub(crate) fn routes(site: Arc<Site>, port: Port) -> Router {
    // What is too large is refused before it gets here: see `body`.
    let inference = InferenceServer::new(service::Service::new(Arc::clone(&site), port))
        .max_decoding_message_size(MAX_ANSWER_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let health = HealthServer::new(health::Health::new(site.setup.readiness.clone()));
    let mut routes = Routes::new(inference).add_service(health);
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS)
    };
    // Descriptors of the build: that they can be read is a test's to say, and no reason for a stage not to serve.
    if port != Port::Clients
        && let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha())
    {
        routes = routes.add_service(v1).add_service(v1alpha);
    }
    // A path of no service is the HTTP door's to answer.
    routes.into_axum_router().reset_fallback().layer(from_fn_with_state(site, body::gathered))
}
