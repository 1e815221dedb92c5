//! Where a stage answers HTTP and gRPC: one address, or one for clients and one for operators.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stageline_base::Fault;
use stageline_door::http::{self, SPARE_CONNECTIONS};
use stageline_door::{Limits, Site, SiteSetup, router, routers_apart};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Descriptors that are kept for all else: shards, the broker, hops, the log.
const RESERVED_FILES: usize = 256;
/// Most connections of operators.
const ADMIN_CONNECTIONS: usize = 64;

/// Addresses that are bound, before anything is answered there.
pub struct Ports {
    clients: TcpListener,
    admin: Option<TcpListener>,
    limits: Limits,
}

/// Addresses that are being served. Dropped, they cut all connections.
pub struct Served {
    /// What its doors have in common.
    pub site: Arc<Site>,
    closing: CancellationToken,
    serving: JoinSet<()>,
}

impl Ports {
    /// Binds the address of clients, and one for operators if they are to have their own. Of `limits` the connections are as many
    /// as this process may have files for.
    ///
    /// # Errors
    /// `InvalidRequest` if one of them cannot be had.
    pub async fn bind(clients: SocketAddr, admin: Option<SocketAddr>, limits: Limits) -> Result<Self, Fault> {
        let limits = Limits { max_connections: most_connections(limits.max_connections), ..limits };
        let admin = match admin {
            Some(address) => {
                let listener = listen(address).await?;
                tracing::info!(address = %local(&listener)?, "operators are served");
                Some(listener)
            }
            None => None,
        };
        Ok(Self { clients: listen(clients).await?, admin, limits })
    }

    /// What clients may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where clients connect.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> Result<SocketAddr, Fault> {
        local(&self.clients)
    }

    /// Answers at the address of clients with `router`, which is of `site`.
    pub fn serve_router(self, router: axum::Router, site: Arc<Site>) -> Served {
        let (closing, mut serving) = (CancellationToken::new(), JoinSet::new());
        let shutdown = closing.clone().cancelled_owned();
        serving.spawn(http::serve(self.clients, router, self.limits, site.metrics().clone(), shutdown));
        Served { site, closing, serving }
    }

    /// Answers at all addresses from now on.
    pub fn serve(self, setup: SiteSetup) -> Served {
        let closing = CancellationToken::new();
        let mut serving = JoinSet::new();
        let metrics = setup.metrics.clone();
        let site = Site::new(setup);
        let clients = match self.admin {
            None => router(site.clone()),
            Some(listener) => {
                let (clients, admin) = routers_apart(site.clone());
                let limits = Limits { max_connections: ADMIN_CONNECTIONS, ..self.limits.clone() };
                let shutdown = closing.clone().cancelled_owned();
                serving.spawn(http::serve(listener, admin, limits, metrics.clone(), shutdown));
                clients
            }
        };
        let shutdown = closing.clone().cancelled_owned();
        serving.spawn(http::serve(self.clients, clients, self.limits, metrics, shutdown));
        Served { site, closing, serving }
    }
}

impl Served {
    /// Takes no more connections, and waits until those that there are have ended; after `most` they are cut.
    pub async fn end(mut self, most: Duration) {
        self.closing.cancel();
        let ending = async {
            while let Some(ended) = self.serving.join_next().await {
                if let Err(defect) = ended {
                    tracing::error!(%defect, "a server broke");
                }
            }
        };
        // Dropped, they cut what is left.
        let _ = tokio::time::timeout(most, ending).await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Fault> {
    let listening = TcpListener::bind(address).await;
    listening.map_err(|error| Fault::invalid(format!("cannot listen on {address}: {error}")))
}

fn local(listener: &TcpListener) -> Result<SocketAddr, Fault> {
    listener.local_addr().map_err(|error| Fault::internal(format!("a listener has no address: {error}")))
}

/// `asked` connections, or as many as this process may have files for. The system's usual 1024 are raised to what it allows.
fn most_connections(asked: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A limit that cannot be raised stays.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let files = if raised { maximum } else { current };
    let room = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let most = room.saturating_sub(RESERVED_FILES + ADMIN_CONNECTIONS + 2 * SPARE_CONNECTIONS).max(1);
    if most < asked {
        tracing::warn!("max_connections is {asked}, but the limit on open files ({room}) leaves {most}");
    }
    most.min(asked)
}
