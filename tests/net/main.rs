//! Bytes and hops: the wire under any bytes, one contract for memory and NATS, leases, and a broker that dies.
//!
//! Needs a nats-server: `scripts/test` installs it.

#[path = "../support/nats.rs"]
mod nats;

mod allocations;
mod contract;
mod leases;
mod mails;
mod outages;
mod wire;

use std::time::Duration;

/// Turns a hang into a failure. No test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// The value of `future`, within [`PATIENCE`].
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting for {what}"),
    }
}
