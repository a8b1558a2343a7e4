//! Connections to instances: opened ([`dial`]), kept while unused ([`pool`]), used by one request at a time. Those that speak
//! HTTP/2 have streams in place of connections ([`h2c`]).

mod dial;
mod h2c;
mod io;
mod pool;

use std::net::SocketAddr;

use nebula_domain::InstanceId;
use nebula_mesh::Silence;
use nebula_wire::peer::tunnel::Site;

pub(crate) use dial::{DialError, Dialer, connect, fell_silent};
pub(crate) use h2c::{Links, Told, is_websocket};
pub(crate) use io::Io;
pub(crate) use pool::Pool;

use crate::h1::{ResponseHead, Wire};

/// An open connection to an instance.
pub(crate) struct Upstream {
    pub(crate) wire: Wire<Io>,
    /// Of the latest response.
    pub(crate) head: ResponseHead,
    /// Of the node at the other end of a tunnel.
    pub(crate) silence: Option<Silence>,
}

/// What a connection leads to. A connection is used again only for exactly the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    pub(crate) via: Via,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// A socket on this machine. The run tells a restarted program from its predecessor.
    Local { address: SocketAddr, run: u64 },
    /// A tunnel of the mesh.
    Remote {
        node: nebula_domain::NodeId,
        site: Option<Site>,
    },
}
