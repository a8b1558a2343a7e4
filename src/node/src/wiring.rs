//! Which parts a node has, in which order they start, and in which order they stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_actors::Guardian;
use nebula_api::{Api, ApiHandle, App, NodeInfo};
use nebula_artifacts::Artifacts;
use nebula_domain::level::{self, LEVEL};
use nebula_domain::observed::LocalInstances;
use nebula_domain::port::BRIDGE_PORTS;
use nebula_domain::routes::RouteTable;
use nebula_domain::state::Cluster;
use nebula_domain::{Command, NodeId, Rejection, Request, State};
use nebula_drivers::Driver as _;
use nebula_drivers::process::ProcessDriver;
use nebula_enrolment::Enrolment;
use nebula_health::{Book, Health, Parts, Published, Reports, Sources, Usages};
use nebula_logs::{Copier, Keeper, Logs};
use nebula_membership::Membership;
use nebula_mesh::Mesh;
use nebula_pki::{Authority, Identity, NodeKey, RENEWABLE_FOR};
use nebula_proxy::{BridgeConfig, Bridges, Proxy, ProxyHandle};
use nebula_registry::{ProposeError, Registry};
use nebula_routing::Routing;
use nebula_scheduler::{Caretaker, Recorder, Rollouts, Runs, Scheduler};
use nebula_secrets::Vault;
use nebula_supervisor::{Supervisor, SupervisorConfig};
use nebula_telemetry::{Clock, Metrics, Random};
use nebula_volumes::Sizes;
use tokio::sync::watch;

