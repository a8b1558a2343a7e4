//! An authority, folders with its certificates, and clients that trust it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http_body_util::Empty;
use nebula_proxy::{Config, Http3Config, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{Answer, request, send_on, whole};
use super::{Cluster, Node, PATIENCE};

pub const BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    authority: rcgen::Certificate,
    pub folder: TempDir,
}

impl Certificates {
    pub fn new() -> Certificates {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        Certificates {
            issuer: Issuer::new(params, key),
            authority,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// With one certificate for all hosts of `example.test`.
    pub fn usual() -> Certificates {
        let certificates = Certificates::new();
        certificates.put("example", &["*.example.test"], 30);
        certificates
    }

    /// Puts a certificate that lasts for so many days, and its key, into the folder.
    pub fn put(&self, name: &str, hosts: &[&str], days: i64) -> CertificateDer<'static> {
        let (certificate, key) = self.make(hosts, days);
        self.write(&format!("{name}.key"), &key.serialize_pem());
        let chain = certificate.pem() + &self.authority.pem();
        self.write(&format!("{name}.crt"), &chain);
        certificate.der().clone()
    }

    pub fn make(&self, hosts: &[&str], days: i64) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.not_before = OffsetDateTime::now_utc() - Duration::DAY;
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// As tools that renew certificates do it: the new file takes the place of the old one at once.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.folder.path().join(format!(".{name}"));
        std::fs::write(&new, text).unwrap();
        close(&new);
        std::fs::rename(new, self.folder.path().join(name)).unwrap();
    }

    /// Makes an edge serve them, and look at the folder often.
    pub fn serve(&self, config: &mut Config) {
        config.tls = Some(TlsConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificates_dir: self.folder.path().to_owned(),
            http3: Some(Http3Config::default()),
        });
        config.limits.certificates_look = std::time::Duration::from_millis(20);
    }

    pub fn node(&self) -> Node {
        self.node_with(|_| {})
    }

    pub fn node_with(&self, adjust: impl FnOnce(&mut Config)) -> Node {
        Cluster::new().node_with(1, |config| {
            self.serve(config);
            adjust(config);
        })
    }

    pub fn caller(&self) -> Caller {
        self.caller_with(&BOTH)
    }

    /// A client that trusts the authority and remembers its sessions.
    pub fn caller_with(&self, versions: &[&'static SupportedProtocolVersion]) -> Caller {
        let suites = rustls::crypto::ring::default_provider().cipher_suites;
        self.caller_by(versions, suites)
    }

    /// One that names these suites, the ones that it likes best first.
    pub fn caller_by(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        suites: Vec<SupportedCipherSuite>,
    ) -> Caller {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = CryptoProvider {
            cipher_suites: suites,
            ..rustls::crypto::ring::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Caller(config)
    }
}

pub fn close(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

#[derive(Clone)]
pub struct Caller(pub ClientConfig);

impl Caller {
    pub async fn try_connect(
        &self,
        edge: SocketAddr,
        host: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        self.upgrade(TcpStream::connect(edge).await?, host).await
    }

    pub async fn upgrade(&self, socket: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(self.0.clone()));
        let connected = timeout(PATIENCE, connector.connect(name, socket));
        connected.await.expect("the handshake does not end")
    }

    pub async fn connect(&self, node: &Node, host: &str) -> TlsStream<TcpStream> {
        self.try_connect(node.tls.unwrap(), host).await.unwrap()
    }

    /// Asks on a connection of its own.
    pub async fn get(&self, node: &Node, host: &str, path: &str) -> Answer {
        let stream = self.connect(node, host).await;
        let request = request(Method::GET, host, path, &[]).body(Empty::<Bytes>::new());
        whole(send_on(stream, request.unwrap()).await).await
    }
}

/// What the other side has shown.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}
