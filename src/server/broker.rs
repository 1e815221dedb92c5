//! The broker that a stage reaches the others by.

use crate::Pipeline;
use stageline_base::hex;
use stageline_base::{Fault, FaultClass, StageIndex};
use stageline_metrics::Metrics;
use stageline_transport::{INBOX_PREFIX, NatsLeases, NatsNet, NatsSettings, TransportError};
use stageline_wire::Subjects;
use std::path::PathBuf;
use std::time::Duration;

/// How long a stage waits for a broker that starts at the same time; whoever restarts stages takes over after that.
pub(super) const BROKER_PATIENCE: Duration = Duration::from_secs(15);

/// How a stage reaches the others.
pub struct Broker {
    pub(super) net: NatsNet,
    pub(super) leases: NatsLeases,
}

/// Where the broker is, and who we say we are there.
#[derive(Clone, Debug, Default)]
pub struct BrokerAccess {
    /// Servers of one NATS cluster, separated by commas.
    pub urls: String,
    /// Credentials file.
    pub credentials: Option<PathBuf>,
    /// A user, and the file with its password.
    pub user: Option<(String, PathBuf)>,
}

/// Reaches the broker, for a process that serves `stage` and counts in `metrics`.
///
/// # Errors
/// `Unavailable` if it cannot be reached, or has no JetStream.
pub async fn reach(
    pipeline: &Pipeline,
    stage: StageIndex,
    access: BrokerAccess,
    metrics: &Metrics,
) -> Result<Broker, Fault> {
    let subjects = Subjects::new(&pipeline.name, &hex(&pipeline.digest)).map_err(|e| Fault::invalid(e.to_string()))?;
    let BrokerAccess { urls, credentials, user } = access;
    let inbox_prefix = format!("{INBOX_PREFIX}.s{stage}");
    let metrics = metrics.broker.clone();
    let wire_dtype = pipeline.options.wire_dtype;
    let settings =
        NatsSettings { credentials, user, inbox_prefix, wire_dtype, metrics, ..NatsSettings::new(urls, subjects) };
    let net = NatsNet::connect_within(settings, BROKER_PATIENCE).await.map_err(unreachable)?;
    let leases = NatsLeases::open(&net).await.map_err(unreachable)?;
    Ok(Broker { net, leases })
}

/// A transport's error as a fault.
pub(super) fn unreachable(error: TransportError) -> Fault {
    Fault::new(FaultClass::Unavailable, error.to_string())
}
