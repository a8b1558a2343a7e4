//! Names in certificates: `spiffe://<cluster>/node/<id>` for a node, `spiffe://<cluster>` for the CA.

use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, NodeId};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::PkiError;

const SCHEME: &str = "spiffe://";

/// SPIFFE allows 255 bytes for a trust domain; ours are far shorter.
const CLUSTER_MAX_BYTES: usize = 63;

/// The name of a node, as its certificate carries it.
pub fn spiffe(cluster: &ClusterId, node: NodeId) -> String {
    format!("{SCHEME}{cluster}/node/{node}")
}

pub(crate) fn spiffe_ca(cluster: &ClusterId) -> String {
    format!("{SCHEME}{cluster}")
}

/// Whose certificate this is. Fails unless it has exactly one subject alternative name and that is
/// the URI of a node. Says nothing about who signed it.
pub fn node_of(der: &[u8]) -> Result<(ClusterId, NodeId), PkiError> {
    let name = only_uri(&parse(der)?)?;
    parse_node(&name).ok_or(PkiError::Name { name })
}

/// When a certificate ends.
pub fn not_after(der: &[u8]) -> Result<Millis, PkiError> {
    Ok(crate::from_seconds(
        parse(der)?.validity().not_after.timestamp(),
    ))
}

/// The cluster a CA certificate was made for.
pub(crate) fn cluster_of_ca(der: &[u8]) -> Result<ClusterId, PkiError> {
    let certificate = parse(der)?;
    if !certificate.is_ca() {
        return Err(PkiError::Certificate {
            reason: "it is not a CA certificate".to_owned(),
        });
    }
    let name = only_uri(&certificate)?;
    name.strip_prefix(SCHEME)
        .filter(|cluster| is_cluster(cluster))
        .map(|cluster| ClusterId(cluster.to_owned()))
        .ok_or_else(|| PkiError::Certificate {
            reason: format!("'{name}' does not name a cluster, expected spiffe://<cluster>"),
        })
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PkiError::Certificate {
            reason: "bytes are left over after it".to_owned(),
        }),
        Err(error) => Err(PkiError::Certificate {
            reason: error.to_string(),
        }),
    }
}

pub(crate) fn check_cluster(cluster: &ClusterId) -> Result<(), PkiError> {
    if is_cluster(&cluster.0) {
        return Ok(());
    }
    Err(PkiError::ClusterName {
        cluster: cluster.0.clone(),
    })
}

fn is_cluster(text: &str) -> bool {
    (1..=CLUSTER_MAX_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn only_uri(certificate: &X509Certificate<'_>) -> Result<String, PkiError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| PkiError::Certificate {
            reason: error.to_string(),
        })?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] => Ok((*uri).to_owned()),
        [other] => Err(PkiError::Name {
            name: other.to_string(),
        }),
        _ => Err(PkiError::NameCount { count: names.len() }),
    }
}

fn parse_node(name: &str) -> Option<(ClusterId, NodeId)> {
    let (cluster, id) = name.strip_prefix(SCHEME)?.split_once("/node/")?;
    let node: u64 = id.parse().ok()?;
    // One spelling only: no sign, no leading zeros.
    if !is_cluster(cluster) || node.to_string() != id {
        return None;
    }
    Some((ClusterId(cluster.to_owned()), NodeId(node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_one_spelling() {
        let cluster = ClusterId("c-1".into());
        let name = spiffe(&cluster, NodeId(7));
        assert_eq!(name, "spiffe://c-1/node/7");
        assert_eq!(parse_node(&name), Some((cluster, NodeId(7))));
        for bad in [
            "spiffe://c-1/node/07",
            "spiffe://c-1/node/+7",
            "spiffe://c-1/node/",
            "spiffe://c-1/node/7/x",
            "spiffe://C/node/7",
            "spiffe:///node/7",
            "spiffe://c-1/node/18446744073709551616",
            "https://c-1/node/7",
            "spiffe://c-1",
        ] {
            assert_eq!(parse_node(bad), None, "{bad}");
        }
    }
}
