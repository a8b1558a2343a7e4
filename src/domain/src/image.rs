//! Container images: which one a deployment runs. What is in it is the artifact's business.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;

/// Longest name of an image. Docker's references have at most 255 characters.
pub const IMAGE_NAME_BYTES: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ImageError {
    #[error(
        "'{0}' is no digest of an image: it is 'sha256:' and 64 hexadecimal digits in lower case"
    )]
    Digest(String),
    #[error(
        "the image's name has to have 1 to {IMAGE_NAME_BYTES} printable characters without spaces"
    )]
    Name,
    #[error(
        "isolation.profile is 'none', and an image needs isolation, because its files take the place of the machine's"
    )]
    Isolation,
}

/// SHA-256, as images name their parts by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageDigest(pub [u8; 32]);

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageDigest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<ImageDigest, ImageError> {
        let mut bytes = [0; 32];
        let digits = text.strip_prefix("sha256:");
        let digits = digits.filter(|digits| !digits.bytes().any(|b| b.is_ascii_uppercase()));
        digits
            .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
            .ok_or_else(|| ImageError::Digest(excerpt(text)))?;
        Ok(ImageDigest(bytes))
    }
}

/// The image that a deployment runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What people call it, such as `shop:1.4`.
    pub name: String,
    /// Of its configuration, which names all of its layers: what Docker calls the image's id.
    pub digest: ImageDigest,
}

impl Image {
    pub fn check(&self) -> Result<(), ImageError> {
        let legal = (1..=IMAGE_NAME_BYTES).contains(&self.name.len())
            && !self
                .name
                .chars()
                .any(|c| c.is_control() || c.is_whitespace());
        legal.then_some(()).ok_or(ImageError::Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_and_nothing_else_is_one() {
        let digest = ImageDigest([0xab; 32]);
        let text = digest.to_string();
        assert_eq!(text.parse(), Ok(digest));
        for bad in [
            "",
            "sha256:",
            "sha256:ab",
            &text[7..],
            &text.to_uppercase(),
            &text.replace("ab", "AB"),
            &format!("{text}00"),
        ] {
            assert!(bad.parse::<ImageDigest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_short_and_printable() {
        let named = |name: &str| Image {
            name: name.to_owned(),
            digest: ImageDigest([0; 32]),
        };
        for good in ["shop", "shop:1.4", "registry.test:5000/a/b@c"] {
            assert_eq!(named(good).check(), Ok(()));
        }
        for bad in ["", "a b", "a\nb", "a\u{7f}", &"x".repeat(256)] {
            assert_eq!(named(bad).check(), Err(ImageError::Name), "{bad:?}");
        }
    }
}
