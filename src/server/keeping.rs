//! Opens what a door keeps durable requests in.

use crate::Host;
use crate::assemble::new_replica;
use crate::broker::Broker;
use stageline_base::{Fault, FaultClass, hex};
use stageline_door::NoStore;
use stageline_door::api::forms::AllForms;
use stageline_door::api::native::Shelf;
use stageline_door::durable::{Keeper, KeeperSetup};
use stageline_door::outgoing::{Allowed, Outgoing};
use stageline_metrics::Metrics;
use stageline_store::{FileSettings, FileStore, Flush, JetStream, Settings, Store, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a job is its taker's: as long as a replica's lease.
const LEASE: Duration = Duration::from_secs(3);
/// How often a broker is asked for its store, and the pause between.
const TRIES: u32 = 3;
const AGAIN: Duration = Duration::from_millis(500);
/// How much longer than any request a blob is kept.
const BLOBS_KEPT: u32 = 4;

/// What a store may hold that no server has: no less than any server lets it.
const MOST_JOBS: u64 = 1 << 40;
const MOST_BYTES: u64 = 1 << 42;
const FOREVER: Duration = Duration::from_secs(1 << 40);

/// How a door keeps durable requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Keeping {
    /// The file to keep them in; without one, the broker keeps them, where there is one.
    pub file: Option<PathBuf>,
    /// Whether nothing is answered before it is on the disk.
    pub sync: bool,
    /// Most requests that wait.
    pub max_stored: u64,
    /// Most bytes that are kept.
    pub max_bytes: u64,
    /// How long a request may take.
    pub timeout: Duration,
    /// How long an answer is kept.
    pub keep: Duration,
    /// Who is told of a request's end whose client names nobody.
    pub callback_url: Option<String>,
    /// Hosts that callbacks may go to; where none is named, all but those that never may be called.
    pub allow: Vec<Allowed>,
    /// The file with what callbacks are signed with.
    pub secret_file: Option<PathBuf>,
    /// Whether every call that brings an id joins the call that had it before.
    pub join_always: bool,
}

impl Keeping {
    /// Who keeps the requests of `host`'s door, at the `broker` unless there is a file; or why nobody does.
    ///
    /// # Errors
    /// `Unavailable`, naming the file, if that cannot be used: whoever named one relies on it.
    pub async fn open(&self, host: &Host, broker: Option<&Broker>) -> Result<Result<Arc<Keeper>, NoStore>, Fault> {
        let blob_age = (self.timeout + self.keep).saturating_mul(BLOBS_KEPT).max(Keeper::LONGEST_KEPT + self.timeout);
        let store: Arc<dyn Store> = if let Some(file) = &self.file {
            let flush = if self.sync { Flush::EachCommit } else { Flush::EverySecond };
            let settings =
                FileSettings { flush, lease: LEASE, max_jobs: self.max_stored, max_bytes: self.max_bytes, blob_age };
            let store = FileStore::open(file, settings).map_err(|error| unusable(&error))?;
            let lost = if self.sync { "nothing" } else { "the last second at most" };
            tracing::info!(file = %file.display(), "durable requests are kept here; with the power is lost: {lost}");
            Arc::new(store)
        } else if let Some(broker) = broker {
            let name = &host.pipeline.name;
            let settings = Settings {
                name: format!("stageline-v1-{name}"),
                subject: format!("stageline.v1.{name}.store"),
                lease: LEASE,
                max_jobs: self.max_stored,
                max_bytes: self.max_bytes,
                blob_age,
                replicas: 1,
            };
            match opened(broker.net.client(), settings).await {
                Ok(store) => {
                    // 2 min where nobody says: nats-server's default.
                    tracing::info!(
                        "durable requests are kept at the broker; with the power is lost what its sync_interval leaves unwritten, 2 min \
                         at most where nobody says"
                    );
                    if self.sync {
                        tracing::warn!(
                            "store_sync is for a file: what a broker flushes its own settings say (sync_interval: always)"
                        );
                    }
                    Arc::new(store)
                }
                // Who asks for nothing durable needs no store: what there was before is served.
                Err(error) => {
                    tracing::warn!(%error, "no durable request can be taken");
                    return Ok(Err(NoStore::Unusable(error.to_string())));
                }
            }
        } else {
            return Ok(Err(NoStore::Unasked));
        };
        if self.allow.is_empty() {
            tracing::warn!("callbacks may go to any host, private ones too: say with --callback-allow to which");
        }
        let setup = KeeperSetup {
            store,
            me: new_replica(),
            manifest: hex(&host.pipeline.digest),
            // As many as may run.
            at_once: host.pipeline.options.max_num_seqs as usize,
            timeout: self.timeout,
            keep: self.keep,
            name: host.pipeline.name.clone(),
            outgoing: outgoing(&self.allow, self.secret_file.as_deref())?,
            callback_url: self.callback_url.clone(),
            join_always: self.join_always,
            metrics: host.metrics.clone(),
            forms: &AllForms,
        };
        Keeper::new(setup).map(Ok)
    }
}

