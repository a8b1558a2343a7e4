//! Where connections of HTTP/3 come in: one socket, on one of the edge's threads, so that a connection whose client changes its
//! address stays where it is.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use socket2::SockRef;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::connection;
use crate::config::Limits;
use crate::edge::{Edge, Stop, stopped};
use crate::metrics::Attempt;

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
    let seats = Arc::new(Seats::new(limits));
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
        if let Some((incoming, seat)) = admit(&edge, &seats, incoming) {
            connections.spawn(async move {
                if let Some(connection) = shake(&edge, &seat.seats, incoming).await {
                    connection::serve(&edge, connection, stop).await;
                }
                drop(seat);
            });
        }
    }
    endpoint.set_server_config(None);
    // They may ask elsewhere at once.
    while let Some(Some(incoming)) = endpoint.accept().now_or_never() {
        incoming.refuse();
    }
    connections.close();
    connections.wait().await;
    // The last packets say that the connections have ended; they are sent again to those who did not hear it.
    let _ = timeout(limits.linger, endpoint.wait_idle()).await;
}

/// Finds a place for a connection, or refuses it.
fn admit(edge: &Edge, seats: &Arc<Seats>, incoming: Incoming) -> Option<(Incoming, Seat)> {
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
    if !incoming.remote_address_validated() && seats.handshakes.available_permits() == 0 {
        shared.metrics.http3.attempt(Attempt::Retried);
        if let Err(error) = incoming.retry() {
            error.into_incoming().refuse();
        }
        return None;
    }
    match Seats::take(seats, peer) {
        Ok(seat) => Some((incoming, seat)),
        Err(why) => refuse(incoming, why),
    }
}

/// The handshake, when it comes to an end in time.
async fn shake(edge: &Edge, seats: &Seats, incoming: Incoming) -> Option<Connection> {
    let limits = &edge.shared.limits;
    // One that has shown its address goes on without.
    let _unproven = match incoming.remote_address_validated() {
        true => None,
        false => seats.handshakes.try_acquire().ok(),
    };
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

/// The connections that there may be.
struct Seats {
    most: usize,
    most_per_address: usize,
    taken: Mutex<Taken>,
    /// Handshakes with clients that may be somebody else.
    handshakes: Semaphore,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Seats {
    fn new(limits: &Limits) -> Seats {
        Seats {
            most: limits.http3_connections,
            most_per_address: limits.http3_connections_per_address,
            taken: Mutex::default(),
            handshakes: Semaphore::new(limits.http3_unvalidated_handshakes),
        }
    }

    fn take(seats: &Arc<Seats>, peer: IpAddr) -> Result<Seat, Attempt> {
        let address = network(peer);
        let mut taken = seats.lock();
        if taken.all >= seats.most {
            return Err(Attempt::Full);
        }
        let of_address = taken.by_address.entry(address).or_default();
        if *of_address >= seats.most_per_address {
            return Err(Attempt::Crowded);
        }
        *of_address += 1;
        taken.all += 1;
        drop(taken);
        Ok(Seat {
            seats: Arc::clone(seats),
            address,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's, until it is dropped.
struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all -= 1;
        if let Some(of_address) = taken.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: of IPv6 a client has a whole /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) >> 64 << 64;
            Ipv6Addr::from(prefix).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_address_and_given_back() {
        let limits = Limits {
            http3_connections: 3,
            http3_connections_per_address: 2,
            ..Limits::default()
        };
        let seats = Arc::new(Seats::new(&limits));
        let take = |peer: &str| Seats::take(&seats, peer.parse().unwrap());
        let one = take("2001:db8::1").unwrap_or_else(|_| panic!("full"));
        let _two = take("2001:db8::ffff:2").unwrap_or_else(|_| panic!("full"));
        assert_eq!(take("2001:db8::3").err(), Some(Attempt::Crowded));
        let _three = take("192.0.2.1").unwrap_or_else(|_| panic!("full"));
        assert_eq!(take("192.0.2.2").err(), Some(Attempt::Full));
        drop(one);
        assert!(take("2001:db8::3").is_ok());
        drop((_two, _three));
        assert!(seats.lock().by_address.is_empty());
        assert_eq!(seats.lock().all, 0);
    }
}
