//! Opening a connection to an instance: a socket on this machine, or a tunnel to another.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::observed::LocalInstances;
use nebula_domain::routes::Endpoint;
use nebula_domain::{InstanceId, NodeId};
use nebula_mesh::{CallError, Mesh, Silence, Stream};
use nebula_wire::codec::{self, CodecError};
use nebula_wire::peer::Protocol;
use nebula_wire::peer::tunnel::{Answer, FRAME_BYTES_MAX, Open, Site};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Io, Target, Upstream, Via};
use crate::config::Limits;
use crate::h1::{ResponseHead, Wire};

/// Why there is no connection. Nothing of the request was sent, so it may go elsewhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("the instance does not run here")]
    NoSuchInstance,
    #[error("the instance did not accept a connection")]
    Connect(#[source] io::Error),
    #[error("the instance did not accept a connection in time")]
    ConnectTimeout,
    #[error("the other node could not connect to the instance: {0:?}")]
    Refused(Answer),
    #[error("the other node could not be reached")]
    Mesh(#[source] CallError),
    #[error("the other node did not answer in time")]
    TunnelTimeout,
    #[error("the other node fell silent")]
    Suspect,
    #[error("the instance does not speak HTTP/2 in the clear")]
    NotHttp2,
    #[error("the instance did not begin to speak HTTP/2 in time")]
    GreetingTimeout,
    #[error("all connections of HTTP/2 to the instance carry as many requests as they may")]
    Full,
    #[error("the other node's answer makes no sense")]
    Answer(#[source] CodecError),
}

impl DialError {
    /// Whether the node is to blame, and not the one instance.
    pub(crate) fn is_of_node(&self) -> bool {
        matches!(
            self,
            DialError::Mesh(_)
                | DialError::TunnelTimeout
                | DialError::Suspect
                | DialError::Answer(_)
        )
    }
}

/// Opens connections for one edge thread.
pub(crate) struct Dialer {
    me: NodeId,
    locals: watch::Receiver<Arc<LocalInstances>>,
    pub(crate) suspects: watch::Receiver<Arc<std::collections::BTreeSet<NodeId>>>,
    mesh: Mesh,
    connect_timeout: Duration,
    tunnel_timeout: Duration,
}

impl Dialer {
    pub(crate) fn new(
        me: NodeId,
        locals: watch::Receiver<Arc<LocalInstances>>,
        mesh: Mesh,
        limits: &Limits,
    ) -> Dialer {
        Dialer {
            me,
            locals,
            suspects: mesh.suspects(),
            mesh,
            connect_timeout: limits.connect_timeout,
            tunnel_timeout: limits.tunnel_timeout,
        }
    }

    /// Where connections to an endpoint lead at this moment.
    pub(crate) fn target(
        &self,
        endpoint: Endpoint,
        site: Option<Site>,
    ) -> Result<Target, DialError> {
        let Endpoint { instance, node } = endpoint;
        let via = if node == self.me {
            let locals = self.locals.borrow();
            let local = locals.get(&instance).ok_or(DialError::NoSuchInstance)?;
            Via::Local {
                address: local.address,
                run: local.run,
            }
        } else {
            Via::Remote { node, site }
        };
        Ok(Target { instance, via })
    }

    /// The bytes alone, with what tells of the silence of another node.
    pub(crate) async fn open(&self, target: Target) -> Result<(Io, Option<Silence>), DialError> {
        Ok(match target.via {
            Via::Local { address, .. } => {
                let socket = connect(address, self.connect_timeout).await?;
                (Io::Socket(socket), None)
            }
            Via::Remote { node, site } => {
                let stream = self.tunnel(node, target.instance, site).await?;
                let silence = stream.silence();
                (Io::Tunnel(Box::new(stream)), silence)
            }
        })
    }

    pub(crate) async fn dial(&self, target: Target) -> Result<Upstream, DialError> {
        let (io, silence) = self.open(target).await?;
        Ok(Upstream {
            wire: Wire::new(io),
            head: ResponseHead::default(),
            silence,
        })
    }

    async fn tunnel(
        &self,
        node: NodeId,
        instance: InstanceId,
        site: Option<Site>,
    ) -> Result<Stream, DialError> {
        let deadline = self.tunnel_timeout;
        let opening = open(&self.mesh, node, Open { instance, site }, deadline);
        let mut suspects = self.suspects.clone();
        tokio::select! {
            biased;
            opened = timeout(deadline, opening) => opened.unwrap_or(Err(DialError::TunnelTimeout)),
            () = fell_silent(&mut suspects, node) => Err(DialError::Suspect),
        }
    }
}

/// Returns when the node is silent while it owes answers; at once if it is already.
pub(crate) async fn fell_silent(
    suspects: &mut watch::Receiver<Arc<std::collections::BTreeSet<NodeId>>>,
    node: NodeId,
) {
    if suspects
        .wait_for(|suspects| suspects.contains(&node))
        .await
        .is_err()
    {
        // The mesh is closed; whoever waits for an answer learns it from the stream.
        std::future::pending::<()>().await;
    }
}

pub(crate) async fn connect(
    address: SocketAddr,
    patience: Duration,
) -> Result<TcpStream, DialError> {
    let socket = timeout(patience, TcpStream::connect(address))
        .await
        .map_err(|_| DialError::ConnectTimeout)?
        .map_err(DialError::Connect)?;
    // A response's head and body go out in pieces; none should wait for the one before.
    socket.set_nodelay(true).map_err(DialError::Connect)?;
    Ok(socket)
}

async fn open(
    mesh: &Mesh,
    node: NodeId,
    open: Open,
    deadline: Duration,
) -> Result<Stream, DialError> {
    let mut stream = mesh
        .open(node, Protocol::Tunnel, deadline)
        .await
        .map_err(DialError::Mesh)?;
    let frame = codec::encode(&open).map_err(DialError::Answer)?;
    stream.write_frame(frame).await.map_err(DialError::Mesh)?;
    let answer = stream
        .read_frame(FRAME_BYTES_MAX)
        .await
        .map_err(DialError::Mesh)?;
    match codec::decode(&answer).map_err(DialError::Answer)? {
        Answer::Connected => Ok(stream),
        refused => Err(DialError::Refused(refused)),
    }
}
