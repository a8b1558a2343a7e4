//! What makes a machine a certain node: its key, its certificate, and the CA it trusts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, NodeId};
use rcgen::CertificateParams;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use zeroize::Zeroizing;

use crate::authority::key_pair;
use crate::verify::verify_chain;
use crate::{PkiError, files, from_seconds, pem, san};

/// Inside the data folder; mode 0700.
pub(crate) const IDENTITY_DIR: &str = "identity";
pub(crate) const CA_FILE: &str = "ca.crt";
const KEY_FILE: &str = "node.key";
/// A new key waits here until its certificate is in place; see [`Identity::store`].
const NEXT_KEY_FILE: &str = "node.key.next";
const CERTIFICATE_FILE: &str = "node.crt";

/// A node's private key (ECDSA P-256). Wiped when dropped, never shown.
#[derive(Clone)]
pub struct NodeKey(Arc<Zeroizing<Vec<u8>>>);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

impl NodeKey {
    pub fn generate() -> Result<NodeKey, PkiError> {
        let key = rcgen::KeyPair::generate()?;
        Ok(NodeKey(Arc::new(Zeroizing::new(key.serialize_der()))))
    }

    /// A certificate signing request, as PEM. It proves possession of the key and asks for nothing:
    /// whoever signs decides the name.
    pub fn csr(&self) -> Result<String, PkiError> {
        let request = CertificateParams::default().serialize_request(&key_pair(&self.0)?)?;
        Ok(request.pem()?)
    }

    fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.to_vec()))
    }
}

/// A node's key and certificate, checked against each other and against the CA.
#[derive(Clone)]
pub struct Identity {
    key: NodeKey,
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    cluster: ClusterId,
    node: NodeId,
    not_before: Millis,
    not_after: Millis,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// A key for a node to be; see [`NodeKey::csr`].
    pub fn generate_key() -> Result<NodeKey, PkiError> {
        NodeKey::generate()
    }

    /// Puts together what was generated here and what the CA answered. An expired certificate is
    /// accepted (a node that slept can say who it was); [`Identity::is_expired`] tells.
    pub fn new(key: NodeKey, certificate_pem: &str, ca_pem: &str) -> Result<Identity, PkiError> {
        let certificate = pem::certificate(certificate_pem, "node certificate")?;
        let ca = pem::certificate(ca_pem, "CA certificate")?;
        let (cluster, node) = san::node_of(&certificate)?;
        let ca_cluster = san::cluster_of_ca(&ca)?;
        if cluster != ca_cluster {
            return Err(PkiError::ForeignCluster {
                ours: ca_cluster,
                asked: cluster,
            });
        }
        let parsed = san::parse(&certificate)?;
        let pair = key_pair(&key.0)?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(PkiError::KeyMismatch);
        }
        let not_before = from_seconds(parsed.validity().not_before.timestamp());
        let not_after = from_seconds(parsed.validity().not_after.timestamp());
        // Checked as of its first moment: this is about who signed it, not about today.
        let then = UnixTime::since_unix_epoch(Duration::from_millis(not_before.0));
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        verify_chain(&certificate, &roots, &[], then).map_err(|_| PkiError::ForeignCertificate)?;
        Ok(Identity {
            key,
            certificate,
            ca,
            cluster,
            node,
            not_before,
            not_after,
        })
    }

    /// Whether `dir` (the data folder) holds a node's certificate.
    pub fn exists(dir: &Path) -> bool {
        dir.join(IDENTITY_DIR).join(CERTIFICATE_FILE).exists()
    }

    /// Reads `identity/{node.key, node.crt, ca.crt}` from `dir` (the data folder).
    pub fn load(dir: &Path) -> Result<Identity, PkiError> {
        let dir = &dir.join(IDENTITY_DIR);
        let missing = |name: &str| PkiError::Missing {
            path: dir.join(name),
        };
        let certificate =
            files::read(dir, CERTIFICATE_FILE)?.ok_or_else(|| missing(CERTIFICATE_FILE))?;
        let ca = files::read(dir, CA_FILE)?.ok_or_else(|| missing(CA_FILE))?;
        let with_key = |name: &str| -> Result<Option<Identity>, PkiError> {
            let Some(text) = files::read_secret(dir, name)? else {
                return Ok(None);
            };
            let key = NodeKey(Arc::new(pem::private_key(&text, "node key")?));
            Identity::new(key, &certificate, &ca).map(Some)
        };
        match with_key(KEY_FILE) {
            Ok(Some(identity)) => Ok(identity),
            // A store was cut off after the certificate and before the key: finish it.
            result @ (Ok(None) | Err(PkiError::KeyMismatch)) => match with_key(NEXT_KEY_FILE) {
                Ok(Some(identity)) => {
                    files::rename(dir, NEXT_KEY_FILE, KEY_FILE)?;
                    Ok(identity)
                }
                _ => Err(result.err().unwrap_or_else(|| missing(KEY_FILE))),
            },
            Err(error) => Err(error),
        }
    }

    /// Writes `identity/{node.key (0600), node.crt, ca.crt}` into `dir` (the data folder). Cut off at
    /// any point, what is there still loads, as the old identity or the new one.
    pub fn store(&self, dir: &Path) -> Result<(), PkiError> {
        let dir = &dir.join(IDENTITY_DIR);
        files::prepare(dir)?;
        let key = pem::encode_key(&self.key.0);
        files::write(dir, CA_FILE, self.ca_pem().as_bytes(), files::PUBLIC)?;
        files::write(dir, NEXT_KEY_FILE, key.as_bytes(), files::SECRET)?;
        let certificate = self.certificate_pem();
        files::write(dir, CERTIFICATE_FILE, certificate.as_bytes(), files::PUBLIC)?;
        files::rename(dir, NEXT_KEY_FILE, KEY_FILE)
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    pub fn ca_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.ca)
    }

    pub fn ca_sha256(&self) -> [u8; 32] {
        pem::sha256(&self.ca)
    }

    pub fn certificate_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate)
    }

    pub fn not_before(&self) -> Millis {
        self.not_before
    }

    pub fn not_after(&self) -> Millis {
        self.not_after
    }

    pub fn is_expired(&self, now: Millis) -> bool {
        now > self.not_after
    }

    /// Time from `now` until half of the certificate's life is over, when it is to be renewed; zero
    /// when that has passed.
    pub fn half_life(&self, now: Millis) -> Duration {
        let half = self.not_after.since(self.not_before) / 2;
        self.not_before.plus(half).since(now)
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// For rustls, with the certificates to present.
    pub(crate) fn certified_key(&self, with_ca: bool) -> Result<CertifiedKey, PkiError> {
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&self.key.to_rustls())?;
        let mut chain = vec![self.certificate.clone()];
        if with_ca {
            chain.push(self.ca.clone());
        }
        Ok(CertifiedKey::new(chain, key))
    }
}
