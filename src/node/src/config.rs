//! What a node is told: built-in defaults, then `node.toml`, then `NEBULA_*` variables and flags
//! (clap reads both into [`Overrides`]).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use nebula_domain::NodeName;
use nebula_domain::http::Network;
use nebula_drivers::confine::Mode;
use serde::{Deserialize, Serialize};

use crate::edge::EdgeTls;
use crate::instances::InstancesConfig;
use crate::output::{OutputConfig, OutputOverrides};
use crate::reserve::ReserveConfig;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot write the configuration file {}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the configuration file {} is not valid: {reason}", path.display())]
    Parse { path: PathBuf, reason: String },
    #[error("{setting} is {said}: write {wanted}")]
    Output {
        setting: &'static str,
        said: String,
        wanted: String,
    },
    #[error("this machine's host name '{0}' cannot be a node name: choose one with --name")]
    HostName(String),
    #[error(
        "{what} is {address}, which other machines cannot reach: set --advertise to this machine's address"
    )]
    Unreachable {
        what: &'static str,
        address: SocketAddr,
    },
}

/// QUIC between nodes.
pub const DEFAULT_QUIC_PORT: u16 = 7600;
/// HTTPS API.
pub const DEFAULT_API_PORT: u16 = 7601;
/// Edge for root and for everyone else, who may not bind port 80.
pub const DEFAULT_EDGE_PORTS: (u16, u16) = (80, 8080);
/// Edge over TLS, beside port 80.
pub const DEFAULT_EDGE_TLS_PORT: u16 = 443;
/// Of the edge, in the data folder.
const CERTIFICATES_DIR: &str = "certificates";

/// A node's settings, as `<data-dir>/node.toml` holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the node keeps everything; not part of the file, which lies in it.
    #[serde(skip)]
    pub data_dir: PathBuf,
    pub name: NodeName,
    /// Where the mesh listens (UDP).
    pub quic: SocketAddr,
    /// Where the API listens (TCP, TLS).
    pub api: SocketAddr,
    /// Where the proxy listens (TCP).
    pub edge: SocketAddr,
    /// Where the proxy listens for TLS (TCP); see [`Config::edge_tls`] for what it is when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_tls: Option<EdgeTls>,
    /// Whether TLS is served over QUIC as well (HTTP/3), on the same port (UDP).
    #[serde(default = "on", skip_serializing_if = "is_on")]
    pub edge_http3: bool,
    /// The port that people reach HTTP/3 at, where it is not the one on which the proxy listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_http3_port: Option<NonZeroU16>,
    /// Certificates and keys for TLS towards people; see [`Config::edge_certificates_dir`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_certificates_dir: Option<PathBuf>,
    /// Load balancers whose connections to the proxy begin with a PROXY header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edge_proxy_protocol_from: Vec<Network>,
    /// HTTP proxies in front of this one that are believed about where a request comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edge_trusted_proxies: Vec<Network>,
    /// The address that others reach this node at, when it listens on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<IpAddr>,
    /// Service instances this node is willing to run; 0 keeps it free of them.
    pub capacity_instances: u32,
    /// Threads of the proxy; 0 for one per core.
    #[serde(default)]
    pub edge_threads: usize,
    #[serde(default, skip_serializing_if = "InstancesConfig::is_default")]
    pub instances: InstancesConfig,
    /// What instances are not given.
    #[serde(default, skip_serializing_if = "ReserveConfig::is_default")]
    pub reserve: ReserveConfig,
    #[serde(default)]
    pub log: LogConfig,
    /// Of instances.
    #[serde(default, skip_serializing_if = "OutputConfig::is_default")]
    pub output: OutputConfig,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// Such as `info` or `info,nebula_mesh=debug`.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        // openraft logs each heartbeat failure at warn, and its own transitions at info.
        LogConfig {
            format: LogFormat::Text,
            filter: "info,openraft=error,chitchat=error".to_owned(),
        }
    }
}

/// What flags and variables say; `None` keeps the file's or the default value.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    pub name: Option<NodeName>,
    pub quic: Option<SocketAddr>,
    pub api: Option<SocketAddr>,
    pub edge: Option<SocketAddr>,
    pub edge_tls: Option<EdgeTls>,
    pub edge_http3: Option<bool>,
    pub edge_http3_port: Option<NonZeroU16>,
    pub edge_certificates_dir: Option<PathBuf>,
    pub edge_proxy_protocol_from: Option<Vec<Network>>,
    pub edge_trusted_proxies: Option<Vec<Network>>,
    pub advertise: Option<IpAddr>,
    pub capacity_instances: Option<u32>,
    pub edge_threads: Option<usize>,
    pub isolation: Option<Mode>,
    pub reserve: ReserveConfig,
    pub log_format: Option<LogFormat>,
    pub log_filter: Option<String>,
    pub output: OutputOverrides,
}

