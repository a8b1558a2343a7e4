//! The edge's threads: each with its own runtime, listening socket and connection pool.

pub(crate) mod connection;
mod handle;
mod thread;

use std::net::SocketAddr;
use std::sync::Arc;

use nebula_domain::NodeId;
use nebula_domain::http::Network;
use nebula_domain::observed::LocalInstances;
use nebula_domain::routes::{Route, RouteTable};
use nebula_mesh::Mesh;
use nebula_telemetry::Metrics;
use nebula_wire::peer::Protocol;
use tokio::sync::watch;
use tokio::time::timeout;

pub use handle::ProxyHandle;
pub(crate) use thread::Stop;

use crate::config::{Config, Limits};
use crate::ejection::Ejections;
use crate::error::ProxyError;
use crate::listener::{self, Listeners};
use crate::metrics::ProxyMetrics;
use crate::statics::Sites;
use crate::tls::{Keeper, Tls};
use crate::tunnel::Tunnels;
use crate::upstream::{Dialer, Pool};

/// One node's data plane.
pub struct Proxy;

/// Sockets are bound; nothing is served yet.
pub struct Bound {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    listeners: Vec<Listeners>,
    keeper: Option<Keeper>,
    shared: Arc<Shared>,
}

/// What all edge threads of a node have in common.
pub(crate) struct Shared {
    pub(crate) me: NodeId,
    pub(crate) limits: Limits,
    table: watch::Receiver<Arc<RouteTable>>,
    locals: watch::Receiver<Arc<LocalInstances>>,
    mesh: Mesh,
    pub(crate) metrics: ProxyMetrics,
    pub(crate) sites: Arc<Sites>,
    pub(crate) ejections: Ejections,
    pub(crate) tls: Option<Tls>,
    proxy_protocol_from: Vec<Network>,
    pub(crate) trusted_proxies: Vec<Network>,
}

/// What one edge thread works with.
pub(crate) struct Edge {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dialer: Dialer,
    pub(crate) pool: Arc<Pool>,
}

impl Proxy {
    /// Takes the addresses, and reads the certificates.
    pub fn bind(
        config: Config,
        table: watch::Receiver<Arc<RouteTable>>,
        locals: watch::Receiver<Arc<LocalInstances>>,
        mesh: Mesh,
        metrics: &Metrics,
    ) -> Result<Bound, ProxyError> {
        let failed = |source| ProxyError::Bind {
            address: config.listen,
            source,
        };
        let threads = config.thread_count();
        let plain = listener::bind(config.listen, threads).map_err(failed)?;
        let address = plain[0].local_addr().map_err(failed)?;
        let proxy_metrics = ProxyMetrics::new(metrics);
        let (mut tls, mut keeper, mut tls_address) = (None, None, None);
        let mut encrypted = Vec::new();
        if let Some(wanted) = config.tls {
            let failed = |source| ProxyError::BindTls {
                address: wanted.listen,
                source,
            };
            encrypted = listener::bind(wanted.listen, threads).map_err(failed)?;
            let address = encrypted[0].local_addr().map_err(failed)?;
            let metrics = proxy_metrics.clone();
            let made = Tls::new(address, wanted.certificates_dir, &config.limits, metrics)?;
            tls_address = Some(address);
            (tls, keeper) = (Some(made.0), Some(made.1));
        }
        let sites = Sites::new(config.trees_dir, &config.limits);
        Ok(Bound {
            address,
            tls_address,
            listeners: listener::pair(plain, encrypted),
            keeper,
            shared: Arc::new(Shared {
                me: config.me,
                ejections: Ejections::new(config.limits.ejection),
                limits: config.limits,
                table,
                locals,
                mesh,
                metrics: proxy_metrics,
                sites: Arc::new(sites),
                tls,
                proxy_protocol_from: config.proxy_protocol_from,
                trusted_proxies: config.trusted_proxies,
            }),
        })
    }
}

impl Bound {
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where requests over TLS arrive.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Serves: people on the sockets, other nodes over the mesh.
    pub fn spawn(self) -> ProxyHandle {
        let shared = &self.shared;
        let tunnels = Arc::new(Tunnels::new(
            &shared.limits,
            shared.locals.clone(),
            Arc::clone(&shared.sites),
            shared.metrics.clone(),
        ));
        shared
            .mesh
            .serve(Protocol::Tunnel, Arc::clone(&tunnels) as Arc<_>);
        if let Some(keeper) = self.keeper {
            tokio::spawn(keeper.run());
        }
        ProxyHandle::start(self.listeners, &self.shared, tunnels)
    }
}

impl Edge {
    fn new(shared: Arc<Shared>) -> Edge {
        Edge {
            dialer: Dialer::new(
                shared.me,
                shared.locals.clone(),
                shared.mesh.clone(),
                &shared.limits,
            ),
            pool: Arc::new(Pool::new(&shared.limits)),
            shared,
        }
    }

    /// The route of a host by the table that is in force at this moment: what a supervisor relies on
    /// when it stops an instance that this node no longer routes to.
    pub(crate) fn route(&self, host: &[u8]) -> Option<Arc<Route>> {
        let host = std::str::from_utf8(host).ok()?;
        self.shared.table.borrow().route(host).cloned()
    }

    /// The host's route once it has an endpoint, if that is soon; the same route otherwise.
    pub(crate) async fn ready(&self, route: Arc<Route>, host: &[u8]) -> Arc<Route> {
        let mut tables = self.shared.table.clone();
        let newer = async {
            while tables.changed().await.is_ok() {
                let newer = self.route(host).filter(|newer| newer.kind == route.kind);
                if let Some(newer) = newer.filter(|newer| !newer.endpoints.is_empty()) {
                    return newer;
                }
            }
            std::future::pending().await
        };
        match timeout(self.shared.limits.ready_wait, newer).await {
            Ok(newer) => newer,
            Err(_) => route,
        }
    }
}
