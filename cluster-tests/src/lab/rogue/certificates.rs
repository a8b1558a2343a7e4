//! Certificates that a cluster's CA never made, made with its key or with that of another CA.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use nebula_domain::ClusterId;
use nebula_domain::time::Millis;
use nebula_pki::Authority;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

/// What a peer shows, and the key to it.
pub struct Credentials {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Those of the node whose data folder this is.
    pub fn of_node(data_dir: &Path) -> anyhow::Result<Credentials> {
        let dir = data_dir.join("identity");
        Ok(Credentials {
            certificate: CertificateDer::from_pem_file(dir.join("node.crt"))?,
            key: PrivateKeyDer::from_pem_file(dir.join("node.key"))?,
        })
    }
}

/// A CA's key in the wrong hands.
pub struct Forge {
    issuer: Issuer<'static, KeyPair>,
    cluster: ClusterId,
}

impl Forge {
    /// With the key of the voter whose data folder this is.
    pub fn of_voter(data_dir: &Path) -> anyhow::Result<Forge> {
        let authority = Authority::load(data_dir)?.context("the voter has no CA key")?;
        let key = std::fs::read_to_string(data_dir.join("ca.key"))?;
        Ok(Forge {
            issuer: Issuer::from_ca_cert_pem(&authority.ca_pem(), KeyPair::from_pem(&key)?)?,
            cluster: authority.cluster().clone(),
        })
    }

    /// A CA of its own that claims to be the same cluster's.
    pub fn impostor(&self) -> anyhow::Result<Forge> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let dir = tempfile::tempdir()?;
        let authority = Authority::create(&self.cluster, Millis(u64::try_from(now)?))?;
        authority.store(dir.path())?;
        Forge::of_voter(dir.path())
    }

    pub fn node_name(&self, node: u64) -> String {
        format!("spiffe://{}/node/{node}", self.cluster)
    }

    /// For these names, valid for a day that began so long ago.
    pub fn sign(&self, names: &[String], begun: Duration) -> anyhow::Result<Credentials> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::now_utc() - begun;
        params.not_after = params.not_before + Duration::from_secs(24 * 60 * 60);
        let uri = |name: &String| Ok(SanType::URI(name.as_str().try_into()?));
        params.subject_alt_names = names.iter().map(uri).collect::<anyhow::Result<_>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credentials {
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?,
        })
    }

    /// One that the cluster itself would have made.
    pub fn node(&self, node: u64) -> anyhow::Result<Credentials> {
        self.sign(&[self.node_name(node)], Duration::from_secs(60))
    }
}
