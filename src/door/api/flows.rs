//! Flows over HTTP: as flows, and as functions of a gateway, so that whoever calls functions calls flows.
//!
//! `POST /flows/NAME` and `POST /function/NAME` wait for a run's end; `POST /async-function/NAME`, or any with
//! `Prefer: respond-async`, is answered at once. `/runs` tells how runs stand, and takes orders. A function that is no flow is the
//! gateway's, to which the call is passed.

mod events;
mod passing;
mod runs;
mod starting;

pub use runs::told;

use super::native;
use crate::site::Site;
use axum::Router;
use axum::extract::FromRef;
use axum::routing::{any, get, post};
use stageline_flow::definition::{File, Flow};
use stageline_runner::Keeper;
use std::sync::Arc;

/// What a door of flows needs.
#[derive(Clone)]
pub struct FlowsSetup {
    /// What it shares with all doors.
    pub site: Arc<Site>,
    /// Who keeps runs.
    pub keeper: Arc<Keeper>,
    /// The flows.
    pub file: Arc<File>,
    /// The digest of their file.
    pub definition: String,
    /// Where functions are that are no flows, whatever the file says.
    pub gateway: Option<String>,
    /// The flow that `POST /` is for.
    pub only: Option<String>,
}

/// A door of flows.
#[derive(Clone)]
struct Flows(Arc<FlowsSetup>);

impl FromRef<Flows> for Arc<Site> {
    fn from_ref(flows: &Flows) -> Self {
        Arc::clone(&flows.0.site)
    }
}

impl Flows {
    fn flow(&self, name: &str) -> Option<&Flow> {
        self.0.file.flows.get(name)
    }

    fn gateway(&self) -> Option<&str> {
        self.0.gateway.as_deref().or(self.0.file.gateway.as_deref())
    }
}

/// The services of a door of flows.
pub fn router(setup: FlowsSetup) -> Router {
    let site = Arc::clone(&setup.site);
    let flows = Flows(Arc::new(setup));
    let own = Router::new()
        .route("/", post(starting::only))
        .route("/flows", get(runs::flows))
        .route("/flows/{name}", post(starting::flow).get(runs::flow))
        .route("/function/{name}", any(starting::function))
        .route("/async-function/{name}", any(starting::async_function))
        .route("/function/{name}/{*rest}", any(passing::beyond))
        .route("/async-function/{name}/{*rest}", any(passing::beyond))
        .route("/runs", get(runs::list))
        .route("/runs/{id}", get(runs::show).delete(runs::cancel))
        .route("/runs/{id}/events", get(events::events))
        .route("/runs/{id}/{order}", post(runs::order))
        .with_state(flows);
    own.merge(native::watched().with_state(Arc::clone(&site))).merge(native::measured().with_state(site))
}
