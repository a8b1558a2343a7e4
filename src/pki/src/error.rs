//! What can go wrong with keys and certificates. No variant carries key material.

use std::io;
use std::path::PathBuf;

use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, NodeId};

/// Why an identity was not made, loaded, stored or accepted.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error(
        "{} is missing: run 'nodectl init' for a new cluster or 'nodectl join' for an existing one",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("cannot {action} {}: check that the folder exists and belongs to this user", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the {what} is not valid PEM: restore it from a backup, or join the node again")]
    Pem { what: &'static str },
    #[error("the certificate cannot be read: {reason}")]
    Certificate { reason: String },
    #[error("the private key does not belong to the certificate: join the node again")]
    KeyMismatch,
    #[error("the node's certificate was not signed by the CA beside it: join the node again")]
    ForeignCertificate,
    #[error(
        "the CA that this server presents is not the one in the join token: check the address, and that the token is from this cluster"
    )]
    OtherCa,
    #[error("the certificate must have exactly one subject alternative name, it has {count}")]
    NameCount { count: usize },
    #[error("'{name}' does not name a node: expected spiffe://<cluster>/node/<id>")]
    Name { name: String },
    #[error("'{cluster}' cannot name a cluster: use lower-case letters, digits and dashes")]
    ClusterName { cluster: String },
    #[error("this CA belongs to cluster '{ours}' and does not sign for '{asked}'")]
    ForeignCluster { ours: ClusterId, asked: ClusterId },
    #[error(
        "the certificate is for node {actual} of '{cluster}', expected node {expected}: check the address"
    )]
    WrongNode {
        expected: NodeId,
        actual: NodeId,
        cluster: ClusterId,
    },
    #[error("the certificate signing request is refused: {reason}")]
    Request { reason: String },
    #[error("the sealed CA key cannot be opened with this key: ask a voter for it again")]
    Unseal,
    #[error("the CA key could not be sealed")]
    Seal,
    #[error("the clock says {} ms since 1970, which no certificate can hold: set the clock", at.0)]
    Clock { at: Millis },
    #[error("the certificate could not be made")]
    Generate(#[from] rcgen::Error),
    #[error("the TLS configuration could not be made")]
    Tls(#[from] rustls::Error),
}
