//! Keys and certificates: what is signed, what is stored and how, and how the CA key changes hands.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::{authority, cluster, identity, identity_at, now};
use nebula_domain::NodeId;
use nebula_domain::time::Millis;
use nebula_pki::{
    Authority, CERTIFICATE_LIFETIME, CLOCK_SKEW, Identity, NodeKey, PkiError, SealingKey, node_of,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_stored_is_loaded_and_secrets_are_the_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!Identity::exists(dir.path()));
    assert!(Authority::load(dir.path()).unwrap().is_none());
    assert!(matches!(
        Identity::load(dir.path()),
        Err(PkiError::Missing { .. })
    ));

    let ca = authority("c1");
    let stored = identity(&ca, 7);
    ca.store(dir.path()).unwrap();
    stored.store(dir.path()).unwrap();

    let loaded = Identity::load(dir.path()).unwrap();
    assert!(Identity::exists(dir.path()));
    assert_eq!(loaded.node(), NodeId(7));
    assert_eq!(loaded.cluster(), &cluster("c1"));
    assert_eq!(loaded.certificate_pem(), stored.certificate_pem());
    let loaded = Authority::load(dir.path()).unwrap().unwrap();
    assert_eq!(loaded.ca_sha256(), ca.ca_sha256());
    assert_eq!(
        nebula_pki::ca_sha256(&loaded.ca_pem()).unwrap(),
        ca.ca_sha256()
    );
    identity(&loaded, 8);

    assert_eq!(mode(&dir.path().join("ca.key")), 0o600);
    assert_eq!(mode(&dir.path().join("identity")), 0o700);
    assert_eq!(mode(&dir.path().join("identity/node.key")), 0o600);
    let names: Vec<_> = fs::read_dir(dir.path().join("identity"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "nothing temporary is left: {names:?}");
}

#[test]
fn a_key_that_others_could_read_is_closed_on_loading() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("identity/node.key");
    identity(&authority("c1"), 7).store(dir.path()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    Identity::load(dir.path()).unwrap();
    assert_eq!(mode(&key), 0o600);
}

#[test]
fn a_renewal_cut_off_between_certificate_and_key_still_loads() {
    let ca = authority("c1");
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    identity(&ca, 7).store(old.path()).unwrap();
    let renewed = identity(&ca, 7);
    renewed.store(new.path()).unwrap();
    let (old_dir, new_dir) = (old.path().join("identity"), new.path().join("identity"));
    // The moment before the last rename: new certificate, old key, new key waiting.
    fs::copy(new_dir.join("node.crt"), old_dir.join("node.crt")).unwrap();
    assert!(matches!(
        Identity::load(old.path()),
        Err(PkiError::KeyMismatch)
    ));
    fs::copy(new_dir.join("node.key"), old_dir.join("node.key.next")).unwrap();
    for _ in 0..2 {
        let loaded = Identity::load(old.path()).unwrap();
        assert_eq!(loaded.certificate_pem(), renewed.certificate_pem());
    }
    assert!(!old_dir.join("node.key.next").exists());
}

#[test]
fn the_ca_decides_the_name_and_the_request_gives_only_the_key() {
    let ca = authority("c1");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(
        "spiffe://c1/node/1".to_owned().try_into().unwrap(),
    ));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();

    let signed = der(&ca.sign(&csr, &cluster("c1"), NodeId(9), now()).unwrap());
    assert_eq!(node_of(&signed).unwrap(), (cluster("c1"), NodeId(9)));
    let (_, parsed) = x509_parser::parse_x509_certificate(&signed).unwrap();
    assert!(!parsed.is_ca());
    assert_eq!(
        parsed
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        1
    );
    assert_eq!(
        parsed.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let ca = authority("c1");
    let sign = |csr: &str| ca.sign(csr, &cluster("c1"), NodeId(9), now());

    // The key of one request under the signature of another.
    let mut bytes = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(
        NodeKey::generate().unwrap().csr().unwrap().as_bytes(),
    )
    .unwrap()
    .to_vec();
    let place = bytes.len() - 5;
    bytes[place] ^= 1;
    let forged = nebula_pki::certificate_pem(&bytes).replace("CERTIFICATE", "CERTIFICATE REQUEST");
    assert!(matches!(sign(&forged), Err(PkiError::Request { .. })));

    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&other)
        .unwrap();
    assert!(matches!(
        sign(&csr.pem().unwrap()),
        Err(PkiError::Request { .. })
    ));
    assert!(matches!(sign("rubbish"), Err(PkiError::Request { .. })));
    assert!(matches!(
        sign(&"x".repeat(1 << 20)),
        Err(PkiError::Request { .. })
    ));

    let csr = NodeKey::generate().unwrap().csr().unwrap();
    assert!(matches!(
        ca.sign(&csr, &cluster("c2"), NodeId(9), now()),
        Err(PkiError::ForeignCluster { .. })
    ));
    assert!(matches!(
        Authority::create(&cluster("C 1"), now()),
        Err(PkiError::ClusterName { .. })
    ));
}

