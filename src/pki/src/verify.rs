//! The checks of TLS handshakes: chain and validity by webpki, then the one name by [`node_of`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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

use crate::{PkiError, RENEWABLE_FOR, node_of, not_after, pem, san};

/// Who must be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Any node of the cluster.
    AnyNode,
    /// This node and no other.
    Node(NodeId),
}

fn algorithms() -> WebPkiSupportedAlgorithms {
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

/// A CA, and the cluster it was made for.
pub(crate) struct Anchor {
    roots: RootCertStore,
    cluster: ClusterId,
}

impl Anchor {
    pub(crate) fn new(ca: CertificateDer<'static>) -> Result<Anchor, PkiError> {
        let cluster = san::cluster_of_ca(&ca)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        Ok(Anchor { roots, cluster })
    }
}

/// What a client trusts: a CA it has, or one whose hash it was told.
pub(crate) enum Trust {
    Ca(Anchor),
    Pin([u8; 32]),
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
        let anchor = match &self.trust {
            Trust::Ca(anchor) => anchor,
            Trust::Pin(sha256) => {
                let mut presented = intermediates.iter();
                let ca = presented
                    .find(|der| pem::sha256(der) == *sha256)
                    .ok_or_else(|| refuse(PkiError::OtherCa))?;
                pinned = Anchor::new(ca.clone().into_owned()).map_err(refuse)?;
                &pinned
            }
        };
        verify_chain(leaf, &anchor.roots, intermediates, now)?;
        verify_name(leaf, &anchor.cluster, self.expect).map_err(refuse)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
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

impl ClientVerifier {
    /// As of now, or as of the certificate's last moment if that was not long ago.
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now);
        let Err(error) = verified else {
            return verified;
        };
        let expired = matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            )
        );
        let end = Duration::from_millis(not_after(leaf).map_err(refuse)?.0);
        let ended_for = Duration::from_secs(now.as_secs()).saturating_sub(end);
        if !expired || ended_for > RENEWABLE_FOR {
            return Err(error);
        }
        let then = UnixTime::since_unix_epoch(end);
        self.chain.verify_client_cert(leaf, intermediates, then)
    }
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
        let verified = self.verify_chain(leaf, intermediates, now)?;
        verify_name(leaf, &self.cluster, Expect::AnyNode).map_err(refuse)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
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

/// Configurations offer TLS 1.3 alone; rustls asks all the same.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}
