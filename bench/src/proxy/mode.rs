//! What is measured.

use clap::ValueEnum;

use super::load::{Tool, Way};
use super::peers::{Layout, Peer};
use super::stage::{API, SITE};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Mode {
    /// 13 bytes over HTTP/1.1.
    #[value(name = "small")]
    Small,
    /// 10 KB over HTTP/1.1.
    #[value(name = "10k")]
    TenK,
    /// 1 MB over HTTP/1.1.
    #[value(name = "1m")]
    OneM,
    /// 13 bytes over HTTP/1.1 in TLS.
    #[value(name = "tls-h1")]
    TlsH1,
    /// 13 bytes over HTTP/2 in TLS, one stream at a time on each connection.
    #[value(name = "tls-h2")]
    TlsH2,
    /// The same, ten streams at a time.
    #[value(name = "tls-h2-10")]
    TlsH2Ten,
    /// A file of 1 KB.
    #[value(name = "static-1k")]
    StaticK,
    /// A file of 1 MB.
    #[value(name = "static-1m")]
    StaticM,
    /// 13 bytes through a second proxy, with encryption between the two.
    #[value(name = "other-node")]
    OtherNode,
    /// What p99 a proxy adds at half of what it could do.
    #[value(name = "half-load")]
    HalfLoad,
    /// Memory of idle connections.
    #[value(name = "idle")]
    Idle,
    /// Memory of idle connections in TLS.
    #[value(name = "idle-tls")]
    IdleTls,
    /// Memory of idle connections of HTTP/2 in TLS.
    #[value(name = "idle-h2")]
    IdleH2,
    /// A table of 10,000 names that is replaced under load.
    #[value(name = "table")]
    Table,
}

/// One kind of load on one path.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub way: Way,
    pub host: &'static str,
    pub path: &'static str,
    pub layout: Layout,
}

impl Mode {
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    pub fn all() -> Vec<Mode> {
        Mode::value_variants().to_vec()
    }

    /// How it is measured, for those in which every proxy is loaded as far as it goes.
    pub fn shape(self) -> Option<Shape> {
        let (way, host, path) = match self {
            Mode::Small | Mode::OtherNode => (Way::Plain, API, "/small"),
            Mode::TenK => (Way::Plain, API, "/10k"),
            Mode::OneM => (Way::Plain, API, "/1m"),
            Mode::TlsH1 => (Way::TlsOne, API, "/small"),
            Mode::TlsH2 => (Way::TlsTwo { streams: 1 }, API, "/small"),
            Mode::TlsH2Ten => (Way::TlsTwo { streams: 10 }, API, "/small"),
            Mode::StaticK => (Way::Plain, SITE, "/1k.txt"),
            Mode::StaticM => (Way::Plain, SITE, "/1m.txt"),
            Mode::HalfLoad | Mode::Table => return None,
            Mode::Idle | Mode::IdleTls | Mode::IdleH2 => return None,
        };
        let layout = if self == Mode::OtherNode {
            Layout::Pair
        } else {
            Layout::Single
        };
        Some(Shape {
            way,
            host,
            path,
            layout,
        })
    }

    /// What it needs besides proxies.
    fn tools(self) -> Vec<Tool> {
        match (self.shape(), self) {
            (Some(shape), _) => vec![shape.way.tool()],
            (None, Mode::HalfLoad | Mode::Table) => vec![Tool::Wrk, Tool::H2load],
            (None, _) => Vec::new(),
        }
    }

    /// Why it cannot be measured here.
    pub fn missing(self) -> Option<String> {
        self.tools().into_iter().find_map(Tool::missing)
    }

    /// Whether a proxy has a part in it; one that has none is no line of the table.
    pub fn concerns(self, peer: Peer) -> bool {
        match self {
            Mode::StaticK | Mode::StaticM => peer.serves_files(),
            Mode::OtherNode => matches!(peer, Peer::Nebula | Peer::Nginx),
            Mode::HalfLoad => matches!(peer, Peer::Nebula | Peer::Nginx | Peer::Haproxy),
            Mode::Table => peer == Peer::Nebula,
            _ => true,
        }
    }
}
