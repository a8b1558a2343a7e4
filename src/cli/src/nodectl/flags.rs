//! A node's settings as flags and `NEBULA_*` variables.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nebula_domain::NodeName;
use nebula_domain::http::Network;
use nebula_domain::resources::{Cpu, Memory};
use nebula_node::{
    Config, ConfigError, EdgeTls, IsolationMode, LogFormat, OutputOverrides, Overrides,
    ReserveConfig,
};

use crate::error::{CliError, Outcome};
use crate::pack::chain;

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "This node")]
pub struct NodeFlags {
    /// Where the node keeps everything [default: /var/lib/nebula for root, ~/.local/share/nebula otherwise]
    #[arg(long, value_name = "DIR", env = "NEBULA_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The node's name among the members [default: this machine's host name]
    #[arg(long, value_name = "NAME", env = "NEBULA_NAME")]
    pub name: Option<NodeName>,
    /// Where to listen for other nodes, UDP [default: 0.0.0.0:7600]
    #[arg(long, alias = "quic-addr", value_name = "IP:PORT", env = "NEBULA_LISTEN", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Where to serve the API, TCP [default: 0.0.0.0:7601]
    #[arg(long, value_name = "IP:PORT", env = "NEBULA_API_ADDR", value_parser = address)]
    pub api_addr: Option<SocketAddr>,
    /// Where to serve what is deployed, TCP [default: 0.0.0.0:80 for root, 0.0.0.0:8080 otherwise]
    #[arg(long, value_name = "IP:PORT", env = "NEBULA_EDGE_ADDR", value_parser = address)]
    pub edge_addr: Option<SocketAddr>,
    /// The same over TLS, or 'off' [default: port 443 where --edge-addr has port 80, none otherwise]
    #[arg(long, value_name = "IP:PORT|off", env = "NEBULA_EDGE_TLS_ADDR")]
    pub edge_tls_addr: Option<EdgeTls>,
    /// Whether to serve HTTP/3 as well, on the port of --edge-tls-addr (UDP) [default: true]
    #[arg(long, value_name = "true|false", env = "NEBULA_EDGE_HTTP3")]
    pub edge_http3: Option<bool>,
    /// The port that people reach HTTP/3 at, where another one is passed on to this node
    #[arg(long, value_name = "PORT", env = "NEBULA_EDGE_HTTP3_PORT")]
    pub edge_http3_port: Option<NonZeroU16>,
    /// Certificates for TLS: NAME.crt with NAME.key beside it [default: 'certificates' in the data folder]
    #[arg(long, value_name = "DIR", env = "NEBULA_EDGE_CERTIFICATES")]
    pub edge_certificates: Option<PathBuf>,
    /// Load balancers whose connections begin with a PROXY header, such as 10.0.0.0/8
    #[arg(
        long,
        value_name = "NETWORK,...",
        env = "NEBULA_EDGE_PROXY_PROTOCOL_FROM",
        value_delimiter = ','
    )]
    pub edge_proxy_protocol_from: Option<Vec<Network>>,
    /// HTTP proxies in front of this node that are believed about where a request comes from
    #[arg(
        long,
        value_name = "NETWORK,...",
        env = "NEBULA_EDGE_TRUSTED_PROXIES",
        value_delimiter = ','
    )]
    pub edge_trusted_proxies: Option<Vec<Network>>,
    /// The address that other machines reach this one at, when it listens on all
    #[arg(long, value_name = "IP", env = "NEBULA_ADVERTISE", value_parser = ip)]
    pub advertise: Option<IpAddr>,
    /// Service instances this node is willing to run; 0 keeps it free of them
    #[arg(long, value_name = "N", env = "NEBULA_CAPACITY")]
    pub capacity: Option<u32>,
    /// Memory that instances are not given, such as 512Mi
    #[arg(long, value_name = "SIZE", env = "NEBULA_RESERVE_MEMORY")]
    pub reserve_memory: Option<Memory>,
    /// Processor time that instances are not given, such as 500m (half a core)
    #[arg(long, value_name = "CORES", env = "NEBULA_RESERVE_CPU")]
    pub reserve_cpu: Option<Cpu>,
    /// Threads that serve what is deployed; 0 for one per core
    #[arg(long, value_name = "N", env = "NEBULA_EDGE_THREADS")]
    pub edge_threads: Option<usize>,
    /// How programs are kept apart: as their deployments ask, everything or no start, or nothing but their limits
    #[arg(long, value_name = "MODE", env = "NEBULA_ISOLATION")]
    pub isolation: Option<Isolation>,
    /// The daemon's log
    #[arg(long, value_name = "FORMAT", env = "NEBULA_LOG_FORMAT")]
    pub log_format: Option<Format>,
    /// What the daemon logs, such as 'info' or 'info,nebula_mesh=debug'
    #[arg(long, value_name = "FILTER", env = "NEBULA_LOG")]
    pub log: Option<String>,
    #[command(flatten)]
    pub output: OutputFlags,
}

