//! The edge's threads: each with its own runtime, listening socket and connection pool.

pub(crate) mod connection;
mod handle;
mod thread;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use nebula_domain::NodeId;
use nebula_domain::observed::LocalInstances;
use nebula_domain::routes::{Route, RouteTable};
use nebula_domain::traffic::Nanos;
use nebula_mesh::Mesh;
use nebula_telemetry::Metrics;
use nebula_wire::peer::Protocol;
use tokio::sync::watch;
use tokio::time::timeout;

pub use handle::ProxyHandle;
pub(crate) use thread::Stop;

use crate::access::AccessFile;
use crate::config::{Config, Limits};
use crate::ejection::Ejections;
use crate::error::ProxyError;
use crate::guard::Guard;
use crate::listener;
use crate::metrics::ProxyMetrics;
use crate::service::Services;
use crate::statics::Sites;
use crate::tunnel::Tunnels;
use crate::upstream::{Dialer, Pool};

/// One node's data plane.
pub struct Proxy;

/// Sockets are bound; nothing is served yet.
pub struct Bound {
    address: SocketAddr,
    listeners: Vec<TcpListener>,
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
    pub(crate) services: Services,
    pub(crate) access: AccessFile,
    pub(crate) guard: Guard,
}

/// What one edge thread works with.
pub(crate) struct Edge {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dialer: Dialer,
    pub(crate) pool: Arc<Pool>,
}

impl Proxy {
    /// Takes the address.
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
        let listeners = listener::bind(config.listen, config.thread_count()).map_err(failed)?;
        let address = listeners[0].local_addr().map_err(failed)?;
        let proxy_metrics = ProxyMetrics::new(metrics);
        let sites = Sites::new(config.trees_dir, &config.limits);
        Ok(Bound {
            address,
            listeners,
            shared: Arc::new(Shared {
                me: config.me,
                ejections: Ejections::new(config.limits.ejection),
                access: AccessFile::new(config.access_log, proxy_metrics.log_lines_lost.clone()),
                services: Services::new(config.me, proxy_metrics.clone()),
                limits: config.limits,
                guard: Guard::new(),
                table,
                locals,
                mesh,
                metrics: proxy_metrics,
                sites: Arc::new(sites),
            }),
        })
    }
}

impl Bound {
    pub fn local_addr(&self) -> SocketAddr {
        self.address
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

    pub(crate) fn table(&self) -> watch::Ref<'_, Arc<RouteTable>> {
        self.shared.table.borrow()
    }

    /// A deployment's route by the newest table, of the same kind: what a request for this host may turn to.
    pub(crate) fn again(&self, route: &Route, host: &[u8]) -> Option<Arc<Route>> {
        let host = std::str::from_utf8(host).ok()?;
        let table = self.shared.table.borrow();
        let newer = table.again(host, &route.deployment)?;
        (newer.kind == route.kind).then(|| Arc::clone(newer))
    }

    /// Since the proxy began, for everything in `traffic` that goes by time.
    pub(crate) fn now(&self) -> Nanos {
        self.shared.guard.now()
    }

    /// A deployment's route once it has an endpoint, if that is soon.
    pub(crate) async fn ready(&self, route: &Route, host: &[u8]) -> Option<Arc<Route>> {
        let mut tables = self.shared.table.clone();
        let newer = async {
            while tables.changed().await.is_ok() {
                let newer = self.again(route, host);
                if let Some(newer) = newer.filter(|newer| !newer.endpoints.is_empty()) {
                    return newer;
                }
            }
            std::future::pending().await
        };
        timeout(self.shared.limits.ready_wait, newer).await.ok()
    }
}
