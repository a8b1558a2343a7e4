//! One value, sealed: ChaCha20-Poly1305 (RFC 8439) with a random nonce in front. The secret's name is authenticated with
//! it, so that one cannot be put in the place of another.

use nebula_domain::SecretName;
use nebula_domain::secret::Sealed;
use nebula_telemetry::Random;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

pub(crate) type Key = Zeroizing<[u8; 32]>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the value of the secret '{0}' cannot be sealed")]
    Seal(SecretName),
    #[error(
        "the value of the secret '{0}' cannot be opened: it was sealed by another key, or is damaged; set it again"
    )]
    Open(SecretName),
}

pub(crate) fn seal(
    key: &Key,
    name: &SecretName,
    value: &str,
    random: &Random,
) -> Result<Sealed, SealError> {
    let failed = |_| SealError::Seal(name.clone());
    let nonce = random.bytes::<NONCE_LEN>();
    let mut text = value.as_bytes().to_vec();
    let bound = Nonce::assume_unique_for_key(nonce);
    cipher(key)
        .and_then(|cipher| cipher.seal_in_place_append_tag(bound, aad(name), &mut text))
        .map_err(failed)?;
    Ok(Sealed([&nonce[..], &text].concat()))
}

pub(crate) fn open(
    key: &Key,
    name: &SecretName,
    sealed: &Sealed,
) -> Result<Zeroizing<String>, SealError> {
    let failed = || SealError::Open(name.clone());
    let (nonce, text) = sealed.0.split_first_chunk().ok_or_else(failed)?;
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let cipher = cipher(key).map_err(|_| failed())?;
    let value = cipher
        .open_in_place(nonce, aad(name), &mut text)
        .map_err(|_| failed())?;
    let value = std::str::from_utf8(value).map_err(|_| failed())?;
    Ok(Zeroizing::new(value.to_owned()))
}

fn cipher(key: &Key) -> Result<LessSafeKey, ring::error::Unspecified> {
    UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).map(LessSafeKey::new)
}

fn aad(name: &SecretName) -> Aad<Vec<u8>> {
    Aad::from([&b"secret "[..], name.as_str().as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SecretName {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_key_opens_it_and_only_under_its_name() {
        let (key, other) = (Key::new([1; 32]), Key::new([2; 32]));
        let random = Random::seeded(1);
        let sealed = seal(&key, &name("A"), "hush", &random).unwrap();
        assert_eq!(open(&key, &name("A"), &sealed).unwrap().as_str(), "hush");
        assert!(!sealed.0.windows(4).any(|part| part == b"hush"));
        let again = seal(&key, &name("A"), "hush", &random).unwrap();
        assert_ne!(sealed, again, "the same value does not look the same");

        assert!(open(&other, &name("A"), &sealed).is_err());
        assert!(open(&key, &name("B"), &sealed).is_err());
        for position in 0..sealed.0.len() {
            let mut damaged = sealed.clone();
            damaged.0[position] ^= 1;
            assert!(open(&key, &name("A"), &damaged).is_err(), "at {position}");
        }
        for length in [0, 5, NONCE_LEN, NONCE_LEN + 3] {
            let cut = Sealed(sealed.0[..length].to_vec());
            assert!(open(&key, &name("A"), &cut).is_err());
        }
    }

    #[test]
    fn sealing_adds_less_than_the_registry_allows_for() {
        let key = Key::new([1; 32]);
        let sealed = seal(&key, &name("A"), "", &Random::seeded(1)).unwrap();
        assert!(sealed.0.len() <= 64, "{}", sealed.0.len());
    }
}