fn parse(text: &str) -> Result<Config, String> {
    let config: Config = toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())?;
    config.instances.check()?;
    Ok(config)
}

fn on() -> bool {
    true
}

fn is_on(value: &bool) -> bool {
    *value
}

/// `/var/lib/nebula` for root, the XDG data folder otherwise.
pub fn default_data_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/nebula");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("nebula")
}

/// The machine's name in the form of a node name: its first label, in lower case.
fn host_name() -> Result<NodeName, ConfigError> {
    let raw = nix::unistd::gethostname()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let label: String = raw.split('.').next().unwrap_or_default().to_lowercase();
    label.parse().map_err(|_| ConfigError::HostName(raw))
}

impl Config {
    pub fn file_in(data_dir: &Path) -> PathBuf {
        data_dir.join("node.toml")
    }

    /// Reads `file`, or `<data-dir>/node.toml` if there is one, over the defaults and under the overrides.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        let data_dir = overrides.data_dir.clone().unwrap_or_else(default_data_dir);
        let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
        let path = file.map_or_else(|| Config::file_in(&data_dir), Path::to_owned);
        let mut config: Config = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).map_err(|reason| ConfigError::Parse { path, reason })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
                Config::defaults(overrides)?
            }
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        config.data_dir = data_dir;
        config.apply(overrides);
        config.output.check()?;
        Ok(config)
    }

    fn defaults(overrides: &Overrides) -> Result<Config, ConfigError> {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let root = nix::unistd::geteuid().is_root();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Config {
            data_dir: PathBuf::new(),
            name: overrides.name.clone().map_or_else(host_name, Ok)?,
            quic: any(DEFAULT_QUIC_PORT),
            api: any(DEFAULT_API_PORT),
            edge: any(if root {
                DEFAULT_EDGE_PORTS.0
            } else {
                DEFAULT_EDGE_PORTS.1
            }),
            edge_tls: None,
            edge_http3: true,
            edge_http3_port: None,
            edge_certificates_dir: None,
            edge_proxy_protocol_from: Vec::new(),
            edge_trusted_proxies: Vec::new(),
            advertise: None,
            // For programs without limits a count per core is the only honest measure of room.
            capacity_instances: u32::try_from(cores * 32).unwrap_or(u32::MAX),
            edge_threads: 0,
            instances: InstancesConfig::default(),
            reserve: ReserveConfig::default(),
            log: LogConfig::default(),
            output: OutputConfig::default(),
        })
    }

    fn apply(&mut self, overrides: &Overrides) {
        fn set<T: Clone>(field: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                field.clone_from(value);
            }
        }
        set(&mut self.name, &overrides.name);
        set(&mut self.quic, &overrides.quic);
        set(&mut self.api, &overrides.api);
        set(&mut self.edge, &overrides.edge);
        set(&mut self.capacity_instances, &overrides.capacity_instances);
        set(&mut self.edge_threads, &overrides.edge_threads);
        set(&mut self.instances.isolation, &overrides.isolation);
        let reserve = &overrides.reserve;
        self.reserve.memory = reserve.memory.or(self.reserve.memory);
        self.reserve.cpu = reserve.cpu.or(self.reserve.cpu);
        set(&mut self.edge_http3, &overrides.edge_http3);
        let (from, trusted) = (
            &overrides.edge_proxy_protocol_from,
            &overrides.edge_trusted_proxies,
        );
        set(&mut self.edge_proxy_protocol_from, from);
        set(&mut self.edge_trusted_proxies, trusted);
        set(&mut self.log.format, &overrides.log_format);
        set(&mut self.log.filter, &overrides.log_filter);
        self.output.apply(&overrides.output);
        if overrides.advertise.is_some() {
            self.advertise = overrides.advertise;
        }
        if overrides.edge_tls.is_some() {
            self.edge_tls = overrides.edge_tls;
        }
        if overrides.edge_http3_port.is_some() {
            self.edge_http3_port = overrides.edge_http3_port;
        }
        if let Some(dir) = &overrides.edge_certificates_dir {
            // Of whoever gives the flag; the daemon runs in another folder.
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            self.edge_certificates_dir = Some(dir);
        }
    }

    /// Where the proxy listens for TLS: beside port 80 on port 443 of the same address, unless something else is said.
    pub fn edge_tls(&self) -> Option<SocketAddr> {
        match self.edge_tls {
            Some(EdgeTls::At(address)) => Some(address),
            Some(EdgeTls::Off) => None,
            None => (self.edge.port() == DEFAULT_EDGE_PORTS.0)
                .then(|| SocketAddr::new(self.edge.ip(), DEFAULT_EDGE_TLS_PORT)),
        }
    }

    /// Holds the certificates for TLS towards people; a path that is not absolute begins in the data folder.
    pub fn edge_certificates_dir(&self) -> PathBuf {
        let dir = self.edge_certificates_dir.as_deref();
        self.data_dir
            .join(dir.unwrap_or(Path::new(CERTIFICATES_DIR)))
    }

    /// Writes `<data-dir>/node.toml`.
    pub fn store(&self) -> Result<(), ConfigError> {
        let path = Config::file_in(&self.data_dir);
        let text = toml::to_string(self).map_err(|e| ConfigError::Parse {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        std::fs::write(&path, text).map_err(|source| ConfigError::Write { path, source })
    }

    /// The address that others use for what listens on `listen`: itself, unless it listens on all.
    pub fn advertised(
        &self,
        what: &'static str,
        listen: SocketAddr,
    ) -> Result<SocketAddr, ConfigError> {
        match (listen.ip().is_unspecified(), self.advertise) {
            (false, _) => Ok(listen),
            (true, Some(ip)) => Ok(SocketAddr::new(ip, listen.port())),
            (true, None) => match outward_address() {
                Some(ip) => Ok(SocketAddr::new(ip, listen.port())),
                None => Err(ConfigError::Unreachable {
                    what,
                    address: listen,
                }),
            },
        }
    }
}

/// The source address the kernel would use towards other networks. A connected UDP socket sends nothing.
fn outward_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-1 (RFC 5737): never assigned, so that no real host is meant.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(dir: &Path) -> Overrides {
        Overrides {
            data_dir: Some(dir.to_owned()),
            name: Some("n1".parse().unwrap()),
            ..Overrides::default()
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let mut stored = Config::load(None, &overrides(dir.path())).unwrap();
        stored.capacity_instances = 7;
        stored.api = "127.0.0.1:9".parse().unwrap();
        stored.reserve.memory = "1Gi".parse().ok();
        stored.store().unwrap();
        let flags = Overrides {
            api: Some("127.0.0.1:10".parse().unwrap()),
            ..overrides(dir.path())
        };
        let read = Config::load(None, &flags).unwrap();
        assert_eq!(read.capacity_instances, 7);
        assert_eq!(read.reserve.memory_bytes(), 1 << 30);
        assert_eq!(read.api.port(), 10);
        assert_eq!(read.quic.port(), DEFAULT_QUIC_PORT);
    }

    #[test]
    fn tls_goes_with_port_80() {
        let dir = tempfile::tempdir().unwrap();
        let at = |edge: &str, tls: Option<&str>| {
            let flags = Overrides {
                edge: Some(edge.parse().unwrap()),
                edge_tls: tls.map(|tls| tls.parse().unwrap()),
                ..overrides(dir.path())
            };
            let config = Config::load(None, &flags).unwrap();
            config.edge_tls().map(|address| address.to_string())
        };
        let tls = |address: &str| Some(address.to_owned());
        assert_eq!(at("192.0.2.1:80", None), tls("192.0.2.1:443"));
        assert_eq!(at("[::]:80", Some("off")), None);
        assert_eq!(at("[::]:8080", None), None);
        assert_eq!(at("[::]:8080", Some("[::]:8443")), tls("[::]:8443"));
        assert!("443".parse::<EdgeTls>().is_err());
    }

    #[test]
    fn settings_of_the_edge_are_kept_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let flags = Overrides {
            edge_tls: Some(EdgeTls::Off),
            edge_http3: Some(false),
            edge_http3_port: NonZeroU16::new(443),
            edge_certificates_dir: Some("/etc/certificates".into()),
            edge_proxy_protocol_from: Some(vec!["10.0.0.0/8".parse().unwrap()]),
            edge_trusted_proxies: Some(vec!["2001:db8::/32".parse().unwrap()]),
            ..overrides(dir.path())
        };
        let default = Config::load(None, &overrides(dir.path())).unwrap();
        assert!(default.edge_http3 && default.edge_http3_port.is_none());
        let stored = Config::load(None, &flags).unwrap();
        stored.store().unwrap();
        let read = Config::load(None, &overrides(dir.path())).unwrap();
        assert_eq!(read, stored);
        assert!(!read.edge_http3);
        assert_eq!(read.edge_certificates_dir(), Path::new("/etc/certificates"));
        let default = Config {
            edge_certificates_dir: None,
            ..read
        };
        assert_eq!(
            default.edge_certificates_dir(),
            default.data_dir.join("certificates")
        );
    }

    #[test]
    fn unknown_fields_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(Config::file_in(dir.path()), "nmae = \"x\"\n").unwrap();
        let error = Config::load(None, &overrides(dir.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("nmae"), "{error}");
    }
}