#[test]
fn certificates_live_a_day_and_are_renewed_at_half() {
    let at = Millis(1_700_000_000_000);
    let identity = identity_at(&authority("c1"), 3, at);
    assert_eq!(identity.not_after(), at.plus(CERTIFICATE_LIFETIME));
    assert_eq!(at.since(identity.not_before()), CLOCK_SKEW);
    let half = identity.half_life(at);
    let expected = Duration::from_secs(12 * 60 * 60);
    assert!(half > expected - CLOCK_SKEW && half <= expected, "{half:?}");
    assert_eq!(identity.half_life(at.plus(expected)), Duration::ZERO);
    assert!(!identity.is_expired(at));
    assert!(identity.is_expired(at.plus(CERTIFICATE_LIFETIME).plus(Duration::from_secs(1))));
}

#[test]
fn an_identity_must_fit_its_key_and_its_ca() {
    let (ours, theirs) = (authority("c1"), authority("c1"));
    let key = NodeKey::generate().unwrap();
    let certificate = ours
        .sign(&key.csr().unwrap(), &cluster("c1"), NodeId(1), now())
        .unwrap();
    let other_key = NodeKey::generate().unwrap();
    assert!(matches!(
        Identity::new(other_key, &certificate, &ours.ca_pem()),
        Err(PkiError::KeyMismatch)
    ));
    assert!(matches!(
        Identity::new(key, &certificate, &theirs.ca_pem()),
        Err(PkiError::ForeignCertificate)
    ));
}

#[test]
fn the_ca_key_travels_sealed_and_is_checked_on_arrival() {
    let ca = authority("c1");
    let recipient = SealingKey::generate();
    let sealed = ca.seal(&recipient.public()).unwrap();
    let received = Authority::unseal(recipient, &sealed, &ca.ca_pem()).unwrap();
    // What the recipient signs is accepted under the same CA certificate.
    let key = NodeKey::generate().unwrap();
    let certificate = received
        .sign(&key.csr().unwrap(), &cluster("c1"), NodeId(4), now())
        .unwrap();
    Identity::new(key, &certificate, &ca.ca_pem()).unwrap();

    let someone_else = SealingKey::generate();
    assert!(matches!(
        Authority::unseal(someone_else, &sealed, &ca.ca_pem()),
        Err(PkiError::Unseal)
    ));
    let recipient = SealingKey::generate();
    let mut tampered = ca.seal(&recipient.public()).unwrap();
    *tampered.last_mut().unwrap() ^= 1;
    assert!(matches!(
        Authority::unseal(recipient, &tampered, &ca.ca_pem()),
        Err(PkiError::Unseal)
    ));
    let recipient = SealingKey::generate();
    let foreign = authority("c1").seal(&recipient.public()).unwrap();
    assert!(matches!(
        Authority::unseal(recipient, &foreign, &ca.ca_pem()),
        Err(PkiError::KeyMismatch)
    ));
}

#[test]
fn debug_shows_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority("c1");
    ca.store(dir.path()).unwrap();
    let pem = fs::read_to_string(dir.path().join("ca.key")).unwrap();
    let inside: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(inside.len() > 100);
    let shown = format!(
        "{ca:?} {:?} {:?} {:?}",
        identity(&ca, 1),
        NodeKey::generate().unwrap(),
        SealingKey::generate()
    );
    assert!(shown.len() < 400, "{shown}");
}
