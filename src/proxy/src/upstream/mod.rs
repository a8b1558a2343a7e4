//! Connections to instances: opened ([`dial`]), kept while unused ([`pool`]), lent to one request
//! at a time ([`Lease`]).

mod dial;
mod pool;
mod progress;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use nebula_domain::InstanceId;
use nebula_mesh::Silence;
use nebula_wire::peer::tunnel::Site;

pub(crate) use dial::{DialError, Dialer, connect, fell_silent};
pub(crate) use pool::Pool;
pub(crate) use progress::Progress;

use crate::body::RequestBody;

/// An open connection to an instance.
pub(crate) struct Sender {
    pub(crate) http: SendRequest<RequestBody>,
    /// Of the node at the other end of a tunnel.
    pub(crate) silence: Option<Silence>,
}

/// How long a connection may take from the end of a response until it is ready for another request;
/// it is a matter of one turn of the runtime, unless an upload is still going on.
const READY_WAIT: Duration = Duration::from_secs(1);

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

/// A connection in use by one request. Dropped, it closes the connection.
pub(crate) struct Lease {
    pub(crate) sender: Sender,
    pub(crate) target: Target,
    pub(crate) pool: Arc<Pool>,
}

impl Lease {
    /// The response was read to its end: the connection may serve another request.
    pub(crate) fn give_back(mut self) {
        if self.sender.http.is_ready() {
            self.pool.put(self.target, self.sender);
        } else if !self.sender.http.is_closed()
            // A body may be dropped after its runtime.
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let ready = tokio::time::timeout(READY_WAIT, self.sender.http.ready()).await;
                if matches!(ready, Ok(Ok(()))) {
                    self.pool.put(self.target, self.sender);
                }
            });
        }
    }
}
