//! The checks of TLS handshakes: chain and validity by webpki, then the one name by [`node_of`].

use std::fmt;
use std::sync::Arc;

use nebula_domain::{ClusterId, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{PkiError, node_of, pem, san};

/// Who must be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Any node of the cluster.
    AnyNode,
    /// This node and no other.
    Node(NodeId),
}

pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}

/// Signed by one of `roots`, valid at `now`, and meant for servers.
pub(crate) fn verify_chain(
    leaf: &CertificateDer<'_>,
    roots: &RootCertStore,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms().all)
}

/// Exactly one name, of our cluster, and of the node we mean.
fn verify_name(
    leaf: &CertificateDer<'_>,
    ours: &ClusterId,
    expect: Expect,
) -> Result<(), PkiError> {
    let (cluster, node) = node_of(leaf)?;
    if cluster != *ours {
        return Err(PkiError::ForeignCluster {
            ours: ours.clone(),
            asked: cluster,
        });
    }
    match expect {
        Expect::Node(expected) if expected != node => Err(PkiError::WrongNode {
            expected,
            actual: node,
            cluster,
        }),
        _ => Ok(()),
    }
}

/// rustls prints such errors with `Debug`, on their way to a person.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Refusal(PkiError);

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

fn refuse(error: PkiError) -> Error {
    CertificateError::Other(OtherError(Arc::new(Refusal(error)))).into()
}

/// What a client trusts: a CA it has, or one whose hash it was told.
pub(crate) enum Trust {
    Ca {
        roots: RootCertStore,
        cluster: ClusterId,
    },
    Pin([u8; 32]),
}

impl Trust {
    pub(crate) fn ca(ca: CertificateDer<'static>) -> Result<Trust, PkiError> {
        let cluster = san::cluster_of_ca(&ca)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        Ok(Trust::Ca { roots, cluster })
    }
}

/// A client's view of a server of the cluster.
pub(crate) struct ServerVerifier {
    pub(crate) trust: Trust,
    pub(crate) expect: Expect,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier")
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned;
        let (roots, cluster) = match &self.trust {
            Trust::Ca { roots, cluster } => (roots, cluster),
            Trust::Pin(sha256) => {
                let ca = intermediates
                    .iter()
                    .find(|der| pem::sha256(der) == *sha256)
                    .ok_or_else(|| refuse(PkiError::OtherCa))?;
                pinned = Trust::ca(ca.clone().into_owned()).map_err(refuse)?;
                match &pinned {
                    Trust::Ca { roots, cluster } => (roots, cluster),
                    Trust::Pin(_) => return Err(CertificateError::UnknownIssuer.into()),
                }
            }
        };
        verify_chain(leaf, roots, intermediates, now)?;
        verify_name(leaf, cluster, self.expect).map_err(refuse)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// The mesh's view of whoever connects: webpki's own verifier, then the name.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
    pub(crate) cluster: ClusterId,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        verify_name(leaf, &self.cluster, Expect::AnyNode).map_err(refuse)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
