//! Handing the CA key to another voter: a libsodium sealed box, opened by an ephemeral key that the
//! recipient makes for this one hand-over.

use std::fmt;

use crypto_box::aead::OsRng;
use crypto_box::{PublicKey, SecretKey};
use zeroize::Zeroizing;

use crate::PkiError;

/// The recipient's half. Used once: opening consumes it.
pub struct SealingKey(SecretKey);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

impl SealingKey {
    pub fn generate() -> SealingKey {
        SealingKey(SecretKey::generate(&mut OsRng))
    }

    /// What the holder of the secret seals for.
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key().to_bytes()
    }

    pub(crate) fn open(self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, PkiError> {
        self.0
            .unseal(sealed)
            .map(Zeroizing::new)
            .map_err(|_| PkiError::Unseal)
    }
}

pub(crate) fn seal(public: &[u8; 32], secret: &[u8]) -> Result<Vec<u8>, PkiError> {
    PublicKey::from_bytes(*public)
        .seal(&mut OsRng, secret)
        .map_err(|_| PkiError::Seal)
}