/// How much of instances' output a node keeps.
#[derive(Debug, Clone, Default, Args)]
pub struct OutputFlags {
    /// One instance's output goes on in a new segment at this size, 16MiB if nothing is said
    #[arg(long, value_name = "SIZE", env = "NEBULA_OUTPUT_SEGMENT")]
    pub output_segment: Option<String>,
    /// Segments that are kept of one instance, 4 if nothing is said
    #[arg(long, value_name = "N", env = "NEBULA_OUTPUT_SEGMENTS")]
    pub output_segments: Option<u32>,
    /// Output is kept for this long, 30d if nothing is said
    #[arg(long, value_name = "TIME", env = "NEBULA_OUTPUT_KEEP")]
    pub output_keep: Option<String>,
    /// Output that is kept in all, and once more so much of other nodes'; 1GiB if nothing is said
    #[arg(long, value_name = "SIZE", env = "NEBULA_OUTPUT_TOTAL")]
    pub output_total: Option<String>,
    /// Output that one instance may write in a second, 4MiB if nothing is said
    #[arg(long, value_name = "SIZE", env = "NEBULA_OUTPUT_RATE")]
    pub output_rate: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    Auto,
    Required,
    Off,
}

impl From<Isolation> for IsolationMode {
    fn from(isolation: Isolation) -> IsolationMode {
        match isolation {
            Isolation::Auto => IsolationMode::Auto,
            Isolation::Required => IsolationMode::Required,
            Isolation::Off => IsolationMode::Off,
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is not an address: write IP:PORT, such as 192.0.2.1:7601 or [::]:7601")
    })
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is not an IP address: write one without a port, such as 192.0.2.1")
    })
}

impl NodeFlags {
    pub fn overrides(&self) -> Overrides {
        Overrides {
            data_dir: self.data_dir.clone(),
            name: self.name.clone(),
            quic: self.listen,
            api: self.api_addr,
            edge: self.edge_addr,
            edge_tls: self.edge_tls_addr,
            edge_http3: self.edge_http3,
            edge_http3_port: self.edge_http3_port,
            edge_certificates_dir: self.edge_certificates.clone(),
            edge_proxy_protocol_from: self.edge_proxy_protocol_from.clone(),
            edge_trusted_proxies: self.edge_trusted_proxies.clone(),
            advertise: self.advertise,
            capacity_instances: self.capacity,
            edge_threads: self.edge_threads,
            isolation: self.isolation.map(Into::into),
            reserve: ReserveConfig {
                memory: self.reserve_memory,
                cpu: self.reserve_cpu,
            },
            log_format: self.log_format.map(|format| match format {
                Format::Text => LogFormat::Text,
                Format::Json => LogFormat::Json,
            }),
            log_filter: self.log.clone(),
            output: OutputOverrides {
                segment: self.output.output_segment.clone(),
                segments: self.output.output_segments,
                keep: self.output.output_keep.clone(),
                total: self.output.output_total.clone(),
                rate: self.output.output_rate.clone(),
            },
        }
    }

    /// The checked configuration: defaults, the file, variables, flags, in this order.
    pub fn config(&self, file: Option<&std::path::Path>) -> Outcome<Config> {
        Config::load(file, &self.overrides()).map_err(bad_config)
    }
}

pub fn bad_config(error: ConfigError) -> CliError {
    CliError::usage(chain(&error), "see 'nodectl run --help' for the settings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_an_ip_and_a_port() {
        assert!(address("127.0.0.1:80").is_ok());
        assert!(address("[::1]:80").is_ok());
        for bad in ["", "80", "127.0.0.1", "host:80", "127.0.0.1:99999"] {
            assert!(address(bad).unwrap_err().contains("IP:PORT"), "{bad}");
        }
        assert!(ip("192.0.2.1").is_ok());
        assert!(ip("192.0.2.1:1").is_err());
    }
}
