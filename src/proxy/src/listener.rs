//! Listening sockets of the edge threads: one for each thread and address; the kernel spreads connections over them.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::h3;

/// Connections the kernel holds for each thread until they are accepted; the kernel's own limit is 4096.
const BACKLOG: i32 = 1024;

/// Of one thread.
pub(crate) struct Listeners {
    pub(crate) plain: TcpListener,
    pub(crate) tls: Option<TcpListener>,
    /// One thread has it.
    pub(crate) http3: Option<h3::Door>,
}

/// Gives each thread its own; without TLS there are none of the second kind, and there is one `door` at most.
pub(crate) fn pair(
    plain: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    mut door: Option<h3::Door>,
) -> Vec<Listeners> {
    let tls = tls
        .into_iter()
        .map(Some)
        .chain(std::iter::repeat_with(|| None));
    let both = plain.into_iter().zip(tls);
    let listeners = both.map(|(plain, tls)| Listeners {
        plain,
        tls,
        http3: door.take(),
    });
    listeners.collect()
}

/// The socket of HTTP/3, on the port that `tcp` listens on. Where the system chose that port, somebody may have the other of the
/// same number; then it is asked to choose both anew.
pub(crate) fn beside(wanted: SocketAddr, tcp: &mut Vec<TcpListener>) -> io::Result<UdpSocket> {
    const TRIES: usize = 10;
    for _ in 1..TRIES {
        match UdpSocket::bind(tcp[0].local_addr()?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && wanted.port() == 0 => {
                *tcp = bind(wanted, tcp.len())?;
            }
            bound => return bound,
        }
    }
    UdpSocket::bind(tcp[0].local_addr()?)
}

/// Binds `count` sockets. With port 0 the system chooses once, and all share what it chose.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let first = exclusive(address)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        let socket = socket(bound)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        socket.listen(BACKLOG)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// The first socket is bound before it agrees to share: otherwise a second daemon of the same user
/// on the same port would not fail but take half of the connections.
fn exclusive(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // Connections of an earlier run in TIME_WAIT do not stop this one.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_a_port_and_strangers_do_not() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 4).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert!(
            listeners
                .iter()
                .all(|listener| listener.local_addr().unwrap() == address)
        );
        assert_eq!(
            bind(address, 2).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(listeners);
        bind(address, 2).unwrap();
    }
}
