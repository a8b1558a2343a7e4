//! TLS handshakes between the configurations, and those that must fail.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{authority, handshake, identity, identity_at, now};
use nebula_domain::NodeId;
use nebula_domain::time::Millis;
use nebula_pki::{
    Expect, IdentityCell, PkiError, client_config, mesh_client_config, mesh_server_config, node_of,
    pinned_client_config, server_config, server_config_rotating,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate made then has ended a day less ago.
fn days_ago(days: u32) -> Millis {
    Millis(now().0 - (days * DAY).as_millis() as u64)
}

#[test]
fn a_client_with_the_ca_reaches_any_node_or_the_one_it_means() {
    let ca = authority("c1");
    let server = server_config(&identity(&ca, 7)).unwrap();
    for expect in [Expect::AnyNode, Expect::Node(NodeId(7))] {
        let outcome = handshake(client_config(&ca.ca_pem(), expect).unwrap(), server.clone());
        assert_eq!(outcome.client, Ok(()));
        assert_eq!(outcome.received, b"secret");
        assert_eq!(outcome.answered, b"answer");
    }
    let wrong = client_config(&ca.ca_pem(), Expect::Node(NodeId(8))).unwrap();
    let error = handshake(wrong, server).refused_by_client();
    assert!(error.contains("expected node 8"), "{error}");
}

#[test]
fn another_ca_of_the_same_name_is_refused() {
    let server = server_config(&identity(&authority("c1"), 7)).unwrap();
    let client = client_config(&authority("c1").ca_pem(), Expect::AnyNode).unwrap();
    handshake(client, server).refused_by_client();
}

#[test]
fn expired_and_future_certificates_are_refused() {
    let ca = nebula_pki::Authority::create(&common::cluster("c1"), days_ago(40)).unwrap();
    for at in [days_ago(2), now().plus(DAY)] {
        let server = server_config(&identity_at(&ca, 7, at)).unwrap();
        let client = client_config(&ca.ca_pem(), Expect::AnyNode).unwrap();
        let error = handshake(client, server).refused_by_client();
        assert!(
            error.contains("expired") || error.contains("not valid yet"),
            "{error}"
        );
    }
}

#[test]
fn the_mesh_knows_a_node_by_a_certificate_that_ended_lately() {
    let ca = nebula_pki::Authority::create(&common::cluster("c1"), days_ago(40)).unwrap();
    let other = nebula_pki::Authority::create(&common::cluster("c1"), days_ago(40)).unwrap();
    let greets = |ca: &nebula_pki::Authority, server: &nebula_pki::Authority, at| {
        let client = IdentityCell::new(identity_at(ca, 2, at)).unwrap();
        let client = mesh_client_config(&client, Expect::AnyNode).unwrap();
        handshake(Arc::new(client), mesh(&identity(server, 1)))
            .server
            .is_ok()
    };
    assert!(greets(&ca, &ca, days_ago(3)));
    assert!(greets(&ca, &ca, days_ago(30)));
    assert!(!greets(&ca, &ca, days_ago(32)));
    assert!(!greets(&ca, &ca, now().plus(DAY)), "not valid yet");
    assert!(!greets(&other, &ca, days_ago(3)), "of another CA");
    // Never the other way round: nobody takes the word of a server whose certificate has ended.
    let client = IdentityCell::new(identity(&ca, 2)).unwrap();
    let client = mesh_client_config(&client, Expect::AnyNode).unwrap();
    let outcome = handshake(Arc::new(client), mesh(&identity_at(&ca, 1, days_ago(3))));
    outcome.refused_by_client();
}

/// A CA made by hand, to sign what ours would not.
fn sign_by_hand(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let uri = |name: &str| SanType::URI(name.to_owned().try_into().unwrap());
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://c1")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);

    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = names
        .iter()
        .map(|name| match name.strip_prefix("dns:") {
            Some(dns) => SanType::DnsName(dns.to_owned().try_into().unwrap()),
            None => uri(name),
        })
        .collect();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone(), ca.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    (ca.pem(), Arc::new(server))
}

#[test]
fn a_certificate_has_exactly_one_name() {
    let (ca, server) = sign_by_hand(&["spiffe://c1/node/1"]);
    let client = || client_config(&ca, Expect::AnyNode).unwrap();
    assert_eq!(handshake(client(), server).client, Ok(()));
    for names in [
        &["spiffe://c1/node/1", "spiffe://c1/node/2"][..],
        &["spiffe://c1/node/1", "dns:c1.example"],
        &["dns:c1.example"],
        &["spiffe://c2/node/1"],
        &["spiffe://c1/user/1"],
        &[],
    ] {
        let (ca, server) = sign_by_hand(names);
        let client = client_config(&ca, Expect::AnyNode).unwrap();
        handshake(client, server).refused_by_client();
    }
}

#[test]
fn a_joiner_knows_the_cluster_by_the_hash_of_its_ca() {
    let ca = authority("c1");
    let server = server_config(&identity(&ca, 7)).unwrap();
    let outcome = handshake(
        pinned_client_config(ca.ca_sha256()).unwrap(),
        server.clone(),
    );
    assert_eq!(outcome.client, Ok(()));
    assert_eq!(outcome.received, b"secret");

    let other = authority("c1").ca_sha256();
    handshake(pinned_client_config(other).unwrap(), server).refused_by_client();
}

#[test]
fn presenting_the_right_ca_beside_a_leaf_of_another_does_not_help() {
    let ca = authority("c1");
    let (_, genuine) = sign_by_hand(&["spiffe://c1/node/1"]);
    // The hash is of a certificate that the server does present, but that has not signed the leaf.
    let outcome = handshake(pinned_client_config(ca.ca_sha256()).unwrap(), genuine);
    outcome.refused_by_client();

    // A leaf pinned as if it were a CA.
    let leaf = identity(&ca, 7);
    let sha256 = nebula_pki::ca_sha256(&leaf.certificate_pem()).unwrap();
    let outcome = handshake(
        pinned_client_config(sha256).unwrap(),
        server_config(&leaf).unwrap(),
    );
    outcome.refused_by_client();
}

fn mesh(identity: &nebula_pki::Identity) -> Arc<ServerConfig> {
    let cell = IdentityCell::new(identity.clone()).unwrap();
    Arc::new(mesh_server_config(&cell).unwrap())
}

#[test]
fn the_mesh_wants_certificates_of_the_cluster_at_both_ends() {
    let (ca, other) = (authority("c1"), authority("c1"));
    let client = |ca, node| {
        let cell = IdentityCell::new(identity(ca, node)).unwrap();
        Arc::new(mesh_client_config(&cell, Expect::Node(NodeId(1))).unwrap())
    };
    let outcome = handshake(client(&ca, 2), mesh(&identity(&ca, 1)));
    assert_eq!(
        (outcome.client, outcome.server, outcome.received.as_slice()),
        (Ok(()), Ok(()), &b"secret"[..])
    );
    let outcome = handshake(client(&other, 2), mesh(&identity(&ca, 1)));
    outcome.refused_by_client();

    // No certificate at all.
    let mut nobody = (*client_config(&ca.ca_pem(), Expect::AnyNode).unwrap()).clone();
    nobody.alpn_protocols = vec![nebula_pki::MESH_ALPN.to_vec()];
    let outcome = handshake(Arc::new(nobody), mesh(&identity(&ca, 1)));
    assert!(outcome.server.is_err());
    assert!(outcome.received.is_empty());
}

#[test]
fn a_replaced_identity_is_presented_from_the_next_handshake_on() {
    let ca = authority("c1");
    let cell = IdentityCell::new(identity(&ca, 7)).unwrap();
    let server = server_config_rotating(&cell).unwrap();
    let client = client_config(&ca.ca_pem(), Expect::Node(NodeId(7))).unwrap();
    let before = handshake(client.clone(), server.clone());
    let renewed = identity(&ca, 7);
    cell.replace(renewed.clone()).unwrap();
    let after = handshake(client, server);
    assert_eq!(after.client, Ok(()));
    assert_ne!(before.leaf, after.leaf);
    let leaf = after.leaf.unwrap();
    assert_eq!(node_of(&leaf).unwrap().1, NodeId(7));
    assert_eq!(
        nebula_pki::certificate_pem(&leaf),
        renewed.certificate_pem()
    );

    assert!(matches!(
        cell.replace(identity(&ca, 8)),
        Err(PkiError::WrongNode { .. })
    ));
    assert!(cell.replace(identity(&authority("c1"), 7)).is_err());
}
