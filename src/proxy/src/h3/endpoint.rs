//! Where connections of HTTP/3 come in: one socket, on one of the edge's threads, so that a connection whose client changes its
//! address stays where it is.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use socket2::SockRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::connection;
use crate::config::Limits;
use crate::edge::{Edge, Stop, stopped};
use crate::metrics::Attempt;
use crate::seats::{NoSeat, Seat, Seats};

/// Streams of one direction that a client may have open: its control stream, two of QPACK, and some that mean nothing, as clients
/// open to see that they are ignored (RFC 9114 section 6.2.3).
const OTHER_STREAMS: u32 = 8;
/// Connections that wait to be looked at, which takes microseconds; what has come of each, and of all. A first flight fits.
const INCOMING_MAX: usize = 1024;
const INCOMING_BUFFER_BYTES: u64 = 16 * 1024;
const INCOMING_BUFFER_TOTAL_BYTES: u64 = 4 * 1024 * 1024;
/// A client that has gone without a word is noticed after a few of these, however long its answer takes.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Asked of the system for packets on their way in and out, which all go through one socket: some milliseconds of a fast network. It
/// may give less (`net.core.rmem_max`, `wmem_max`), and it goes on with that.
const SOCKET_BYTES: usize = 2 * 1024 * 1024;

/// A bound socket, and what connections to it are served with.
pub(crate) struct Door {
    socket: UdpSocket,
    config: ServerConfig,
}

impl Door {
    pub(crate) fn new(socket: UdpSocket, tls: QuicServerConfig, limits: &Limits) -> Door {
        let buffers = SockRef::from(&socket);
        let set = buffers
            .set_recv_buffer_size(SOCKET_BYTES)
            .and_then(|()| buffers.set_send_buffer_size(SOCKET_BYTES));
        if let Err(error) = set {
            tracing::debug!(%error, "the buffers of the socket of HTTP/3 stay as they are");
        }
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config
            .transport_config(Arc::new(transport(limits)))
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BUFFER_BYTES)
            .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
        Door { socket, config }
    }

    /// Opens it on the thread that this is called on.
    pub(crate) fn open(&self) -> io::Result<Endpoint> {
        Endpoint::new(
            EndpointConfig::default(),
            Some(self.config.clone()),
            self.socket.try_clone()?,
            Arc::new(TokioRuntime),
        )
    }
}

fn transport(limits: &Limits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.http2_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(OTHER_STREAMS))
        .stream_receive_window(VarInt::from_u32(limits.http2_stream_window))
        .receive_window(VarInt::from_u32(limits.http2_connection_window))
        .send_window(limits.http3_send_window)
        .max_idle_timeout(IdleTimeout::try_from(limits.http3_silence).ok())
        .keep_alive_interval(Some(KEEP_ALIVE.min(limits.http3_silence / 3)))
        // RFC 9297: nothing here is carried by datagrams.
        .datagram_receive_buffer_size(None);
    transport
}

/// Lets connections in until the word to stop, and then waits for those that are there.
pub(crate) async fn serve(edge: Arc<Edge>, endpoint: Endpoint, mut stop: watch::Receiver<Stop>) {
    let limits = &edge.shared.limits;
    let seats = Arc::new(Seats::new(
        limits.http3_connections,
        limits.http3_connections_per_address,
    ));
    // With clients that may be somebody else.
    let handshakes = Semaphore::new(limits.http3_unvalidated_handshakes);
    let handshakes = Arc::new(handshakes);
    let connections = TaskTracker::new();
    loop {
        let incoming = tokio::select! {
            biased;
            _ = stopped(&mut stop) => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else {
            break;
        };
        let (edge, stop) = (Arc::clone(&edge), stop.clone());
        if let Some(admitted) = admit(&edge, &seats, &handshakes, incoming) {
            connections.spawn(async move {
                let shaken = shake(&edge, admitted.incoming).await;
                drop(admitted.unproven);
                if let Some(connection) = shaken {
                    connection::serve(&edge, connection, stop).await;
                }
                drop(admitted.seat);
            });
        }
    }
    connections.close();
    // Those that come now may ask elsewhere at once, instead of trying until they give up.
    let refuse = async {
        while let Some(incoming) = endpoint.accept().await {
            incoming.refuse();
        }
    };
    tokio::select! {
        () = connections.wait() => {}
        () = refuse => connections.wait().await,
    }
    endpoint.set_server_config(None);
    // The last packets say that the connections have ended; they are sent again to those who did not hear it.
    let _ = timeout(limits.linger, endpoint.wait_idle()).await;
}

/// A connection that has a place.
struct Admitted {
    incoming: Incoming,
    seat: Seat,
    /// Of one that has not shown that its address is its own, until the handshake is over.
    unproven: Option<OwnedSemaphorePermit>,
}

/// Finds a place for a connection, or refuses it.
fn admit(
    edge: &Edge,
    seats: &Arc<Seats>,
    handshakes: &Arc<Semaphore>,
    incoming: Incoming,
) -> Option<Admitted> {
    let shared = &edge.shared;
    let peer = incoming.remote_address().ip().to_canonical();
    let refuse = |incoming: Incoming, why: Attempt| {
        shared.metrics.http3.attempt(why);
        incoming.refuse();
        None
    };
    // There is no PROXY header in QUIC, and from these nothing is taken without.
    if shared.speaks_for_others(peer) {
        return refuse(incoming, Attempt::Unnamed);
    }
    // RFC 9000 section 8.1.2: until a client has shown that it gets what is sent to its address, it may be somebody else.
    let unproven = match incoming.remote_address_validated() {
        true => None,
        false => Some(Arc::clone(handshakes).try_acquire_owned()),
    };
    if let Some(Err(_)) = unproven {
        shared.metrics.http3.attempt(Attempt::Retried);
        if let Err(error) = incoming.retry() {
            error.into_incoming().refuse();
        }
        return None;
    }
    match Seats::take(seats, peer) {
        Ok(seat) => Some(Admitted {
            incoming,
            seat,
            unproven: unproven.and_then(Result::ok),
        }),
        Err(NoSeat::Full) => refuse(incoming, Attempt::Full),
        Err(NoSeat::Crowded) => refuse(incoming, Attempt::Crowded),
    }
}

/// The handshake, when it comes to an end in time.
async fn shake(edge: &Edge, incoming: Incoming) -> Option<Connection> {
    let limits = &edge.shared.limits;
    let handshake = async { incoming.accept()?.await };
    let (how, connection) = match timeout(limits.tls_handshake, handshake).await {
        Ok(Ok(connection)) => (Attempt::Accepted, Some(connection)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a handshake of HTTP/3 failed");
            (Attempt::Failed, None)
        }
        Err(_) => (Attempt::TimedOut, None),
    };
    edge.shared.metrics.http3.attempt(how);
    connection
}