use crate::announce::Announcer;
use crate::artifacts::Collector;
use crate::config::{Config, ConfigError};
use crate::directory::{DirectoryKeeper, Peers, directory};
use crate::facts::FactsKeeper;
use crate::files::{
    ACCESS_LOG, API_SOCKET, ARTIFACTS_DIR, BOOTSTRAP_FILE, BRIDGES_FILE, INSTANCES_DIR, LOGS_DIR,
    REGISTRY_DIR, WORK_DIR, private_dir,
};
use crate::firewall::{self, FirewallKeeper};
use crate::history::HistoryMeter;
use crate::meter::Meter;
use crate::rates::RatesKeeper;
use crate::setup::{self, Bootstrap};
use crate::supplies::{BridgesKeeper, Given, Handed};
use crate::trials::{Counted, TrialsKeeper};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The part that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read or write {what} in the data folder")]
    DataDir {
        what: &'static str,
        source: std::io::Error,
    },
    #[error(
        "this node's certificate ended more than {} days ago: remove the node ('nodectl remove') and join it again in an empty data folder",
        RENEWABLE_FOR.as_secs() / 86_400
    )]
    CertificateExpired,
    #[error("{0}")]
    Level(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Pki(#[from] nebula_pki::PkiError),
    #[error("the mesh cannot start")]
    Mesh(#[from] nebula_mesh::MeshError),
    #[error("the registry cannot start")]
    Registry(#[from] nebula_registry::StartError),
    #[error("the cluster's first entry was not accepted")]
    Bootstrap(#[source] nebula_registry::ProposeError),
    #[error("the artifact store cannot start")]
    Artifacts(#[from] nebula_artifacts::ArtifactError),
    #[error("the instances' driver cannot start")]
    Driver(#[from] nebula_drivers::DriverError),
    #[error("enrolment cannot start")]
    Enrolment(#[from] nebula_enrolment::EnrolError),
    #[error("the proxy cannot start")]
    Proxy(#[from] nebula_proxy::ProxyError),
    #[error("the API cannot start")]
    Api(#[from] nebula_api::ApiStartError),
}

/// A running node.
pub(crate) struct Node {
    pub me: NodeId,
    pub quic: SocketAddr,
    pub api: SocketAddr,
    pub edge: SocketAddr,
    pub edge_tls: Option<SocketAddr>,
    guardian: Guardian,
    mesh: Mesh,
    registry: Registry,
    membership: Membership,
    supervisor: nebula_supervisor::Handle,
    driver: Arc<ProcessDriver>,
    proxy: ProxyHandle,
    api_handle: ApiHandle,
}

/// What the proxy is told, and the folder for its certificates.
fn edge_config(
    me: NodeId,
    config: &Config,
    trees_dir: PathBuf,
    access_log: PathBuf,
) -> Result<nebula_proxy::Config, StartError> {
    let mut edge =
        nebula_proxy::Config::new(me, config.edge, config.edge_threads, trees_dir, access_log);
    if let Some(listen) = config.edge_tls() {
        let certificates_dir = config.edge_certificates_dir();
        private_dir(&certificates_dir).map_err(|source| StartError::DataDir {
            what: "the folder of certificates",
            source,
        })?;
        edge.tls = Some(nebula_proxy::TlsConfig {
            listen,
            certificates_dir,
            http3: config.edge_http3.then_some(nebula_proxy::Http3Config {
                public_port: config.edge_http3_port,
            }),
        });
    }
    edge.proxy_protocol_from
        .clone_from(&config.edge_proxy_protocol_from);
    edge.trusted_proxies
        .clone_from(&config.edge_trusted_proxies);
    Ok(edge)
}

impl Node {
    pub(crate) async fn start(config: Config) -> Result<Node, StartError> {
        let started = Instant::now();
        let (clock, random, metrics) = (Clock::system(), Random::system(), Metrics::new());
        let dir = config.data_dir.clone();
        let identity = present_identity(&dir, &clock)?;
        let me = identity.node();
        let told = Peers::load(&dir).map_err(|source| StartError::DataDir {
            what: "peers.json",
            source,
        })?;

        // Between nodes.
        let (directory_tx, directory_rx) =
            watch::channel(Arc::new(directory(me, &State::default(), &told)));
        let cluster = identity.cluster().clone();
        let mesh_config = nebula_mesh::Config {
            listen: config.quic,
            limits: nebula_mesh::Limits::default(),
        };
        let mesh = Mesh::bind(mesh_config, identity, directory_rx, &metrics)?;
        let registry_config = nebula_registry::Config {
            clock: clock.clone(),
            ..nebula_registry::Config::new(dir.join(REGISTRY_DIR))
        };
        let registry =
            Registry::start(registry_config, mesh.clone(), random.clone(), &metrics).await?;
        if let Some(why) = level::refusal(&registry.state(), LEVEL) {
            return Err(StartError::Level(why));
        }
        let membership_config = nebula_membership::Config::new(cluster, clock.now());
        let membership = Membership::start(membership_config, mesh.clone(), &metrics);
        let artifacts_config = nebula_artifacts::Config::new(dir.join(ARTIFACTS_DIR));
        let artifacts = Artifacts::open(artifacts_config, mesh.clone(), &metrics)?;
        let instances_dir = dir.join(INSTANCES_DIR);
        let work_dir = dir.join(WORK_DIR);
        for made in [&instances_dir, &work_dir] {
            private_dir(made).map_err(|source| StartError::DataDir {
                what: "the instances' folders",
                source,
            })?;
        }
        let logs_config = nebula_logs::Config {
            instances_dir: instances_dir.clone(),
            logs_dir: dir.join(LOGS_DIR),
            me,
        };
        let kept_dir = logs_config.kept_dir();
        let logs = Logs::start(
            logs_config,
            mesh.clone(),
            registry.watch_plan(),
            membership.view(),
        );
        let enrolment = Enrolment::start(nebula_enrolment::Parts {
            data_dir: dir.clone(),
            registry: registry.clone(),
            mesh: mesh.clone(),
            clock: clock.clone(),
        })?;

        // Towards people and programs: bound before anything is promised.
        let (table_tx, table_rx) = watch::channel(Arc::new(RouteTable::default()));
        let routed = table_rx.clone();
        let (locals_tx, locals_rx) = watch::channel(Arc::new(LocalInstances::new()));
        let edge = Proxy::bind(
            edge_config(me, &config, artifacts.trees_dir(), dir.join(ACCESS_LOG))?,
            table_rx.clone(),
            locals_rx.clone(),
            mesh.clone(),
            &metrics,
        )?;
        let (edge_address, edge_tls) = (edge.local_addr(), edge.tls_addr());
        let api = Api::bind(nebula_api::Config {
            listen: config.api,
            unix_socket: dir.join(API_SOCKET),
            tls: nebula_pki::server_config_rotating(&mesh.identity())?,
        })
        .await?;

        // The loops.
        let guardian = Guardian::start(&metrics);
        let directory_tx = Arc::new(directory_tx);
        {
            let (registry, told) = (registry.clone(), told.clone());
            guardian.supervise("directory", move || {
                let mut state = registry.watch_plan();
                // The first pass is for what was already there.
                state.mark_changed();
                DirectoryKeeper {
                    me,
                    told: told.clone(),
                    state,
                    directory: directory_tx.clone(),
                }
            });
        }
        if let Some(request) = bootstrap_request(&dir, &config)? {
            match registry.initialise(request).await {
                // The second: a power cut brought the file back, long after it had served.
                Ok(_) | Err(ProposeError::Rejected(Rejection::AlreadyInitialised)) => {}
                Err(error) => return Err(StartError::Bootstrap(error)),
            }
            std::fs::remove_file(dir.join(BOOTSTRAP_FILE))
                .and_then(|()| std::fs::File::open(&dir)?.sync_all())
                .map_err(|source| StartError::DataDir {
                    what: BOOTSTRAP_FILE,
                    source,
                })?;
        }
        registry.manage_voters(membership.view());

        {
            let (registry, membership) = (registry.clone(), membership.clone());
            guardian.supervise("routing", move || {
                Routing::new(
                    me,
                    registry.watch_plan(),
                    membership.view(),
                    table_tx.clone(),
                )
            });
        }
        {
            let (registry, membership, metrics) =
                (registry.clone(), membership.clone(), metrics.clone());
            guardian.supervise("scheduler", move || {
                Scheduler::new(registry.clone(), membership.view(), &metrics)
            });
        }
        {
            let (registry, membership, clock, metrics) = (
                registry.clone(),
                membership.clone(),
                clock.clone(),
                metrics.clone(),
            );
            let evidence = Arc::new(Counted {
                state: registry.watch_plan(),
                trials: edge.trials(),
                tallies: membership.tallies(),
            });
            guardian.supervise("rollouts", move || {
                let (evidence, clock) = (evidence.clone(), clock.clone());
                Rollouts::new(
                    registry.clone(),
                    membership.view(),
                    evidence,
                    clock,
                    &metrics,
                )
            });
        }
        {
            let (registry, membership, clock, metrics) = (
                registry.clone(),
                membership.clone(),
                clock.clone(),
                metrics.clone(),
            );
            guardian.supervise("runs", move || {
                Runs::new(registry.clone(), membership.view(), clock.clone(), &metrics)
            });
        }
        {
            let (registry, membership, metrics) =
                (registry.clone(), membership.clone(), metrics.clone());
            guardian.supervise("recorder", move || {
                Recorder::new(registry.clone(), membership.view(), &metrics)
            });
        }
        {
            let (registry, clock) = (registry.clone(), clock.clone());
            guardian.supervise("caretaker", move || {
                Caretaker::new(registry.clone(), clock.clone())
            });
        }
        let mut driver_config =
            nebula_drivers::process::Config::own(instances_dir).map_err(|source| {
                StartError::DataDir {
                    what: INSTANCES_DIR,
                    source,
                }
            })?;
        driver_config.output = config.output.bounds();
        driver_config.kept_dir = Some(kept_dir);
        driver_config.confine = config.instances.settings();
        let own = [mesh.local_addr(), api.local_addr().unwrap_or(config.api)];
        let walled = config.instances.firewall;
        driver_config.firewall = walled.then(|| nebula_drivers::firewall::Config {
            cluster: firewall::cluster(&registry.state(), &own),
            nft: None,
        });
        let driver = Arc::new(ProcessDriver::open(
            driver_config,
            clock.clone(),
            random.clone(),
        )?);
        if walled {
            let (registry, driver) = (registry.clone(), driver.clone());
            guardian.supervise("firewall", move || {
                let mut state = registry.watch_plan();
                // The first pass is for what was already there.
                state.mark_changed();
                FirewallKeeper {
                    driver: driver.clone(),
                    own,
                    state,
                    runs: driver.runs(),
                }
            });
        }
        {
            let (logs, metrics) = (logs.clone(), metrics.clone());
            let (runs, retention) = (driver.runs(), config.output.retention());
            guardian.supervise("output", move || {
                Keeper::new(&logs, retention, runs.clone(), &metrics)
            });
        }
        {
            let (logs, metrics) = (logs.clone(), metrics.clone());
            guardian.supervise("output copies", move || Copier::new(&logs, &metrics));
        }
        let vault = {
            let enrolment = enrolment.clone();
            let key = move || enrolment.derived_key(nebula_secrets::KEY_PURPOSE);
            let (state, view) = (registry.watch_plan(), membership.view());
            Vault::start(mesh.clone(), state, view, random.clone(), Arc::new(key))
        };
        let supervisor_config = SupervisorConfig::new(me, config.name.to_string(), work_dir);
        let volumes_dir = supervisor_config.volumes_dir.clone();
        let volumes = Sizes::start(volumes_dir.clone(), mesh.clone(), registry.watch_plan());
        {
            let registry = Arc::new(registry.clone());
            guardian.supervise("volumes", move || {
                nebula_volumes::Keeper::new(me, volumes_dir.clone(), registry.clone())
            });
        }
        let given_up = Arc::new(watch::Sender::new(Arc::default()));
        let supervisor = nebula_supervisor::Handle::new(
            supervisor_config,
            driver.clone(),
            locals_tx,
            given_up.subscribe(),
        );
        let bridges_config = BridgeConfig {
            me,
            file: dir.join(BRIDGES_FILE),
            ports: BRIDGE_PORTS,
            limits: nebula_proxy::Limits::default(),
        };
        let bridges = Bridges::start(
            bridges_config,
            table_rx.clone(),
            locals_rx.clone(),
            mesh.clone(),
        )
        .map_err(|source| StartError::DataDir {
            what: BRIDGES_FILE,
            source,
        })?;
        let handed = Handed::default();
        let supervisor = supervisor.supplied(Arc::new(Given {
            bridges: bridges.clone(),
            handed: handed.clone(),
            vault: vault.clone(),
        }));
        {
            let (registry, driver) = (registry.clone(), driver.clone());
            guardian.supervise("bridges", move || BridgesKeeper {
                me,
                bridges: bridges.clone(),
                handed: handed.clone(),
                state: registry.watch_plan(),
                runs: driver.runs(),
            });
        }
        let book = Book::default();
        let usages = Usages::default();
        let sources = Sources {
            book: book.clone(),
            usages: usages.clone(),
            runs: driver.runs(),
        };
        let probes = Reports::start(sources, mesh.clone(), registry.watch_plan());
        {
            let (driver, metrics) = (driver.clone(), metrics.clone());
            guardian.supervise("meter", move || {
                Meter::new(driver.clone(), usages.clone(), &metrics)
            });
        }
        {
            let (registry, metrics) = (registry.clone(), metrics.clone());
            guardian.supervise("history", move || {
                HistoryMeter::new(registry.watch(), &metrics)
            });
        }
        {
            let (locals_rx, metrics) = (locals_rx.clone(), metrics.clone());
            let parts = Parts {
                verdicts: Published {
                    membership: membership.clone(),
                    given_up,
                },
                exec: driver.clone(),
                book,
                clock: clock.clone(),
            };
            guardian.supervise("health", move || {
                Health::new(locals_rx.clone(), parts.clone(), &metrics)
            });
        }
        {
            let (handle, registry) = (supervisor.clone(), Arc::new(registry.clone()));
            let (membership, artifacts) = (membership.clone(), artifacts.clone());
            guardian.supervise("supervisor", move || {
                Supervisor::new(
                    &handle,
                    registry.clone(),
                    membership.clone(),
                    artifacts.clone(),
                )
            });
        }
        {
            let (membership, rates) = (membership.clone(), edge.shared_rates());
            guardian.supervise("rates", move || {
                RatesKeeper::new(membership.clone(), rates.clone())
            });
        }
        {
            let (membership, trials) = (membership.clone(), edge.trials());
            guardian.supervise("trials", move || TrialsKeeper {
                membership: membership.clone(),
                trials: trials.clone(),
                table: routed.clone(),
            });
        }
        {
            let (membership, status) = (membership.clone(), registry.status());
            let (state, work) = (registry.watch_plan(), edge.work());
            let (reserve, locals) = (config.reserve.clone(), locals_rx.clone());
            guardian.supervise("facts", move || FactsKeeper {
                membership: membership.clone(),
                table: table_rx.clone(),
                status: status.clone(),
                capacity_instances: config.capacity_instances,
                reserve: reserve.clone(),
                version: VERSION,
                state: state.clone(),
                locals: locals.clone(),
                work: work.clone(),
                busy: false,
            });
        }
        let proxy = edge.spawn();
        {
            let enrolment = enrolment.clone();
            guardian.supervise("renewal", move || enrolment.renewal());
        }
        {
            let (artifacts, registry) = (artifacts.clone(), registry.clone());
            guardian.supervise("collector", move || Collector {
                artifacts: artifacts.clone(),
                registry: registry.clone(),
            });
        }
        {
            let registry = registry.clone();
            let addresses = setup::addresses(&config)?;
            guardian.supervise("announcer", move || Announcer {
                me,
                addresses: addresses.clone(),
                state: registry.watch_plan(),
                registry: registry.clone(),
            });
        }

        let api_address = api.local_addr().unwrap_or(config.api);
        let info = NodeInfo {
            me,
            version: VERSION,
            data_dir: dir,
            started,
            quic: mesh.local_addr(),
            api: api_address,
            edge: edge_address,
        };
        let api_handle = api.spawn(App {
            registry: registry.clone(),
            view: membership.view(),
            artifacts,
            logs,
            probes,
            volumes,
            vault,
            enrolment,
            metrics,
            clock,
            random,
            node: Arc::new(info),
        });
        Ok(Node {
            me,
            quic: mesh.local_addr(),
            api: api_address,
            edge: edge_address,
            edge_tls,
            guardian,
            mesh,
            registry,
            membership,
            supervisor,
            driver,
            proxy,
            api_handle,
        })
    }

    /// Returns when this node is no longer a member, by its registry or by the word of a voter.
    pub(crate) async fn removed(&self) {
        let mut state = self.registry.watch_plan();
        let mut refused = self.mesh.removed();
        let me = self.me;
        let told = async { state.wait_for(|state| state.was_removed(me)).await.is_ok() };
        let refused = async { refused.wait_for(|removed| *removed).await.is_ok() };
        tokio::select! {
            true = told => {}
            true = refused => {}
            else => std::future::pending().await,
        }
    }

    /// Before it stops, of a daemon that leaves its programs running: it is sent nothing more, and unless it goes down
    /// `for_good` nobody begins what runs here anew elsewhere.
    pub(crate) async fn say_restarting(&self, for_good: bool) {
        self.membership.say_restarting(for_good).await;
    }

    /// No new work first, then the work under way, then what it stood on.
    pub(crate) async fn stop(self, stop_instances: bool, deadline: Duration) {
        self.api_handle.stop();
        self.guardian.stop().await;
        self.proxy.drain(deadline).await;
        if stop_instances {
            let left = self.supervisor.stop_all(deadline).await;
            match left {
                // Nobody is left whom it keeps from anything.
                0 => self.driver.remove_firewall().await,
                left => tracing::warn!(left, "instances did not end in time"),
            }
        }
        self.membership.shutdown().await;
        self.registry.shutdown().await;
        self.mesh.close().await;
    }
}

/// This node's identity, if possible with a certificate that is valid now. One that ended while the node was
/// away is renewed here if the CA key is: after a day without power no node could ask another. Without that key
/// the node starts with what it has, which is good for asking a voter for a new one and for nothing else.
pub(crate) fn present_identity(dir: &Path, clock: &Clock) -> Result<Identity, StartError> {
    let identity = Identity::load(dir)?;
    let now = clock.now();
    if !identity.is_expired(now) {
        return Ok(identity);
    }
    let Some(authority) = Authority::load(dir)? else {
        if now.since(identity.not_after()) > RENEWABLE_FOR {
            return Err(StartError::CertificateExpired);
        }
        tracing::warn!("this node's certificate has ended; asking a voter for a new one");
        return Ok(identity);
    };
    let key = NodeKey::generate()?;
    let certificate = authority.sign(&key.csr()?, identity.cluster(), identity.node(), now)?;
    let renewed = Identity::new(key, &certificate, &identity.ca_pem())?;
    renewed.store(dir)?;
    tracing::info!("renewed this node's certificate, which had ended");
    Ok(renewed)
}

/// The first entry of a cluster's life, if this node has yet to make it. The request id is kept
/// with it, so that a crash in between does not make it twice.
fn bootstrap_request(dir: &Path, config: &Config) -> Result<Option<Request>, StartError> {
    let broken = |source| StartError::DataDir {
        what: BOOTSTRAP_FILE,
        source,
    };
    let bytes = match std::fs::read(dir.join(BOOTSTRAP_FILE)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(broken(e)),
    };
    let bootstrap: Bootstrap = serde_json::from_slice(&bytes).map_err(|e| broken(e.into()))?;
    let invalid = || broken(std::io::Error::other("it is not what 'nodectl init' wrote"));
    let mut api_token_sha256 = [0; 32];
    hex::decode_to_slice(&bootstrap.api_token_sha256, &mut api_token_sha256)
        .map_err(|_| invalid())?;
    let identity = Identity::load(dir)?;
    Ok(Some(Request {
        id: bootstrap.request_id.parse().map_err(|_| invalid())?,
        command: Command::Init {
            cluster: Cluster {
                id: identity.cluster().clone(),
                ca_pem: bootstrap.ca_pem,
            },
            name: config.name.clone(),
            addresses: setup::addresses(config)?,
            api_token_sha256,
        },
        stamp: Default::default(),
    }))
}

#[cfg(test)]
mod tests {
    use nebula_domain::time::Millis;

    use super::*;
    use crate::config::Overrides;

    #[test]
    fn an_ended_certificate_is_renewed_where_the_ca_key_is() {
        nebula_pki::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let local = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let overrides = Overrides {
            data_dir: Some(data_dir.clone()),
            name: Some("n1".parse().unwrap()),
            quic: local(1),
            api: local(2),
            edge: local(3),
            ..Overrides::default()
        };
        let config = Config::load(None, &overrides).unwrap();
        let begun = Millis(1_700_000_000_000);
        let (clock, hands) = Clock::manual(begun);
        setup::init(&config, None, &clock, &Random::system()).unwrap();
        let first = present_identity(&data_dir, &clock).unwrap();

        hands.advance(Duration::from_secs(48 * 60 * 60));
        let renewed = present_identity(&data_dir, &clock).unwrap();
        assert!(first.is_expired(clock.now()) && !renewed.is_expired(clock.now()));
        assert_eq!(renewed.node(), first.node());
        let stored = Identity::load(&data_dir).unwrap();
        assert_eq!(stored.not_after(), renewed.not_after());

        std::fs::remove_file(data_dir.join("ca.key")).unwrap();
        hands.advance(Duration::from_secs(48 * 60 * 60));
        let ended = present_identity(&data_dir, &clock).unwrap();
        assert_eq!(ended.not_after(), renewed.not_after(), "a voter is asked");
        hands.advance(RENEWABLE_FOR);
        assert!(matches!(
            present_identity(&data_dir, &clock),
            Err(StartError::CertificateExpired)
        ));
    }
}
