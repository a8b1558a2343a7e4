//! The TLS configurations: TLS 1.3 only, ring only, no session resumption (a resumed session would
//! skip the checks of a certificate that has expired or been replaced since).

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::cell::Presenter;
use crate::verify::{Anchor, ClientVerifier, ServerVerifier, Trust};
use crate::{Expect, Identity, IdentityCell, PkiError, pem};

/// What both ends of a mesh connection must speak.
pub const MESH_ALPN: &[u8] = b"nebula/1";

const HTTP_ALPN: &[u8] = b"http/1.1";

/// Makes ring the process's provider, for libraries that ask for the default. First thing in `main`;
/// calling it again changes nothing. The configurations made here do not depend on it.
pub fn install_crypto_provider() {
    // An error says that one is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// For clients of the API that have the CA's certificate.
pub fn client_config(ca_pem: &str, expect: Expect) -> Result<Arc<ClientConfig>, PkiError> {
    let trust = Trust::Ca(Anchor::new(pem::certificate(ca_pem, "CA certificate")?)?);
    http_client(ServerVerifier { trust, expect })
}

/// For joiners, who have only the CA's hash from their token: the server must present the CA with
/// that SHA-256 and a node's certificate signed by it, or the handshake fails before anything is sent.
pub fn pinned_client_config(ca_sha256: [u8; 32]) -> Result<Arc<ClientConfig>, PkiError> {
    http_client(ServerVerifier {
        trust: Trust::Pin(ca_sha256),
        expect: Expect::AnyNode,
    })
}

/// For the HTTPS API: presents the node's certificate and the CA, asks for no client certificate.
pub fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>, PkiError> {
    server_config_rotating(&IdentityCell::new(identity.clone())?)
}

/// As [`server_config`], following the cell when its identity is replaced.
pub fn server_config_rotating(cell: &IdentityCell) -> Result<Arc<ServerConfig>, PkiError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Presenter {
            cell: cell.clone(),
            with_ca: true,
        }));
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    no_resumption(&mut config);
    Ok(Arc::new(config))
}

/// For the accepting end of the mesh: the other end must be a node of the cluster. Its certificate may have
/// ended within [`RENEWABLE_FOR`](crate::RENEWABLE_FOR); the mesh has to let such a node do nothing but renew it.
pub fn mesh_server_config(cell: &IdentityCell) -> Result<ServerConfig, PkiError> {
    let identity = cell.current();
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca().clone())?;
    let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| PkiError::Certificate {
            reason: error.to_string(),
        })?;
    let verifier = ClientVerifier {
        chain,
        cluster: identity.cluster().clone(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Presenter {
            cell: cell.clone(),
            with_ca: false,
        }));
    config.alpn_protocols = vec![MESH_ALPN.to_vec()];
    no_resumption(&mut config);
    Ok(config)
}

/// For the dialling end of the mesh.
pub fn mesh_client_config(cell: &IdentityCell, expect: Expect) -> Result<ClientConfig, PkiError> {
    let trust = Trust::Ca(Anchor::new(cell.current().ca().clone())?);
    let mut config = client_builder(ServerVerifier { trust, expect })?.with_client_cert_resolver(
        Arc::new(Presenter {
            cell: cell.clone(),
            with_ca: false,
        }),
    );
    config.alpn_protocols = vec![MESH_ALPN.to_vec()];
    finish(&mut config);
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client_builder(
    verifier: impl ServerCertVerifier + 'static,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, PkiError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn http_client(verifier: ServerVerifier) -> Result<Arc<ClientConfig>, PkiError> {
    let mut config = client_builder(verifier)?.with_no_client_auth();
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    finish(&mut config);
    Ok(Arc::new(config))
}

fn finish(config: &mut ClientConfig) {
    config.resumption = Resumption::disabled();
    // Names are not used, so none is sent.
    config.enable_sni = false;
}

fn no_resumption(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
}