/// Whom calls may go to, and what they are signed with: the content of `secret_file`, where there is one.
///
/// # Errors
/// `InvalidRequest`, naming the file, if that cannot be read or is empty.
pub fn outgoing(allow: &[Allowed], secret_file: Option<&Path>) -> Result<Outgoing, Fault> {
    let secret = match secret_file {
        Some(file) => {
            let unreadable = |error| Fault::invalid(format!("{}: the secret cannot be read: {error}", file.display()));
            let text = std::fs::read(file).map_err(unreadable)?;
            Some(text.trim_ascii().to_vec()).filter(|secret| !secret.is_empty())
        }
        None => None,
    };
    if let (Some(file), None) = (secret_file, &secret) {
        return Err(Fault::invalid(format!("{}: the secret is empty", file.display())));
    }
    Ok(Outgoing { allow: allow.to_vec(), secret })
}

/// The store at the broker of `client`; one that does not answer may be about to start.
async fn opened(client: &async_nats::Client, settings: Settings) -> Result<JetStream, StoreError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match JetStream::open(client.clone(), settings.clone()).await {
            Err(StoreError::Unavailable { .. }) if tries < TRIES => tokio::time::sleep(AGAIN).await,
            opened => return opened,
        }
    }
}

/// The requests in the store at `file`, which no server has, for whoever operates it.
///
/// # Errors
/// `InvalidRequest` if there is no such file (none is made), `Unavailable` if a server has it, or it is no store.
pub fn shelf(file: &Path) -> Result<Shelf, Fault> {
    if !file.exists() {
        return Err(Fault::invalid(format!("{}: there is no such file", file.display())));
    }
    // The server that has it otherwise says what it may hold, and lets go of what is old.
    let settings = FileSettings {
        lease: LEASE,
        max_jobs: MOST_JOBS,
        max_bytes: MOST_BYTES,
        blob_age: FOREVER,
        ..Default::default()
    };
    let store = FileStore::open(file, settings).map_err(|error| match error {
        StoreError::Held { file } => {
            let words = format!("{file}: a server that runs has this store: ask that one, with --target URL");
            Fault::new(FaultClass::Unavailable, words)
        }
        error => unusable(&error),
    })?;
    Shelf::new(KeeperSetup {
        store: Arc::new(store),
        me: new_replica(),
        // Nothing is accepted here, nor run.
        manifest: hex(&[0; 32]),
        at_once: 0,
        timeout: Duration::ZERO,
        keep: Duration::ZERO,
        name: String::new(),
        outgoing: Outgoing::default(),
        callback_url: None,
        join_always: false,
        metrics: Arc::new(Metrics::new("", 0..0)),
        forms: &AllForms,
    })
}

fn unusable(error: &StoreError) -> Fault {
    Fault::new(FaultClass::Unavailable, error.to_string())
}
