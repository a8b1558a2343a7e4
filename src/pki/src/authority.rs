//! The cluster's CA: an ECDSA P-256 key that lives on the voters only, and its certificate.

use std::fmt;
use std::path::Path;

use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::identity::{CA_FILE, IDENTITY_DIR};
use crate::{
    CA_LIFETIME, CERTIFICATE_LIFETIME, CLOCK_SKEW, PkiError, SealingKey, files, pem, san, seal,
    to_time,
};

const KEY_FILE: &str = "ca.key";

/// A request for a certificate is a few hundred bytes.
const CSR_MAX_BYTES: usize = 16 * 1024;

/// An uncompressed point on P-256 (SEC 1, section 2.3.3).
const P256_POINT_BYTES: usize = 65;

/// The CA with its key: whoever holds one can make nodes.
pub struct Authority {
    cluster: ClusterId,
    key_pkcs8: Zeroizing<Vec<u8>>,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new CA for a new cluster.
    pub fn create(cluster: &ClusterId, now: Millis) -> Result<Authority, PkiError> {
        san::check_cluster(cluster)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = to_time(now)? - CLOCK_SKEW;
        params.not_after = to_time(now)? + CA_LIFETIME;
        params.serial_number = Some(serial());
        params.distinguished_name = common_name(&format!("Nebula CA of {cluster}"));
        params.subject_alt_names = vec![uri(&san::spiffe_ca(cluster))?];
        // It signs nodes, never another CA.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let key_pkcs8 = Zeroizing::new(key.serialize_der());
        Authority::from_parts(key_pkcs8, certificate.der().clone())
    }

    /// The CA whose key is `dir/ca.key` (`dir` is the data folder), or `None` when there is no such
    /// file. Fails when the key does not belong to `dir/identity/ca.crt`.
    pub fn load(dir: &Path) -> Result<Option<Authority>, PkiError> {
        let Some(key) = files::read_secret(dir, KEY_FILE)? else {
            return Ok(None);
        };
        let identity = dir.join(IDENTITY_DIR);
        let certificate = files::read(&identity, CA_FILE)?.ok_or_else(|| PkiError::Missing {
            path: identity.join(CA_FILE),
        })?;
        Authority::from_parts(
            pem::private_key(&key, "CA key")?,
            pem::certificate(&certificate, "CA certificate")?,
        )
        .map(Some)
    }

    /// Writes `identity/ca.crt`, then `ca.key` (mode 0600), into `dir` (the data folder).
    pub fn store(&self, dir: &Path) -> Result<(), PkiError> {
        let identity = dir.join(IDENTITY_DIR);
        files::prepare(&identity)?;
        let certificate = self.ca_pem();
        files::write(&identity, CA_FILE, certificate.as_bytes(), files::PUBLIC)?;
        let key = pem::encode_key(&self.key_pkcs8);
        files::write(dir, KEY_FILE, key.as_bytes(), files::SECRET)
    }

    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// The CA's certificate (public).
    pub fn ca_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate)
    }

    /// What a join token carries.
    pub fn ca_sha256(&self) -> [u8; 32] {
        pem::sha256(&self.certificate)
    }

    /// A certificate for `node`, valid for [`CERTIFICATE_LIFETIME`], as PEM. The request proves that
    /// its sender holds the key and gives the public key; names and extensions it asks for are not used.
    pub fn sign(
        &self,
        csr_pem: &str,
        cluster: &ClusterId,
        node: NodeId,
        now: Millis,
    ) -> Result<String, PkiError> {
        if *cluster != self.cluster {
            return Err(PkiError::ForeignCluster {
                ours: self.cluster.clone(),
                asked: cluster.clone(),
            });
        }
        if csr_pem.len() > CSR_MAX_BYTES {
            return Err(refused(&format!("it is over {CSR_MAX_BYTES} bytes")));
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|error| refused(&error.to_string()))?;
        let key = request.public_key;
        if *key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256
            || key.der_bytes().len() != P256_POINT_BYTES
        {
            return Err(refused("its key is not ECDSA P-256"));
        }
        let mut params = CertificateParams::default();
        params.not_before = to_time(now)? - CLOCK_SKEW;
        params.not_after = to_time(now)? + CERTIFICATE_LIFETIME;
        params.serial_number = Some(serial());
        params.distinguished_name = common_name(&format!("node {node}"));
        params.subject_alt_names = vec![uri(&san::spiffe(cluster, node))?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        Ok(pem::encode(
            "CERTIFICATE",
            params.signed_by(&key, &self.issuer)?.der(),
        ))
    }

    /// A key for another purpose, which all holders of the CA's key have and nobody else. It tells nothing of that key
    /// or of those for other purposes (BLAKE3's `derive_key`).
    pub fn derived(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(purpose, &self.key_pkcs8))
    }

    /// The CA's key, readable only by the holder of the [`SealingKey`] whose public half this is.
    pub fn seal(&self, public: &[u8; 32]) -> Result<Vec<u8>, PkiError> {
        seal::seal(public, &self.key_pkcs8)
    }

    /// Opens what [`Authority::seal`] made, and checks that it is the key of the CA in `ca_pem`.
    pub fn unseal(key: SealingKey, sealed: &[u8], ca_pem: &str) -> Result<Authority, PkiError> {
        let certificate = pem::certificate(ca_pem, "CA certificate")?;
        Authority::from_parts(key.open(sealed)?, certificate)
    }

    fn from_parts(
        key_pkcs8: Zeroizing<Vec<u8>>,
        certificate: CertificateDer<'static>,
    ) -> Result<Authority, PkiError> {
        let key = key_pair(&key_pkcs8)?;
        let cluster = san::cluster_of_ca(&certificate)?;
        if san::parse(&certificate)?
            .public_key()
            .subject_public_key
            .data
            .as_ref()
            != key.public_key_raw()
        {
            return Err(PkiError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Authority {
            cluster,
            key_pkcs8,
            certificate,
            issuer,
        })
    }
}

pub(crate) fn key_pair(pkcs8: &[u8]) -> Result<KeyPair, PkiError> {
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(pkcs8),
        &rcgen::PKCS_ECDSA_P256_SHA256,
    )?)
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn uri(text: &str) -> Result<SanType, PkiError> {
    Ok(SanType::URI(text.try_into()?))
}

/// 127 random bits: RFC 5280 section 4.1.2.2 wants a positive number of at most 20 octets.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

fn refused(reason: &str) -> PkiError {
    PkiError::Request {
        reason: reason.to_owned(),
    }
}
