//! PEM in and out, and the one hash by which a CA is known.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::PkiError;

/// RFC 7468 asks for lines of 64 characters.
const LINE: usize = 64;

pub(crate) fn certificate(
    text: &str,
    what: &'static str,
) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| PkiError::Pem { what })
}

pub(crate) fn private_key(text: &str, what: &'static str) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let key =
        PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| PkiError::Pem { what })?;
    Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec()))
}

pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

pub(crate) fn encode_key(der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(encode("PRIVATE KEY", der))
}

pub(crate) fn sha256(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}
