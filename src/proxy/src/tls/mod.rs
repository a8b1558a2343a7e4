//! TLS towards clients: certificates from a folder, chosen by the name that a client asks for.
//!
//! TLS 1.2 and 1.3 with ring's suites, which are all of the modern kind (ECDHE with AES-GCM or ChaCha20-Poly1305). Sessions are
//! resumed by tickets that every edge thread of the node can open, so that nothing is kept for a client that has gone.

mod certificates;
mod folder;
mod keeper;
mod redirect;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Limits;
use crate::error::ProxyError;
use crate::metrics::{Handshake, ProxyMetrics};
use certificates::Certificates;
pub(crate) use keeper::Keeper;
pub(crate) use redirect::to_https;

/// What a connection can be used for, the best first (ALPN, RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// The same over QUIC (RFC 9114 section 3.1).
const PROTOCOLS_OF_QUIC: [&[u8]; 1] = [b"h3"];

/// The best first, in the order of Mozilla's server recommendations (wiki.mozilla.org/Security/Server_Side_TLS): AES-128
/// before AES-256, which is slower and protects against nothing more that anybody can do, and ChaCha20 for who has no AES in hardware
/// and offers nothing else.
const SUITES: [SupportedCipherSuite; 9] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// A record with a fatal alert, `unrecognized_name` (RFC 6066 section 3, RFC 8446 sections 5.1 and 6), as a server sends it before
/// a version is chosen.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// One for all edge threads of a node.
pub(crate) struct Tls {
    /// Where clients find it.
    address: SocketAddr,
    config: Arc<ServerConfig>,
    certificates: watch::Receiver<Arc<Certificates>>,
    metrics: ProxyMetrics,
}

impl Tls {
    /// Reads the folder. What is wrong in it is said and left out: there is nothing older that could be used.
    pub(crate) fn new(
        address: SocketAddr,
        folder: PathBuf,
        limits: &Limits,
        metrics: ProxyMetrics,
    ) -> Result<(Tls, Keeper), ProxyError> {
        let (keeper, certificates) = Keeper::start(folder, limits, metrics.clone());
        let tls = Tls {
            address,
            config: Arc::new(config(certificates.clone(), &[&TLS13, &TLS12], &PROTOCOLS)?),
            certificates,
            metrics,
        };
        Ok((tls, keeper))
    }

    /// The same certificates for connections over QUIC, which has no TLS before 1.3 (RFC 9001 section 4.2). Nothing is taken as early
    /// data: what was sent so can be sent again by others (RFC 8446 section 8).
    pub(crate) fn of_quic(&self) -> Result<QuicServerConfig, ProxyError> {
        let config = config(self.certificates.clone(), &[&TLS13], &PROTOCOLS_OF_QUIC)?;
        Ok(QuicServerConfig::try_from(config)?)
    }

    /// Whether a certificate names the host, in the form of a `Host` field's name without its port.
    fn names(&self, host: &str) -> bool {
        self.certificates.borrow().named(host).is_some()
    }

    /// The handshake with a client, once it has its turn. Nothing if there is no connection to be had; the client has been told
    /// why as far as TLS has a word for it.
    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
        turns: &Semaphore,
        limits: &Limits,
    ) -> Option<TlsStream<TcpStream>> {
        let deadline = Instant::now() + limits.tls_handshake;
        let handshake = async {
            // One that says nothing does not take a turn.
            socket.readable().await?;
            let _turn = turns.acquire().await.map_err(io::Error::other)?;
            self.handshake(socket).await
        };
        let (ended, stream) = match timeout_at(deadline, handshake).await {
            Ok(Ok(Some(stream))) => {
                let resumed = Some(rustls::HandshakeKind::Resumed);
                let ended = match stream.get_ref().1.handshake_kind() == resumed {
                    true => Handshake::Resumed,
                    false => Handshake::Full,
                };
                (ended, Some(stream))
            }
            Ok(Ok(None)) => (Handshake::Unnamed, None),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::TimedOut, None),
        };
        self.metrics.handshake(ended);
        stream
    }

    async fn handshake(&self, socket: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let known = {
            let name = start.client_hello().server_name().map(str::to_owned);
            self.certificates.borrow().choose(name.as_deref()).is_some()
        };
        if !known {
            start.io.write_all(&UNRECOGNIZED_NAME).await?;
            start.io.shutdown().await?;
            return Ok(None);
        }
        start.into_stream(Arc::clone(&self.config)).await.map(Some)
    }
}

fn config(
    certificates: watch::Receiver<Arc<Certificates>>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let provider = CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        ..rustls::crypto::ring::default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Chooser(certificates)));
    // A client that offers something weaker before something stronger gets the stronger all the same.
    config.ignore_client_order = true;
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// Gives each handshake the certificate of the set that is in force when it comes to that.
struct Chooser(watch::Receiver<Arc<Certificates>>);

impl std::fmt::Debug for Chooser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chooser")
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().choose(hello.server_name()).cloned()
    }
}
