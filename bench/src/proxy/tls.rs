//! A TLS client that knows the run's certificate: to see who serves TLS, and to hold idle connections.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::stage::{API, Certificate};

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// What is spoken in TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    HttpOne,
    HttpTwo,
}

impl Protocol {
    /// Its name in ALPN (RFC 7301; RFC 9113, section 3.1).
    fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::HttpOne => b"http/1.1",
            Protocol::HttpTwo => b"h2",
        }
    }
}

/// Whether a server answers a handshake and agrees to the protocol; HTTP/1.1 is also what is spoken without ALPN.
pub fn is_served(address: SocketAddr, certificate: &Certificate, protocol: Protocol) -> bool {
    let agreed = config(certificate, protocol).and_then(|config| {
        let stream = connect(address, &config)?;
        Ok(stream.conn.alpn_protocol().map(<[u8]>::to_vec))
    });
    match agreed {
        Ok(Some(agreed)) => agreed == protocol.alpn(),
        Ok(None) => protocol == Protocol::HttpOne,
        Err(_) => false,
    }
}

/// A handshake on this machine takes milliseconds; a server that waits for something else is no TLS server.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A client that speaks this protocol alone.
pub fn config(certificate: &Certificate, protocol: Protocol) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der.clone())?;
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    Ok(Arc::new(config))
}

/// A connection whose handshake is over.
pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<TlsStream> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(API)?;
    let mut connection = ClientConnection::new(Arc::clone(config), name)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}
