//! The edge's threads: each with its own runtime, listening socket and connection pool.

pub(crate) mod connection;
mod handle;
mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use nebula_domain::InstanceId;
use nebula_domain::NodeId;
use nebula_domain::http::Network;
use nebula_domain::observed::{Busy, LocalInstances};
use nebula_domain::routes::{Route, RouteTable};
use nebula_domain::traffic::Nanos;
use nebula_mesh::Mesh;
use nebula_telemetry::Metrics;
use nebula_wire::peer::Protocol;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub use handle::ProxyHandle;
pub(crate) use thread::{Stop, stopped};

use crate::access::AccessFile;
use crate::cache::ResponseCache;
use crate::config::{Config, Limits};
use crate::ejection::Ejections;
use crate::error::ProxyError;
use crate::guard::{Guard, SharedRates};
use crate::h2::Workers;
use crate::h3::Door;
use crate::listener::{self, Listeners};
use crate::metrics::ProxyMetrics;
use crate::seats::Seats;
use crate::service::Services;
use crate::statics::Sites;
use crate::tls::{Keeper, Tls};
use crate::trials::Trials;
use crate::tunnel::Tunnels;
use crate::upstream::{Dialer, Links, Pool};

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

/// What instances have under way for clients of this node.
#[derive(Clone)]
pub struct Work(Arc<Shared>);

impl Work {
    /// Of those that have anything.
    pub fn of(&self, instances: &BTreeSet<InstanceId>) -> BTreeMap<InstanceId, Busy> {
        self.0.services.busy(instances)
    }
}

/// What all edge threads of a node have in common.
pub(crate) struct Shared {
    pub(crate) me: NodeId,
    pub(crate) limits: Limits,
    pub(crate) table: watch::Receiver<Arc<RouteTable>>,
    locals: watch::Receiver<Arc<LocalInstances>>,
    mesh: Mesh,
    pub(crate) metrics: ProxyMetrics,
    pub(crate) sites: Arc<Sites>,
    pub(crate) ejections: Ejections,
    pub(crate) services: Services,
    pub(crate) access: AccessFile,
    pub(crate) guard: Guard,
    pub(crate) cache: ResponseCache,
    pub(crate) tls: Option<Tls>,
    proxy_protocol_from: Vec<Network>,
    /// What clients are told of HTTP/3, if it is there (RFC 7838).
    pub(crate) alternative: Option<Arc<str>>,
    pub(crate) trusted_proxies: Vec<Network>,
    /// Of connections that are not HTTP/3's.
    seats: Arc<Seats>,
}

/// What one edge thread works with.
pub(crate) struct Edge {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dialer: Dialer,
    pub(crate) pool: Arc<Pool>,
    /// In place of `pool` for instances that speak HTTP/2.
    pub(crate) links: Arc<Links>,
    /// Answer requests of HTTP/2.
    pub(crate) workers: Arc<Workers>,
    /// Of answers to be kept. Other threads' clients may wait for them.
    pub(crate) fetches: TaskTracker,
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
        let (mut door, mut alternative) = (None, None);
        if let Some(wanted) = config.tls {
            let failed = |source| ProxyError::BindTls {
                address: wanted.listen,
                source,
            };
            encrypted = listener::bind(wanted.listen, threads).map_err(failed)?;
            let mut quic = None;
            if wanted.http3.is_some() {
                let socket = listener::beside(wanted.listen, &mut encrypted);
                quic = Some(socket.map_err(|source| ProxyError::BindHttp3 {
                    address: wanted.listen,
                    source,
                })?);
            }
            let address = encrypted[0].local_addr().map_err(failed)?;
            let metrics = proxy_metrics.clone();
            let made = Tls::new(address, wanted.certificates_dir, &config.limits, metrics)?;
            if let (Some(socket), Some(http3)) = (quic, wanted.http3) {
                let port = http3.public_port.map_or(address.port(), NonZeroU16::get);
                alternative = Some(alternative_of(port));
                door = Some(Door::new(socket, made.0.of_quic()?, &config.limits));
            }
            tls_address = Some(address);
            (tls, keeper) = (Some(made.0), Some(made.1));
        }
        let sites = Sites::new(config.trees_dir, &config.limits);
        Ok(Bound {
            address,
            tls_address,
            listeners: listener::pair(plain, encrypted, door),
            keeper,
            shared: Arc::new(Shared {
                me: config.me,
                ejections: Ejections::new(config.limits.ejection),
                access: AccessFile::new(config.access_log, proxy_metrics.log_lines_lost.clone()),
                services: Services::new(config.me, proxy_metrics.clone()),
                cache: ResponseCache::new(&config.limits, &proxy_metrics),
                seats: Arc::new(Seats::new(
                    usize::MAX,
                    config.limits.connections_per_address,
                )),
                limits: config.limits,
                guard: Guard::new(),
                table,
                locals,
                mesh,
                metrics: proxy_metrics,
                sites: Arc::new(sites),
                tls,
                proxy_protocol_from: config.proxy_protocol_from,
                alternative,
                trusted_proxies: config.trusted_proxies,
            }),
        })
    }
}

/// `Alt-Svc` (RFC 7838 section 3): the same host on that port, good for a day.
fn alternative_of(port: u16) -> Arc<str> {
    format!("h3=\":{port}\"; ma=86400").into()
}

impl Shared {
    /// It is a proxy whose word counts.
    fn trusts(&self, peer: IpAddr) -> bool {
        let mut trusted = self.trusted_proxies.iter();
        trusted.any(|network| network.contains(peer))
    }

    /// Whether connections from there begin with a PROXY header.
    pub(crate) fn speaks_for_others(&self, peer: IpAddr) -> bool {
        let mut from = self.proxy_protocol_from.iter();
        from.any(|network| network.contains(peer))
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

    /// For whoever carries news between the nodes' proxies.
    pub fn shared_rates(&self) -> Arc<SharedRates> {
        Arc::clone(&self.shared.guard.shared)
    }

    /// For whoever tells the other nodes, and judges, how releases do.
    pub fn trials(&self) -> Arc<Trials> {
        Arc::clone(&self.shared.services.trials)
    }

    /// For whoever tells other nodes what stopping instances still do for this node's clients.
    pub fn work(&self) -> Work {
        Work(Arc::clone(&self.shared))
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
            links: Arc::new(Links::new(&shared.limits, shared.metrics.clone())),
            workers: Arc::default(),
            fetches: TaskTracker::new(),
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
