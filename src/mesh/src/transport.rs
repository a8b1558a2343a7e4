//! quinn's settings, from our limits and identity.

use std::net::UdpSocket;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nebula_domain::NodeId;
use nebula_pki::{Expect, IdentityCell, mesh_client_config, mesh_server_config};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, Runtime, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};

use crate::{Config, Limits, MeshError};

/// The first guess of a round trip, before one was measured: machines of a cluster are near each
/// other, and a lost first packet is sent again after about three times this.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Bytes of a connection that was not looked at yet, and of all such connections: a certificate fits.
const INCOMING_BUFFER_BYTES: u64 = 16 * 1024;
const INCOMING_BUFFER_TOTAL_BYTES: u64 = 4 * 1024 * 1024;

/// Datagrams not yet sent, or received and not yet delivered; the oldest are dropped. Gossip sends a
/// few kilobytes a second.
const DATAGRAM_BUFFER_BYTES: usize = 512 * 1024;

/// Shows when the last user of the endpoint's socket is gone.
pub(crate) type SocketInUse = Weak<dyn AsyncUdpSocket>;

pub(crate) fn bind(
    config: &Config,
    identity: &IdentityCell,
) -> Result<(Endpoint, SocketInUse), MeshError> {
    let failed = |source| MeshError::Bind {
        address: config.listen,
        source,
    };
    let socket = UdpSocket::bind(config.listen).map_err(failed)?;
    let socket = TokioRuntime.wrap_udp_socket(socket).map_err(failed)?;
    let in_use = Arc::downgrade(&socket);
    let endpoint = Endpoint::new_with_abstract_socket(
        EndpointConfig::default(),
        Some(server(&config.limits, identity)?),
        socket,
        Arc::new(TokioRuntime),
    )
    .map_err(failed)?;
    Ok((endpoint, in_use))
}

fn server(limits: &Limits, identity: &IdentityCell) -> Result<ServerConfig, MeshError> {
    let tls = QuicServerConfig::try_from(mesh_server_config(identity)?)
        .map_err(|error| MeshError::Tls(error.to_string()))?;
    let mut transport = common(limits);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.bidi_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(limits.uni_streams));
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server
        .transport_config(Arc::new(transport))
        .migration(false)
        .max_incoming(limits.max_incoming)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
    Ok(server)
}

pub(crate) fn client(
    limits: &Limits,
    identity: &IdentityCell,
    node: NodeId,
) -> Result<ClientConfig, MeshError> {
    let tls = QuicClientConfig::try_from(mesh_client_config(identity, Expect::Node(node))?)
        .map_err(|error| MeshError::Tls(error.to_string()))?;
    let mut transport = common(limits);
    // The accepting end opens nothing, and only the dialling end needs to keep the line alive.
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(limits.keep_alive));
    let mut client = ClientConfig::new(Arc::new(tls));
    client.transport_config(Arc::new(transport));
    Ok(client)
}

fn common(limits: &Limits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle_ms = u32::try_from(limits.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .stream_receive_window(VarInt::from_u32(limits.stream_receive_window_bytes))
        .receive_window(VarInt::from_u32(limits.receive_window_bytes))
        .send_window(limits.send_window_bytes)
        // At both ends: quinn sends none where it takes none.
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
        .initial_rtt(INITIAL_RTT);
    transport
}
