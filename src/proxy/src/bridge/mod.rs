//! Addresses of other deployments, for the programs of this node that depend on them: for each a listener on 127.0.0.1
//! whose connections lead to a ready instance, here if there is one, or over the mesh.
//!
//! What goes through is bytes, of whatever protocol, so a connection stays with its instance for as long as it lasts. A
//! program is told the port at its start and keeps it, so a port is written down and is the same after a restart of the
//! daemon. All of it runs on one thread of its own: programs' traffic must not hold up the daemon's.

mod ports;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nebula_domain::observed::LocalInstances;
use nebula_domain::routes::RouteTable;
use nebula_domain::{DeploymentName, NodeId};
use nebula_mesh::Mesh;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::config::Limits;
use crate::upstream::Dialer;
use ports::Ports;
use relay::Relay;

/// Connections at once through all bridges of a node: as many as its tunnels are, and some memory for each.
const CONNECTIONS: usize = 4_096;

#[derive(Debug, Clone)]
pub struct BridgeConfig {
    pub me: NodeId,
    /// Where ports are written down.
    pub file: PathBuf,
    pub ports: RangeInclusive<u16>,
    pub limits: Limits,
}

/// Cheap to clone. The thread ends with the last one.
#[derive(Clone)]
pub struct Bridges(Arc<Inner>);

struct Inner {
    runtime: Handle,
    relay: Arc<Relay>,
    open: Mutex<Open>,
    /// Its closing ends the thread.
    _running: watch::Sender<()>,
}

struct Open {
    ports: Ports,
    listeners: BTreeMap<DeploymentName, (u16, AbortHandle)>,
}

impl Bridges {
    /// Listens again for all that was written down: programs that outlived the daemon know those ports.
    pub fn start(
        config: BridgeConfig,
        table: watch::Receiver<Arc<RouteTable>>,
        locals: watch::Receiver<Arc<LocalInstances>>,
        mesh: Mesh,
    ) -> io::Result<Bridges> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, mut stopped) = watch::channel(());
        std::thread::Builder::new()
            .name("bridges".to_owned())
            .spawn(move || {
                runtime.block_on(async { while stopped.changed().await.is_ok() {} });
            })?;
        let relay = Relay {
            table,
            dialer: Dialer::new(config.me, locals, mesh, &config.limits),
            me: config.me,
            turn: Default::default(),
            slots: Semaphore::new(CONNECTIONS),
        };
        let bridges = Bridges(Arc::new(Inner {
            runtime: handle,
            relay: Arc::new(relay),
            open: Mutex::new(Open {
                ports: Ports::load(config.file, config.ports)?,
                listeners: BTreeMap::new(),
            }),
            _running: running,
        }));
        let names = bridges.lock().ports.names();
        for name in names {
            if let Err(error) = bridges.port(&name) {
                tracing::warn!(deployment = %name, %error, "programs of this node cannot reach a deployment that they depend on");
            }
        }
        Ok(bridges)
    }

    /// The port on 127.0.0.1 that leads to the deployment.
    pub fn port(&self, to: &DeploymentName) -> io::Result<u16> {
        let mut open = self.lock();
        if let Some((port, _)) = open.listeners.get(to) {
            return Ok(*port);
        }
        let listener = open.ports.listen(to)?;
        let port = listener.local_addr()?.port();
        let serving = {
            let _on = self.0.runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let relay = Arc::clone(&self.0.relay);
            let serving = relay.serve(listener, to.clone());
            self.0.runtime.spawn(serving).abort_handle()
        };
        open.listeners.insert(to.clone(), (port, serving));
        Ok(port)
    }

    /// Ends all others. Connections that are open go on.
    pub fn keep(&self, wanted: &BTreeSet<DeploymentName>) {
        let mut open = self.lock();
        let gone = |name: &DeploymentName| !wanted.contains(name);
        open.listeners.retain(|name, (_, serving)| {
            if gone(name) {
                serving.abort();
            }
            !gone(name)
        });
        if let Err(error) = open.ports.keep(wanted) {
            tracing::warn!(%error, "ports that lead to other deployments were not written down");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
