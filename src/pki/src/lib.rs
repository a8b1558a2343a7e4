//! Who is who in a cluster: one CA ([`Authority`]), one short-lived certificate per node
//! ([`Identity`]), and the TLS configurations that check them.
//!
//! A node is named by exactly one subject alternative name, `spiffe://<cluster>/node/<id>`. DNS
//! names and addresses are never used to identify anything here.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod authority;
mod cell;
mod error;
mod files;
mod identity;
mod pem;
mod san;
mod seal;
mod tls;
mod verify;

pub use authority::Authority;
pub use cell::IdentityCell;
pub use error::PkiError;
pub use identity::{Identity, NodeKey};
pub use san::{node_of, not_after, spiffe};
pub use seal::SealingKey;
pub use tls::{
    MESH_ALPN, client_config, install_crypto_provider, mesh_client_config, mesh_server_config,
    pinned_client_config, server_config, server_config_rotating,
};
pub use verify::Expect;

use nebula_domain::time::Millis;
use std::time::Duration;

/// How long a node's certificate is valid. Renewal begins at half of it, so a cluster without a
/// signer goes on for at least half a day.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// For so long after its certificate ended, a node may still prove with it who it is, to get a new one:
/// machines that were off together come back by themselves. Whoever is away for longer joins again.
pub const RENEWABLE_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Certificates begin this long before they are signed: the signer's clock may be an hour ahead and another's an hour
/// behind, and both a little more.
pub const CLOCK_SKEW: Duration = Duration::from_secs((2 * 60 + 5) * 60);

/// The CA outlives the machines; it is trusted by hash and by file, so nothing renews it.
pub const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// SHA-256 of the CA certificate in `ca_pem`, as join tokens carry it.
pub fn ca_sha256(ca_pem: &str) -> Result<[u8; 32], PkiError> {
    Ok(pem::sha256(&pem::certificate(ca_pem, "CA certificate")?))
}

/// DER as PEM; for a joiner that keeps the CA certificate its server presented.
pub fn certificate_pem(der: &[u8]) -> String {
    pem::encode("CERTIFICATE", der)
}

fn to_time(at: Millis) -> Result<time::OffsetDateTime, PkiError> {
    i64::try_from(at.0 / 1000)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(PkiError::Clock { at })
}

fn from_seconds(seconds: i64) -> Millis {
    Millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}
