//! The join token as text: `nbj1.<CA SHA-256, hex>.<id>.<secret, base64url>`.
//!
//! It lets a joiner check the cluster's CA before it sends the secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const PREFIX: &str = "nbj1";

/// A join token in the joiner's hands. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokenText {
    /// SHA-256 of the CA certificate's DER.
    pub ca_sha256: [u8; 32],
    /// Public id, as `nodectl token list` shows it.
    pub id: String,
    pub secret: [u8; 32],
}

/// The text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a join token: use the text that 'nodectl token create' printed, beginning with 'nbj1.'"
)]
pub struct BadToken;

impl std::fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinTokenText")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl JoinTokenText {
    /// The whole token, secret included: for the person who asked for it, never for a log.
    pub fn reveal(&self) -> String {
        format!(
            "{PREFIX}.{}.{}.{}",
            hex::encode(self.ca_sha256),
            self.id,
            URL_SAFE_NO_PAD.encode(self.secret)
        )
    }
}

impl std::str::FromStr for JoinTokenText {
    type Err = BadToken;
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(ca), Some(id), Some(secret), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(BadToken);
        };
        let mut ca_sha256 = [0; 32];
        hex::decode_to_slice(ca, &mut ca_sha256).map_err(|_| BadToken)?;
        let secret = URL_SAFE_NO_PAD
            .decode(secret)
            .ok()
            .and_then(|s| s.try_into().ok())
            .ok_or(BadToken)?;
        let legal =
            !id.is_empty() && id.len() <= 32 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !legal {
            return Err(BadToken);
        }
        Ok(JoinTokenText {
            ca_sha256,
            id: id.to_owned(),
            secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_hides() {
        let token = JoinTokenText {
            ca_sha256: [1; 32],
            id: "ab12".into(),
            secret: [2; 32],
        };
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.reveal()[80..]));
        for bad in [
            "",
            "nbj1",
            "nbj2.a.b.c",
            "nbj1.00.a.AA",
            &token.reveal()[..100],
        ] {
            assert_eq!(bad.parse::<JoinTokenText>(), Err(BadToken), "{bad}");
        }
    }
}
