//! Bytes and hops: the wire under any bytes, one contract for every hop, joins, leases, and a broker that dies.
//!
//! Needs a nats-server: `scripts/test` installs it.

#[path = "../support/nats.rs"]
mod nats;
#[path = "../support/patience.rs"]
mod patience;

mod allocations;
mod contract;
mod hops;
mod joins;
mod leases;
mod mails;
mod outages;
mod wire;

use patience::soon;
