//! A TLS client that knows the run's certificate: to see who serves TLS, and to hold idle connections.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::stage::{API, Certificate};

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A handshake on this machine takes milliseconds; a server that waits for something else is no TLS server.
pub const PATIENCE: Duration = Duration::from_secs(5);

pub fn config(certificate: &Certificate) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der.clone())?;
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
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
