//! The 'edge_tls' setting.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where the proxy listens for TLS, when that is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EdgeTls {
    Off,
    At(SocketAddr),
}

/// Neither an address nor `off`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address: write IP:PORT, such as 0.0.0.0:443 or [::]:443, or 'off'")]
pub struct NotAnAddress(String);

impl FromStr for EdgeTls {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<EdgeTls, NotAnAddress> {
        match text {
            "off" => Ok(EdgeTls::Off),
            _ => text
                .parse()
                .map(EdgeTls::At)
                .map_err(|_| NotAnAddress(text.to_owned())),
        }
    }
}

impl TryFrom<String> for EdgeTls {
    type Error = NotAnAddress;

    fn try_from(text: String) -> Result<EdgeTls, NotAnAddress> {
        text.parse()
    }
}

impl From<EdgeTls> for String {
    fn from(value: EdgeTls) -> String {
        value.to_string()
    }
}

impl fmt::Display for EdgeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EdgeTls::Off => f.write_str("off"),
            EdgeTls::At(address) => address.fmt(f),
        }
    }
}
